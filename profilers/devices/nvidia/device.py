"""An NVIDIA card behind NVML.

What NVML calls success means only that a request was noted: the frequency, the event reasons and the throttle
counters are read while the work runs, and a point that did not run as asked is flagged with the reason.
"""

from __future__ import annotations

import re
from pathlib import Path

from cardlab.core.errors import CardlabError
from cardlab.core.identity import hardware_key
from cardlab.core.quantity import MEASURED
from cardlab.core.records.device import Device
from cardlab.profilers.board.host import Memory, host_memory
from cardlab.profilers.board.sampler import Sampler, ThreadSampler
from cardlab.profilers.board.timer import ElapsedTimer, LapTimer, Timer, WallTimer
from cardlab.profilers.devices.device import HardwareDevice, Probe, State
from cardlab.profilers.devices.guard import FrequencyGuard
from cardlab.profilers.devices.identity import device_key
from cardlab.profilers.devices.nvidia.frequency import NvidiaFrequency, Rights, find_rights
from cardlab.profilers.devices.nvidia.nvml import LIMITING_REASONS, Card, nvml_call
from cardlab.profilers.devices.nvidia.power import NvmlMeter, best_source

SM_DOMAIN, MEMORY_DOMAIN = 1, 2
# Less than a millisecond between two looks changes no measurement.
_THROTTLED_S = 1e-3
_LOOK_FOR_OTHERS_S = 2.0
# Compute capabilities that only GPUs on the same chip as the CPU have: Tegra X1 and X2, Xavier, Orin, Thor (by its old
# and its new number), GB10.
_INTEGRATED = {(5, 3), (6, 2), (7, 2), (8, 7), (10, 1), (11, 0), (12, 1)}
_INTEGRATED_NAMES = re.compile(r"\b(Tegra|Xavier|Orin|Thor|GB10)\b")
# By major compute capability; 8.0 (GA100) differs from its generation, see _sm_count.
_CORES_PER_SM = {7: 64, 8: 128, 9: 128, 10: 128, 12: 128}


