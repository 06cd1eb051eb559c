"""A simulated device behind the same interface as a real one."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from cardlab.core.identity import simulated_key
from cardlab.core.quantity import Origin, Provenance
from cardlab.core.records.device import Device
from cardlab.profilers.board.identity import state_folder
from cardlab.profilers.board.timer import LapSample, Timer
from cardlab.profilers.board.work import Lap, Work
from cardlab.profilers.devices.device import HardwareDevice, Probe, State
from cardlab.profilers.devices.guard import FrequencyGuard, Saved
from cardlab.profilers.devices.power import PowerMeter, Rail, RailTrace, Recording
from cardlab.profilers.devices.simulated.catalogue import physics_of
from cardlab.profilers.devices.simulated.machine import Machine

# Work too short to be timed must move virtual time too, or a window would never end.
LEAST_LAP_S = 1e-5
SIMULATED = Provenance.of(Origin.SIMULATED)


class SimulatedDevice(HardwareDevice):
    """One of the devices of `devices.py`; nothing is really run, time is virtual.

    Args:
        name: name of the physics, e.g. "rtx-4060-ti".
        label: tells two devices of one kind apart; also seeds noise and meter gain.
        state: folder where the frequency register lives; the user's state folder by default, so that a
            lock outlives its process as on a real card.
    """

    def __init__(self, name: str, label: str | None = None, state: Path | None = None) -> None:
        physics = physics_of(name)
        label = label or name
        self.name = f"simulated:{name}:{label}"
        self.machine = Machine(physics, f"{name}:{label}")
        self.identity = Device(
            key=simulated_key(name, label),
            name=label,
            platform="simulated",
            model=name,
            cores=physics.cores,
            frequency_min_hz=physics.frequencies_hz[0],
            frequency_max_hz=physics.frequencies_hz[-1],
            memory_bytes=physics.memory_bytes,
            power_limit_w=physics.power_limit_w,
        )
        self.timer: Timer = _MachineTimer(self.machine)
        self.lap_timer = _MachineLapTimer(self.machine)
        self.meter = _MachineMeter(self.machine)
        self.provenance = SIMULATED
        register = (state or state_folder()) / "simulated" / f"{name}-{_file_name(label)}.json"
        self.guard = FrequencyGuard(self.identity.key, self.name, _FrequencyRegister(self.machine, register))

    def frequencies(self) -> tuple[float, ...]:
        """The frequencies of the device's table."""
        return self.machine.physics.frequencies_hz

    def memory_frequencies(self) -> tuple[float, ...]:
        """The memory frequencies of the device's table."""
        return self.machine.physics.memory_frequencies_hz

    def boot(self) -> None:
        """None: it is nowhere."""
        return

    def capabilities(self) -> tuple[Probe, ...]:
        """Everything works on a simulated device; it says that it is one."""
        count = len(self.frequencies())
        return (
            Probe(name="device", ok=True, state=f"{self.identity.model}, simulated: no number is real"),
            Probe(name="frequency control", ok=True, state=f"{count} frequencies, virtual"),
            Probe(name="power meter", ok=True, state=f"board rail every {self.machine.physics.window_s:g} s, virtual"),
        )

    def state(self) -> State:
        """Frequency, temperature and whether the frequency fell below the requested one."""
        machine = self.machine
        throttled = machine.locked_hz is not None and machine.frequency_hz < machine.locked_hz
        return State(
            frequency_hz=machine.frequency_hz,
            # Read where it is held: nothing is said of a memory that is left alone.
            memory_hz=machine.memory_locked_hz,
            temperature_c=machine.temperature_c,
            throttled=throttled,
            cores_active=machine.physics.cores,
            reasons=("power or temperature limit",) if throttled else (),
        )


def _file_name(label: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in label)


class _MachineTimer:
    """Virtual time of the machine; sleeping is resting."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def now(self) -> float:
        return self._machine.now_s

    def sleep(self, seconds: float) -> None:
        self._machine.rest(max(0.0, seconds))


class _MachineLapTimer:
    """Times a lap by letting the machine do it: physics for work of known size, else the callable."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        yield

    def time(self, lap: Lap, work: Work) -> LapSample:
        start_s = self._machine.now_s
        if lap.flop is not None or lap.traffic_bytes is not None:
            self._machine.work(lap.flop or 0.0, lap.traffic_bytes or 0.0, work.segment, work.repeats)
        elif lap.run is not None:
            # Work of unknown size takes as long here as it took for real; without that time would stand still.
            began_s = time.perf_counter()
            lap.run()
            if self._machine.now_s == start_s:
                self._machine.rest(max(time.perf_counter() - began_s, LEAST_LAP_S))
        return LapSample(wall_s=self._machine.now_s - start_s, cpu_s=None, involuntary_switches=None)

    def ahead(self, work: Work, seconds: float) -> list[float]:
        """Seconds of each of many iterations that fit in so short a time; none where they are long, or real code."""
        if any(lap.flop is None and lap.traffic_bytes is None for lap in work.laps):
            return []
        laps = [(lap.flop or 0.0, lap.traffic_bytes or 0.0) for lap in work.laps]
        return self._machine.work_ahead(laps, work.segment, work.repeats, seconds)


class _MachineMeter(PowerMeter):
    """The machine's one power sensor."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.rails = (Rail(name="board", scope="whole device", total=True),)
        self.update_s = machine.physics.window_s

    @contextlib.contextmanager
    def recording(self) -> Iterator[Recording]:
        recording = _MachineRecording(self._machine, self.rails[0])
        yield recording
        recording.end()


class _MachineRecording(Recording):
    def __init__(self, machine: Machine, rail: Rail) -> None:
        self._machine = machine
        self._rail = rail
        self._start_s = machine.now_s
        self._traces: dict[str, RailTrace] = {}

    def end(self) -> None:
        end_s, power_w = self._machine.sensor_updates(self._start_s, self._machine.now_s)
        self._traces[self._rail.name] = RailTrace(
            rail=self._rail,
            end_s=tuple(end_s.tolist()),
            power_w=tuple(power_w.tolist()),
            update_s=self._machine.physics.window_s,
            quantisation_w=self._machine.physics.sensor_step_w,
            source="simulated sensor",
        )

    @property
    def traces(self) -> Mapping[str, RailTrace]:
        return self._traces


class _FrequencyRegister:
    """The frequency lock of a simulated card: a file, so that it outlives the process as a real lock does."""

    def __init__(self, machine: Machine, path: Path) -> None:
        self._machine = machine
        self._path = path
        # A lock that an earlier process left is in force from the start, as on a real card.
        self._machine.request(self._read("locked_hz"))
        self._machine.request_memory(self._read("memory_hz"))

    def saved_state(self) -> Saved:
        return {name: self._read(name) for name in ("locked_hz", "memory_hz")}

    def apply(self, frequency_hz: float, memory_hz: float | None) -> None:
        self._write(frequency_hz, memory_hz)

    def restore(self, saved: Saved) -> None:
        # A journal of an older release knows no memory.
        self._write(saved["locked_hz"], saved.get("memory_hz"))

    def _read(self, name: str) -> float | None:
        try:
            value = json.loads(self._path.read_text(encoding="utf-8"))[name]
        except (OSError, ValueError, KeyError):
            return None
        return None if value is None else float(value)

    def _write(self, locked_hz: float | None, memory_hz: float | None) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"locked_hz": locked_hz, "memory_hz": memory_hz})
        self._path.write_text(text, encoding="utf-8")
        self._machine.request(locked_hz)
        self._machine.request_memory(memory_hz)
