"""What a Jetson can and cannot do for a profile, file by file; nothing is written, nothing is woken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cardlab.core.errors import CardlabError
from cardlab.profilers.board.host import host_memory
from cardlab.profilers.board.ina3221 import monitors
from cardlab.profilers.board.limits import fan_words
from cardlab.profilers.board.modules import memory_bucket
from cardlab.profilers.board.rails import double_count_w, total_name, total_parts
from cardlab.profilers.board.tegra import CONTAINER_FLAGS
from cardlab.profilers.devices.device import Probe
from cardlab.profilers.devices.identity import identity_probe
from cardlab.profilers.devices.jetson.gpu import frequency_hz
from cardlab.profilers.devices.jetson.jtop import find_jtop, find_tegrastats

if TYPE_CHECKING:
    from cardlab.profilers.devices.jetson.device import JetsonDevice


def probes(device: JetsonDevice) -> tuple[Probe, ...]:
    """One probe a capability."""
    return (
        _device(device),
        identity_probe(device.key),
        _release(device),
        _memory(device),
        _mode(device),
        _gpu(device),
        _frequencies(device),
        _memory_frequency(device),
        _cpu_frequency(device),
        *_power(device),
        _second(device),
        _third(),
        _limits(device),
        _temperature(device),
        _fan(device),
    )


def _device(device: JetsonDevice) -> Probe:
    tegra, identity = device.tegra, device.identity
    if tegra.masked:
        state = f"{identity.model}: a Jetson in a container without its device tree, cores are N/A"
        return Probe(name="device", ok=False, state=state, remedy=f"start it with {CONTAINER_FLAGS}")
    if tegra.board is None:
        return Probe(
            name="device",
            ok=False,
            state=f"{identity.model}: unknown module, cores are N/A",
            remedy="send the output of: profile-device capture",
        )
    active = device.cores_active()
    state = f"{identity.model} ({tegra.part}), {identity.cores} cores"
    return Probe(name="device", ok=True, state=state if active == identity.cores else f"{state}, {active} switched on")


def _release(device: JetsonDevice) -> Probe:
    tegra = device.tegra
    if tegra.l4t is None:
        remedy = "in a container: -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro"
        return Probe(name="release", ok=None, state="L4T release N/A", remedy=remedy)
    return Probe(name="release", ok=True, state=f"L4T {tegra.l4t}, JetPack {tegra.jetpack or 'N/A'}")


def _memory(device: JetsonDevice) -> Probe:
    memory = host_memory(device.root)
    if memory.total_bytes is None or memory.free_bytes is None:
        return Probe(name="memory", ok=None, state="N/A")
    board = device.tegra.board
    bucket = "unknown" if board is None else memory_bucket(board, memory.host_bytes) or "unknown"
    return Probe(name="memory", ok=True, state=f"{bucket} module, {memory.words()}")


def _mode(device: JetsonDevice) -> Probe:
    mode = device.mode
    if mode is None:
        remedy = "in a container: -v /etc/nvpmodel.conf:/etc/nvpmodel.conf:ro -v /var/lib/nvpmodel:/var/lib/nvpmodel:ro"
        return Probe(name="power mode", ok=None, state="N/A", remedy=remedy)
    cap = "no cap of the GPU" if mode.gpu_max_hz is None else f"GPU up to {mode.gpu_max_hz / 1e6:.0f} MHz"
    return Probe(name="power mode", ok=True, state=f"{mode.name} (id {mode.number}): {cap}")


def _gpu(device: JetsonDevice) -> Probe:
    gpu = device.gpu
    if gpu is None:
        remedy = "look for nvgpu in dmesg; in a container: -v /sys:/sys"
        return Probe(name="GPU", ok=False, state="the kernel publishes no frequency of a GPU", remedy=remedy)
    # A GPU at rest that is switched off has no frequency: that is no fault.
    if gpu.switched_off():
        return Probe(
            name="GPU",
            ok=None,
            state="switched off at rest (railgated): its frequency is read under load only",
            remedy=f"to keep it on: echo on | sudo tee {gpu.folder}/device/power/control",
        )
    hz = frequency_hz(gpu)
    return Probe(name="GPU", ok=True, state="frequency N/A" if hz is None else f"{hz / 1e6:.0f} MHz now")


def _frequencies(device: JetsonDevice) -> Probe:
    rights, gpu = device.rights, device.gpu
    if gpu is None or not gpu.table_hz:
        return Probe(name="frequency control", ok=None, state="no frequencies are listed: measured as found")
    if rights.route is None:
        state = f"{rights.state}: measured as found"
        return Probe(name="frequency control", ok=False, state=state, remedy=rights.remedy)
    offered = device.frequencies()
    state = f"{len(offered)} frequencies, {offered[0] / 1e6:.0f} .. {offered[-1] / 1e6:.0f} MHz, {rights.state}"
    beyond = len(gpu.table_hz) - len(offered)
    return Probe(
        name="frequency control", ok=True, state=f"{state}; {beyond} more in other power modes" if beyond else state
    )


def _memory_frequency(device: JetsonDevice) -> Probe:
    hz = device.memory_hz()
    if hz is None:
        remedy = "run as root; in a container: -v /sys/kernel/debug:/sys/kernel/debug"
        return Probe(
            name="memory frequency", ok=False, state="may not be read: neither held nor recorded", remedy=remedy
        )
    return Probe(name="memory frequency", ok=True, state=f"{hz / 1e6:.0f} MHz now, held at its highest in a sweep")


def _cpu_frequency(device: JetsonDevice) -> Probe:
    hz = device.cpu_hz()
    if hz is None:
        return Probe(name="CPU frequency", ok=None, state="N/A")
    return Probe(name="CPU frequency", ok=True, state=f"{hz / 1e6:.0f} MHz now, held at its highest in a sweep")


def _power(device: JetsonDevice) -> Iterator[Probe]:
    meter = device.meter
    if meter is None:
        yield _no_power(device)
        return
    source = meter.source
    names = source.rails()
    parts = total_parts(names)
    total = f"total {total_name(parts)}" if parts else "no total"
    state = f"{source.words}: {', '.join(names)}; {total}, averaging over {source.update_s:g} s"
    yield Probe(name="power meter", ok=bool(parts), state=state, remedy=None if parts else _UNKNOWN_RAILS)
    try:
        twice = double_count_w(source.read())
    except CardlabError:
        return
    for name, watts in twice.items():
        words = f"{name} ({watts:.2f} W now) is fed from the total's rails and not added again, as jtop's total does"
        yield Probe(name="total", ok=True, state=words)


_UNKNOWN_RAILS = "send the output of: profile-device capture"


def _no_power(device: JetsonDevice) -> Probe:
    board = device.tegra.board
    if board is not None and not board.power_monitor:
        return Probe(name="power meter", ok=None, state="this module has no INA3221: power is N/A")
    if monitors(device.root):
        state = device.power_problem or "an INA3221 without a connected channel: power is N/A"
        return Probe(name="power meter", ok=False, state=state, remedy=_UNKNOWN_RAILS)
    return Probe(
        name="power meter",
        ok=False,
        state=device.power_problem or "no INA3221 driver: power is N/A",
        remedy="sudo modprobe ina3221; in a container: -v /sys:/sys, or -v /run/jtop.sock:/run/jtop.sock",
    )


def _second(device: JetsonDevice) -> Probe:
    found = find_jtop(device.root)
    return Probe(name="jtop", ok=found.usable, state=found.state, remedy=found.remedy)


def _third() -> Probe:
    found = find_tegrastats()
    return Probe(name="tegrastats", ok=found.usable, state=found.state, remedy=found.remedy)


def _limits(device: JetsonDevice) -> Probe:
    events = device.watch.events()
    if not events and not device.watch.coolers:
        return Probe(name="throttle signs", ok=None, state="neither over-current counters nor cooling devices")
    counts = ", ".join(f"OC{n} {count}" for n, count in sorted(events.items())) or "no over-current counters"
    state = f"{counts} since boot; {len(device.watch.coolers)} cooling devices"
    return Probe(name="throttle signs", ok=True, state=state)


def _temperature(device: JetsonDevice) -> Probe:
    celsius = device.watch.temperature_c()
    if celsius is None:
        return Probe(name="temperature", ok=None, state="N/A: no zone of the GPU answers")
    return Probe(name="temperature", ok=True, state=f"{celsius:.0f} C")


def _fan(device: JetsonDevice) -> Probe:
    words = fan_words(device.root)
    return Probe(name="fan", ok=None if words is None else True, state=words or "none found")