class NvidiaDevice(HardwareDevice):
    """One NVIDIA GPU.

    Args:
        index: NVML's number of the card (nvidia-smi -L).
        label: name of the device; the vendor's by default.
        timer, sampler: wall timer and a thread; a fake card brings its own virtual ones.
        sysfs_root: root of /proc and /etc.
        rights: how frequencies may be set; found out when None.

    Raises:
        DeviceError: no driver, no such card, or it is lost; each with its remedy.
    """

    def __init__(
        self,
        index: int = 0,
        label: str | None = None,
        *,
        timer: Timer | None = None,
        sampler: Sampler | None = None,
        sysfs_root: str | Path = "/",
        rights: Rights | None = None,
    ) -> None:
        self.card = Card(index)
        self._root = Path(sysfs_root)
        self.name = "nvidia" if index == 0 else f"nvidia:{index}"
        self.rights = rights or find_rights(Path(sysfs_root))
        self.timer = timer or WallTimer()
        self.lap_timer: LapTimer = ElapsedTimer(self.timer)
        self.provenance = MEASURED
        self.torch_device = f"cuda:{index}"
        self.mig = self.card.mig()
        self._memory_seen_hz = self.card.frequency_hz(MEMORY_DOMAIN)
        self.supported_hz = self._supported()
        # Only integrated GPUs share the host's memory: of any other card the host's would be a guess.
        self.unified = _unified(self.card)
        self.identity = self._identity(label, Path(sysfs_root))
        # Torch orders cards by speed, NVML by bus: the UUID tells which is which.
        self.torch_key = self.identity.key
        # NVML measures the whole card, with the instances of others.
        self.power_source = None if self.mig else best_source(self.card)
        if self.power_source is not None:
            self.meter = NvmlMeter(self.card, self.timer, sampler or ThreadSampler(), self.power_source)
        self.guard = FrequencyGuard(self.identity.key, self.name, NvidiaFrequency(self.card, self.rights))
        self._throttled_s = self.card.throttled_s()
        self._others: tuple[int, ...] = ()
        self._next_others_s = self.timer.now()

    def frequencies(self) -> tuple[float, ...]:
        """SM frequencies at the memory frequency that is used under load; empty where they cannot be set."""
        return self.supported_hz if self.rights.route is not None else ()

    def memory_frequencies(self) -> tuple[float, ...]:
        """Memory frequencies that the card lists; empty where they cannot be set."""
        return self.card.memory_frequencies_hz() if self.rights.route is not None else ()

    def frequencies_at(self, memory_hz: float) -> tuple[float, ...]:
        """SM frequencies at that memory frequency: at a low one the list is short."""
        return self.card.compute_frequencies_hz(memory_hz) if self.rights.route is not None else ()

    def capabilities(self) -> tuple[Probe, ...]:
        """Every source and right, with what mends each lack."""
        # Probes look at a whole device: they are not loaded before they are asked for.
        from cardlab.profilers.devices.nvidia.probes import probes

        return probes(self)

    def state(self) -> State:
        """Frequencies, temperature, and whether anything limited the frequency since the last look."""
        memory_hz = self.card.frequency_hz(MEMORY_DOMAIN)
        # Only under load does a card show the memory frequency it works at, and the list of SM frequencies
        # depends on it.
        if memory_hz is not None and memory_hz > (self._memory_seen_hz or 0.0):
            self._memory_seen_hz = memory_hz
            self.supported_hz = self._supported()
        bits = self.card.event_reasons()
        counters = self.card.throttled_s()
        limits = [words for bit, words in LIMITING_REASONS.items() if bits is not None and bits & bit]
        # The bits tell of this moment, the counters of all that happened since the last look.
        limits += [w for w, s in counters.items() if s - self._throttled_s.get(w, s) > _THROTTLED_S]
        self._throttled_s.update(counters)
        reasons = list(dict.fromkeys(limits))
        others = self._other_processes()
        if others:
            reasons.append(f"other processes on the card: {', '.join(map(str, others))}")
        return State(
            frequency_hz=self.card.frequency_hz(SM_DOMAIN),
            memory_hz=memory_hz,
            temperature_c=self.card.temperature_c(),
            throttled=None if bits is None and not counters else bool(limits),
            reasons=tuple(reasons),
        )

    def memory_available_bytes(self) -> int | None:
        """Free memory of the card; of the host where they share it; None where neither says."""
        return self.memory().free_bytes

    def memory(self) -> Memory:
        """Memory of the card as it is now, the host's where the card has none of its own."""
        info = self.card.read("nvmlDeviceGetMemoryInfo")
        # With unified memory drivers refuse the call, or call it a success and answer 0.
        if info is not None and int(info.total) > 0:
            return Memory(int(info.total), int(info.free))
        return host_memory(self._root) if self.unified else Memory(None, None)

    def versions(self) -> dict[str, str]:
        """The driver's version."""
        driver = self.identity.driver
        return {} if driver is None else {"nvidia-driver": driver}

    def _supported(self) -> tuple[float, ...]:
        """SM frequencies at the memory frequency seen, unless that is an idling one: its list is short."""
        memory = self.card.memory_frequencies_hz()
        if not memory:
            return ()
        seen = self._memory_seen_hz
        busy = seen if seen in memory and seen > memory[-1] / 2 else memory[-1]
        return self.card.compute_frequencies_hz(busy)

    def _identity(self, label: str | None, root: Path) -> Device:
        card = self.card
        uuid = card.text("nvmlDeviceGetUUID")
        key = hardware_key("nvidia", uuid) if uuid else f"{device_key('nvidia', root).key}:{card.index}"
        name = card.text("nvmlDeviceGetName") or "NVIDIA GPU"
        # It tells the cores of the card and not of an instance.
        cores = None if self.mig else card.read("nvmlDeviceGetNumGpuCores")
        memory_bytes = self.memory().total_bytes
        details = {
            "sm_count": _sm_count(card, cores),
            "index": card.index,
            "unified_memory": True if self.unified else None,
        }
        return Device(
            key=key,
            name=label or name,
            platform="nvidia",
            model=name,
            cores=cores,
            frequency_min_hz=self.supported_hz[0] if self.supported_hz else None,
            frequency_max_hz=self.supported_hz[-1] if self.supported_hz else None,
            memory_bytes=memory_bytes,
            power_limit_w=card.power_limit_w(),
            driver=driver_version(),
            details={name: value for name, value in details.items() if value is not None},
        )

    def _other_processes(self) -> tuple[int, ...]:
        """Looked for every two seconds only: listing processes is the slowest of all calls."""
        if self.timer.now() >= self._next_others_s:
            self._others = self.card.other_processes() or ()
            self._next_others_s = self.timer.now() + _LOOK_FOR_OTHERS_S
        return self._others


def _unified(card: Card) -> bool:
    """Whether the GPU shares the memory of the CPU on its chip; by its name where NVML tells no capability."""
    capability = card.read("nvmlDeviceGetCudaComputeCapability")
    if capability is not None:
        return tuple(capability) in _INTEGRATED
    return _INTEGRATED_NAMES.search(card.text("nvmlDeviceGetName") or "") is not None


def driver_version() -> str | None:
    """The driver's version, None if it does not say."""
    try:
        return str(nvml_call("nvmlSystemGetDriverVersion"))
    except CardlabError:
        return None


def _sm_count(card: Card, cores: int | None) -> int | None:
    """Multiprocessors: from the card's attributes, else cores divided by those of one in this generation."""
    attributes = card.read("nvmlDeviceGetAttributes")
    if attributes is not None:
        return int(attributes.multiprocessorCount)
    capability = card.read("nvmlDeviceGetCudaComputeCapability")
    per_sm = None if capability is None else _CORES_PER_SM.get(capability[0])
    if capability is not None and tuple(capability) == (8, 0):
        per_sm = 64
    return None if per_sm is None or cores is None else cores // per_sm
