"""What an NVIDIA card can and cannot do for a profile, call by call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cardlab.profilers.devices.device import Probe
from cardlab.profilers.devices.nvidia.nvml import Card
from cardlab.profilers.devices.nvidia.power import TICK_S

if TYPE_CHECKING:
    from cardlab.profilers.devices.nvidia.device import NvidiaDevice

_WATCH_S = 0.6
_SOURCES = {
    "counter": "total-energy counter, tick to tick; instant samples as a check",
    "instant": "instant power field: no energy counter here",
    "average": "one-second average: neither energy counter nor instant field here",
}


def probes(device: NvidiaDevice) -> tuple[Probe, ...]:
    """One probe a capability; reads only."""
    return (
        *_device(device),
        _power(device),
        _frequencies(device),
        *_reads(device.card),
        _others(device.card),
        *_mig(device),
    )


def _device(device: NvidiaDevice) -> Iterator[Probe]:
    identity = device.identity
    limit = identity.power_limit_w
    words = f"{identity.model}, {identity.cores or 'N/A'} cores"
    yield Probe(name="device", ok=True, state=words if limit is None else f"{words}, limit {limit:g} W")
    yield Probe(name="identity", ok=True, state=identity.key)
    yield Probe(name="driver", ok=True, state=identity.driver or "N/A")
    yield _memory(device)


def _memory(device: NvidiaDevice) -> Probe:
    memory = device.memory()
    if memory.total_bytes is None:
        remedy = "give it by profile-device --memory-budget-gib, else no plan limits the memory of this card"
        return Probe(name="memory", ok=None, state="N/A: NVML does not report it", remedy=remedy)
    # Only /proc/meminfo gives the memory of a host.
    shared = "" if memory.host_bytes is None else ", shared with the CPU (/proc/meminfo; NVML reports none)"
    return Probe(name="memory", ok=True, state=memory.words() + shared)


def _power(device: NvidiaDevice) -> Probe:
    if device.mig:
        return Probe(
            name="power meter",
            ok=False,
            state="NVML measures the whole card, not a MIG instance",
            remedy=f"sudo nvidia-smi -i {device.card.index} -mig 0",
        )
    if device.power_source is None:
        return _lack(device.card, "power meter", "nvmlDeviceGetTotalEnergyConsumption", "no source of power")
    if device.power_source == "counter" and _stands_still(device):
        return Probe(
            name="power meter",
            ok=False,
            state="the total-energy counter stands still: the instant power field is used",
            remedy="update the NVIDIA driver",
        )
    return Probe(name="power meter", ok=True, state=_SOURCES[device.power_source])


def _stands_still(device: NvidiaDevice) -> bool:
    """Whether the counter did not move for several ticks; a card draws power also while it idles."""
    first_j, end_s = device.card.energy_j(), device.timer.now() + _WATCH_S
    while device.timer.now() < end_s:
        device.timer.sleep(TICK_S / 4)
        if device.card.energy_j() != first_j:
            return False
    return True


def _frequencies(device: NvidiaDevice) -> Probe:
    if not device.supported_hz:
        names = ("nvmlDeviceGetSupportedMemoryClocks", "nvmlDeviceGetSupportedGraphicsClocks")
        name = next((n for n in names if n in device.card.lacks), names[0])
        return _lack(device.card, "frequency control", name, "no frequencies are listed: measured as found")
    rights = device.rights
    if rights.route is None:
        return Probe(
            name="frequency control", ok=False, state=f"{rights.state}: measured as found", remedy=rights.remedy
        )
    low, high = device.supported_hz[0] / 1e6, device.supported_hz[-1] / 1e6
    state = f"{len(device.supported_hz)} frequencies, {low:.0f} .. {high:.0f} MHz, {rights.state}"
    return Probe(name="frequency control", ok=True, state=state)


def _reads(card: Card) -> Iterator[Probe]:
    hz, memory_hz = card.frequency_hz(1), card.frequency_hz(2)
    yield _read(card, "frequency", None if hz is None else f"{hz / 1e6:.0f} MHz now", "nvmlDeviceGetClockInfo")
    words = None if memory_hz is None else f"{memory_hz / 1e6:.0f} MHz now"
    yield _read(card, "memory frequency", words, "nvmlDeviceGetClockInfo")
    celsius = card.temperature_c()
    words = None if celsius is None else f"{celsius:.0f} C"
    yield _read(card, "temperature", words, "nvmlDeviceGetTemperature")
    bits = card.event_reasons()
    words = None if bits is None else f"readable, {bits:#x} now"
    yield _read(card, "throttle reasons", words, "nvmlDeviceGetCurrentClocksEventReasons")
    counters = card.throttled_s()
    words = ", ".join(counters) or None
    yield _read(card, "throttle counters", words, "nvmlDeviceGetFieldValues")
    watts = card.instant_w()
    words = None if watts is None else f"{watts:.1f} W now"
    yield _read(card, "instant power", words, "nvmlDeviceGetFieldValues")


def _read(card: Card, name: str, state: str | None, call: str) -> Probe:
    return _lack(card, name, call, "N/A") if state is None else Probe(name=name, ok=True, state=state)


def _lack(card: Card, name: str, call: str, words: str) -> Probe:
    error = card.lacks.get(call)
    if error is None:
        return Probe(name=name, ok=None, state=f"{words}: the card does not report it")
    return Probe(name=name, ok=False, state=f"{words}: {error.message}", remedy=error.remedy)


def _others(card: Card) -> Probe:
    others = card.other_processes()
    if others is None:
        return _lack(card, "other processes", "nvmlDeviceGetComputeRunningProcesses", "unknown")
    if others:
        words = f"process {', '.join(map(str, others))} on the card"
        return Probe(name="other processes", ok=False, state=words, remedy="end them before measuring")
    return Probe(name="other processes", ok=True, state="none")


def _mig(device: NvidiaDevice) -> Iterator[Probe]:
    if device.mig is not None:
        remedy = f"sudo nvidia-smi -i {device.card.index} -mig 0" if device.mig else None
        yield Probe(name="MIG", ok=not device.mig, state="on" if device.mig else "off", remedy=remedy)
