"""The host's CPU. A machine without frequency control or power meter is a normal case."""

from __future__ import annotations

import os
import platform as host_platform
from pathlib import Path

from cardlab.core.quantity import MEASURED
from cardlab.core.records.device import Device
from cardlab.profilers.board.files import read_text
from cardlab.profilers.board.host import cpu_cores, cpu_model, host_boot, host_memory, memory_bytes, usable_cpus
from cardlab.profilers.board.sampler import Sampler, ThreadSampler
from cardlab.profilers.board.timer import ElapsedTimer, Timer, WallTimer
from cardlab.profilers.devices import helper
from cardlab.profilers.devices.cpu import power as rapl
from cardlab.profilers.devices.cpu.frequency import CpuFrequency, through_helper
from cardlab.profilers.devices.device import HardwareDevice, Probe, State
from cardlab.profilers.devices.guard import FrequencyGuard
from cardlab.profilers.devices.identity import device_key, identity_probe, identity_problem

_CPUFREQ = "sys/devices/system/cpu/cpu0/cpufreq"


class CpuDevice(HardwareDevice):
    """The processor this process runs on.

    Args:
        sysfs_root: root of /sys, /proc and /etc.
        label: name of the device; the host's name by default.
        timer, sampler: wall timer and a thread unless a test brings its own.
    """

    def __init__(
        self,
        sysfs_root: str | Path = "/",
        label: str | None = None,
        *,
        timer: Timer | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        self._root = Path(sysfs_root)
        key = device_key("cpu", self._root)
        self.name = "cpu"
        self.key, self.identity_problem = key, identity_problem(key)
        total_bytes, _ = memory_bytes(self._root)
        self._control = self._find_control()
        self._zones = rapl.find_zones(self._root)
        self.identity = Device(
            key=key.key,
            name=label or host_platform.node() or "host",
            platform="cpu",
            model=cpu_model(self._root),
            cores=cpu_cores(self._root),
            # The hardware's own ends: scaling_min_freq and scaling_max_freq are what somebody has set.
            frequency_min_hz=self._cpufreq_hz("cpuinfo_min_freq"),
            frequency_max_hz=self._cpufreq_hz("cpuinfo_max_freq"),
            memory_bytes=total_bytes,
            details={"logical_cpus": os.cpu_count(), "machine": host_platform.machine()},
        )
        self.timer = timer or WallTimer()
        self.lap_timer = ElapsedTimer(self.timer)
        if rapl.readable(self._zones):
            self.meter = rapl.RaplMeter(self._zones, self.timer, sampler or ThreadSampler())
        if self._control.writable and self._control.frequencies():
            self.guard = FrequencyGuard(key.key, self.name, self._control)
        self.provenance = MEASURED
        self.torch_device = "cpu"

    def frequencies(self) -> tuple[float, ...]:
        """Frequencies of cpufreq; empty where it is not there or may not be written."""
        return () if self.guard is None else self._control.frequencies()

    def capabilities(self) -> tuple[Probe, ...]:
        """Identity, frequency, memory and power meter as found."""
        memory = host_memory(self._root)
        return (
            Probe(
                name="device",
                ok=True,
                state=f"{self.identity.model or 'unknown CPU'}, {self.identity.cores or 'N/A'} cores,"
                f" {usable_cpus(self._root)} processor(s) for this process",
            ),
            identity_probe(self.key),
            Probe(name="memory", ok=None if memory.total_bytes is None else True, state=memory.words()),
            self._frequency_probe(),
            self._power_probe(),
        )

    def state(self) -> State:
        """The CPU frequency where the kernel publishes it."""
        frequency = self._control.read_hz()
        return State(frequency_hz=frequency, cpu_hz=frequency, cores_active=self.identity.cores)

    def boot(self) -> str | None:
        """That of the host below the root."""
        return host_boot(self._root)

    def memory_available_bytes(self) -> int | None:
        """MemAvailable of the kernel, or what the control group has left where that is less."""
        return memory_bytes(self._root)[1]

    def _cpufreq_hz(self, name: str) -> float | None:
        text = read_text(self._root / _CPUFREQ / name)
        return float(text) * 1e3 if text and text.isdigit() else None

    def _find_control(self) -> CpuFrequency:
        frequencies = CpuFrequency(self._root)
        # Asking the helper starts a process: only where it would help.
        if frequencies.present and not frequencies.writable and self._root == Path("/") and helper.helper_answers():
            return CpuFrequency(self._root, through_helper)
        return frequencies

    def _frequency_probe(self) -> Probe:
        frequency = self.state().frequency_hz
        now = "" if frequency is None else f"{frequency / 1e6:.0f} MHz now, "
        if self.guard is not None:
            return Probe(
                name="frequency", ok=True, state=f"{now}{len(self.frequencies())} frequencies can be requested"
            )
        if not self._control.present:
            return Probe(name="frequency", ok=None, state="the kernel publishes no CPU frequency here")
        if not self._control.frequencies():
            return Probe(name="frequency", ok=None, state=f"{now}measured as found: no frequencies are listed")
        state = f"{now}measured as found: this user may not set it"
        return Probe(name="frequency", ok=False, state=state, remedy=helper.remedy())

    def _power_probe(self) -> Probe:
        if self.meter is not None:
            names = ", ".join(rail.name for rail in self.meter.rails)
            return Probe(name="power meter", ok=True, state=f"RAPL: {names}, every {rapl.UPDATE_S:g} s")
        if any(zone.name.startswith("package") for zone in self._zones):
            state = "RAPL is there, this user may not read it: power is N/A"
            return Probe(name="power meter", ok=False, state=state, remedy=rapl.REMEDY)
        return Probe(name="power meter", ok=None, state="no RAPL energy counter: power is N/A here")
