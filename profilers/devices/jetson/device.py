"""A Jetson board: the integrated GPU's frequency through devfreq, power of its rails, what held it back.

Everything is read below a root, from files that the kernel publishes; the few that are written go through the
helper's list. jtop and tegrastats are second and third sources of power and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cardlab.core.errors import CardlabError, NotSupportedError, UsageError
from cardlab.core.quantity import MEASURED
from cardlab.core.records.device import Device
from cardlab.profilers.board.cpufreq import find_cpu
from cardlab.profilers.board.gpu import find_gpu
from cardlab.profilers.board.host import host_boot, host_memory, memory_bytes
from cardlab.profilers.board.ina3221 import LEAST_WINDOW_S, find_rails
from cardlab.profilers.board.limits import find_watch
from cardlab.profilers.board.modes import current_mode, gated_tpcs, offered_hz
from cardlab.profilers.board.modules import memory_bucket
from cardlab.profilers.board.sampler import Sampler, ThreadSampler
from cardlab.profilers.board.tegra import Tegra, find_tegra, refuse_nameless
from cardlab.profilers.board.timer import ElapsedTimer, LapTimer, Timer, WallTimer
from cardlab.profilers.devices.device import HardwareDevice, Probe, State
from cardlab.profilers.devices.errors import said_as
from cardlab.profilers.devices.guard import FrequencyGuard
from cardlab.profilers.devices.identity import device_key, identity_problem
from cardlab.profilers.devices.jetson.frequency import JetsonFrequency, Rights, Writer, find_rights, make_writer
from cardlab.profilers.devices.jetson.gpu import frequency_hz
from cardlab.profilers.devices.jetson.ina import InaSource
from cardlab.profilers.devices.jetson.jtop import find_jtop, find_tegrastats, open_jtop, open_tegrastats
from cardlab.profilers.devices.jetson.power import JetsonMeter, OpenSource, PowerSource

SOURCES = ("sysfs", "jtop", "tegrastats")
_CUDA = "cuda:0"


class JetsonDevice(HardwareDevice):
    """The board this runs on.

    Args:
        sysfs_root: root of /sys, /proc, /etc, /var and /run.
        label: name of the device; the vendor's by default.
        timer, sampler: wall timer and a thread; a fake board brings its own virtual ones.
        writer: writes one kernel setting; the helper's list of allowed files by default.
        power_source: "sysfs", "jtop" or "tegrastats" is recorded first; the others check and replace it.

    Attributes:
        tegra, gpu, rights, mode: as found when it was opened.

    Raises:
        NotSupportedError: this is no Jetson.
    """

    meter: JetsonMeter | None
    # The INA3221 is slow and coarse.
    window_min_s = LEAST_WINDOW_S

    def __init__(
        self,
        sysfs_root: str | Path = "/",
        label: str | None = None,
        *,
        timer: Timer | None = None,
        sampler: Sampler | None = None,
        writer: Writer | None = None,
        power_source: str = "sysfs",
    ) -> None:
        self.root = Path(sysfs_root)
        self.tegra = _tegra(self.root)
        self.name = "jetson"
        self.gpu = find_gpu(self.root)
        self.mode = current_mode(self.root)
        self.rights = Rights(None, "no frequency of a GPU") if self.gpu is None else find_rights(self.root, self.gpu)
        self.watch = find_watch(self.root)
        self._cpu = find_cpu(self.root)
        key = device_key("jetson", self.root)
        self.key, self.identity_problem = key, identity_problem(key)
        self.identity = self._identity(key.key, label)
        self.timer = timer or WallTimer()
        self.lap_timer: LapTimer = ElapsedTimer(self.timer)
        self.provenance = MEASURED
        self.torch_device = _CUDA
        jetpack = self.tegra.jetpack or "of this board"
        self.torch_remedy = f"install a torch built for JetPack {jetpack}, or use --platform cpu"
        self.control: JetsonFrequency | None = None
        if self.gpu is not None:
            writer = writer or make_writer(self.root, self.rights)
            self.control = JetsonFrequency(self.root, self.gpu, self.rights, writer)
            self.guard = FrequencyGuard(key.key, self.name, self.control)
        self.power_problem: str | None = None
        self.meter = self._open_meter(power_source, sampler or ThreadSampler())

    def frequencies(self) -> tuple[float, ...]:
        """Frequencies of the table up to the power mode's cap; empty where they cannot be set."""
        if self.gpu is None or self.rights.route is None:
            return ()
        return offered_hz(self.gpu.table_hz, self.mode)

    def memory_frequencies(self) -> tuple[float, ...]:
        """The ends of what the memory may run at, all that kernels list; empty where it cannot be held."""
        emc = None if self.control is None or self.rights.route is None else self.control.emc
        if emc is None:
            return ()
        ends = {hz for hz in (emc.lowest_hz(), emc.highest_hz()) if hz is not None and emc.offers(hz)}
        return tuple(float(hz) for hz in sorted(ends))

    def capabilities(self) -> tuple[Probe, ...]:
        """Every source and right, with what mends each lack."""
        # Probes look at a whole device: they are not loaded before they are asked for.
        from cardlab.profilers.devices.jetson.probes import probes

        return probes(self)

    def state(self) -> State:
        """Frequencies, temperature, power mode, and what held the board back since the last look.

        Raises DeviceLostError if the GPU's node went away.
        """
        limits = self.watch.look()
        problems = self.lock_problems()
        notes = () if self.control is None else self.control.notes
        throttled = bool(limits.reasons or problems)
        return State(
            frequency_hz=None if self.gpu is None else frequency_hz(self.gpu),
            memory_hz=self.memory_hz(),
            cpu_hz=self.cpu_hz(),
            temperature_c=self.watch.temperature_c(),
            throttled=throttled if limits.known or problems else None,
            power_mode=None if self.mode is None else self.mode.name,
            cores_active=self.cores_active(),
            reasons=(*limits.reasons, *problems, *limits.warnings, *notes),
        )

    def lock_problems(self) -> tuple[str, ...]:
        """Limits of the frequency that are not those which were set."""
        return () if self.control is None else self.control.problems()

    def memory_hz(self) -> float | None:
        """The memory frequency; None where it may not be read."""
        emc = None if self.control is None else self.control.emc
        return None if emc is None else emc.rate_hz()

    def cpu_hz(self) -> float | None:
        """Mean frequency of the CPU's cores: the real one where root may read it, else the one that is asked for."""
        return self._cpu.real_hz()

    def cores_active(self) -> int | None:
        """CUDA cores that the power mode leaves running."""
        return self.tegra.cores_active(self.tpc_mask())

    def tpc_mask(self) -> int | None:
        """TPCs that are switched off: as the GPU says, else as the power mode says."""
        return gated_tpcs(None if self.gpu is None else self.gpu.tpc_mask(), self.mode)

    def boot(self) -> str | None:
        """That of the host below the root."""
        return host_boot(self.root)

    def memory_available_bytes(self) -> int | None:
        """What the host, or the control group, has left: CPU and GPU share one memory, and others hold some of it."""
        return memory_bytes(self.root)[1]

    def versions(self) -> dict[str, str]:
        """The L4T release."""
        return {} if self.tegra.l4t is None else {"l4t": self.tegra.l4t}

    def close(self) -> None:
        """End the second and third source."""
        if self.meter is not None:
            self.meter.close()

    def _identity(self, key: str, label: str | None) -> Device:
        board, gpu = self.tegra.board, self.gpu
        memory = host_memory(self.root)
        model = self.tegra.model or (board.name if board is not None else "unknown Jetson")
        table = () if gpu is None else gpu.table_hz
        details = {
            "module": self.tegra.part,
            "board": None if board is None else board.name,
            "sm_count": None if board is None else board.sm_max,
            "compute_capability": _capability(self.tegra),
            "memory_bucket": None if board is None else memory_bucket(board, memory.host_bytes),
            "l4t": self.tegra.l4t,
            "super": self.tegra.super_mode,
        }
        return Device(
            key=key,
            name=label or model,
            platform="jetson",
            model=model,
            cores=None if board is None else board.cores,
            frequency_min_hz=float(table[0]) if table else None,
            frequency_max_hz=float(table[-1]) if table else None,
            memory_bytes=memory.total_bytes,
            details={name: value for name, value in details.items() if value is not None},
        )

    def _open_meter(self, first: str, sampler: Sampler) -> JetsonMeter | None:
        """The named source if it works, else the next; the rest are opened when they are needed."""
        if first not in SOURCES:
            raise UsageError(f"there is no power source {first!r}", remedy=f"choose one of: {', '.join(SOURCES)}")
        order = sorted(self._sources(), key=lambda pair: pair[0] != first)
        others: Sequence[OpenSource] = [opener for _, opener in order]
        for index, opener in enumerate(others):
            try:
                return JetsonMeter(opener(), others[index + 1 :], self.timer, sampler)
            except CardlabError as error:
                self.power_problem = error.message
        return None

    def _sources(self) -> list[tuple[str, OpenSource]]:
        rails = find_rails(self.root)
        found: list[tuple[str, OpenSource]] = []
        if rails:

            def open_ina() -> PowerSource:
                return InaSource(rails)

            found.append(("sysfs", open_ina))
        if find_jtop(self.root).usable:
            found.append(("jtop", open_jtop))
        # The program reads the real board, whatever root was given here.
        if self.root == Path("/") and find_tegrastats().usable:
            found.append(("tegrastats", open_tegrastats))
        return found


def _tegra(root: Path) -> Tegra:
    tegra = find_tegra(root)
    if tegra is None:
        raise NotSupportedError(
            "this is no Jetson: neither device tree nor L4T release of one", remedy="use --platform auto"
        )
    with said_as(NotSupportedError):
        refuse_nameless(tegra, root)
    return tegra


def _capability(tegra: Tegra) -> str | None:
    return None if tegra.soc is None else ".".join(map(str, tegra.soc.capability))
