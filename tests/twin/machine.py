"""A simulated device of the product with the world's physics in it: its noise, sensor and time stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from unittest.mock import patch

from cardlab.profilers.devices.power import PowerMeter, Rail, RailTrace, Recording
from cardlab.profilers.devices.simulated import device as simulated
from cardlab.profilers.devices.simulated.machine import Machine as Running
from tests.twin.truth import Machine


@dataclass(frozen=True)
class Level:
    """A frequency, for the power that belongs to it."""

    hz: float


class Physics(SimpleNamespace):
    """What the simulated machine asks of its physics, answered with the world's closed form."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(
            frequencies_hz=machine.frequencies_hz,
            frequency_max_hz=machine.top_hz,
            # One, which is never asked for: memory sweeps have tests of their own.
            memory_frequencies_hz=(9e9,),
            cores=machine.cores,
            memory_bytes=machine.memory_bytes,
            power_limit_w=machine.power_limit_w,
            ambient_c=30.0,
            temperature_max_c=1e3,
            window_s=0.1,
            sensor_noise_w=0.002 * machine.static_w,
            sensor_step_w=0.001,
            time_noise=0.002,
            machine=machine,
        )

    def lap_seconds(self, hz: float, flop: float, _traffic: float, _segment: str, repeats: int) -> tuple[float, float]:
        """One lap, and that it computes all the while."""
        return self.machine.seconds(flop, hz) + (repeats - 1) * self.machine.overhead_s, 1.0

    def level(self, hz: float) -> Level:
        return Level(hz)

    def power_at(self, level: Level, _temperature_c: float, busy: float, _bytes_per_s: float) -> float:
        return self.machine.power_w(level.hz) if busy > 0 else self.machine.wait_w(level.hz)

    def temperature_after(self, _temperature_c: float, _power_w: float, _seconds: float) -> float:
        return 42.0


class ExactMeter(Running):
    """The meter's gain is an error that no commands can know without a second meter; it has tests of its own."""

    def __init__(self, physics: Physics, _seed: str) -> None:
        # Its noise is the machine's own, whatever it is called.
        super().__init__(physics, f"{physics.machine.kind}:{physics.machine.label}")  # type: ignore[arg-type]
        self.meter_gain = 1.0


BOARD = Rail(name="board", scope="whole device", total=True)
# Sorted before the board's name, as real ones are: what takes the first rail takes this one.
PART = Rail(name="GPU", scope="compute rail", total=False)
PART_SHARE = 0.55


class TwoRails(PowerMeter):
    """A sensor of the whole and one of a part, as boards have them."""

    def __init__(self, machine: Running) -> None:
        self._machine = machine
        self.rails = (PART, BOARD)
        self.update_s = machine.physics.window_s

    @contextmanager
    def recording(self) -> Iterator[Recording]:
        recording = TwoTraces(self._machine)
        yield recording
        recording.end()


class TwoTraces(Recording):
    """What both read from here to the end."""

    def __init__(self, machine: Running) -> None:
        self._machine, self._start_s = machine, machine.now_s
        self._traces: dict[str, RailTrace] = {}

    def end(self) -> None:
        end_s, power_w = self._machine.sensor_updates(self._start_s, self._machine.now_s)
        for rail, share in ((PART, PART_SHARE), (BOARD, 1.0)):
            self._traces[rail.name] = RailTrace(
                rail=rail,
                end_s=tuple(end_s.tolist()),
                power_w=tuple((share * power_w).tolist()),
                update_s=self._machine.physics.window_s,
                quantisation_w=self._machine.physics.sensor_step_w,
                source="a sensor of the world",
            )

    @property
    def traces(self) -> Mapping[str, RailTrace]:
        return self._traces


@contextmanager
def standing(*machines: Machine) -> Iterator[None]:
    """While it lasts `simulated:KIND:LABEL` is the world's machine of that kind."""
    known = {machine.kind: Physics(machine) for machine in machines}
    with (
        patch.object(simulated, "physics_of", known.__getitem__),
        patch.object(simulated, "Machine", ExactMeter),
        patch.object(simulated, "_MachineMeter", TwoRails),
    ):
        yield
