"""A device that computes 1000 FLOPs a cycle and draws 10 W and 5 W for each GHz, in virtual time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

from cardlab.core.quantity import Origin, Provenance
from cardlab.core.records.device import Device
from cardlab.profilers.board.timer import LapSample, VirtualTimer
from cardlab.profilers.board.work import Lap, Work
from cardlab.profilers.devices.device import HardwareDevice, Probe, State
from cardlab.profilers.devices.guard import FrequencyGuard
from cardlab.profilers.devices.power import PowerMeter, Rail, RailTrace, Recording

OFFERED_HZ = (0.5e9, 1.0e9, 1.5e9, 2.0e9)
FLOP_PER_CYCLE = 1000.0
BOARD = Rail(name="board", scope="the whole toy", total=True)


def watts(frequency_hz: float) -> float:
    return 10.0 + 5.0 * frequency_hz / 1e9


class ToyControl:
    """FrequencyControl: a number in memory."""

    def __init__(self) -> None:
        self.hz = OFFERED_HZ[-1]

    def saved_state(self) -> Mapping[str, object]:
        return {"hz": self.hz}

    def apply(self, frequency_hz: float, memory_hz: float | None) -> None:
        self.hz = frequency_hz

    def restore(self, saved: Mapping[str, object]) -> None:
        self.hz = float(str(saved["hz"]))


class ToyTimer:
    """LapTimer: what is done takes as long as its FLOPs."""

    def __init__(self, control: ToyControl, timer: VirtualTimer) -> None:
        self._control, self._timer = control, timer

    def held(self) -> nullcontext[None]:
        return nullcontext()

    def time(self, lap: Lap, work: Work) -> LapSample:
        if lap.flop is None and lap.run is not None:
            start_s = self._timer.now()
            lap.run()
            return LapSample(wall_s=self._timer.now() - start_s)
        seconds = (lap.flop or 1.0) / (FLOP_PER_CYCLE * self._control.hz)
        self._timer.sleep(seconds)
        return LapSample(wall_s=seconds)


class ToyMeter(PowerMeter):
    """PowerMeter: ten readings a second."""

    def __init__(self, control: ToyControl, timer: VirtualTimer) -> None:
        self.rails, self.update_s = (BOARD,), 0.1
        self._control, self._timer = control, timer

    @contextmanager
    def recording(self) -> Iterator[Recording]:
        recording = ToyRecording(self._control, self._timer)
        yield recording
        recording.end_s = self._timer.now()


class ToyRecording(Recording):
    def __init__(self, control: ToyControl, timer: VirtualTimer) -> None:
        self._power_w, self._start_s, self.end_s = watts(control.hz), timer.now(), timer.now()

    @property
    def traces(self) -> Mapping[str, RailTrace]:
        count = int((self.end_s - self._start_s) / 0.1)
        times_s = tuple(self._start_s + 0.1 * (k + 1) for k in range(count))
        trace = RailTrace(
            rail=BOARD, end_s=times_s, power_w=(self._power_w,) * count, update_s=0.1, quantisation_w=0.01, source="toy"
        )
        return {BOARD.name: trace}


class ToyDevice(HardwareDevice):
    """One toy."""

    def __init__(self, number: int, label: str | None) -> None:
        self.name = f"toy:{number}"
        self.identity = Device(
            key=f"toy:{number}",
            name=label or f"toy {number}",
            platform="toy",
            frequency_min_hz=OFFERED_HZ[0],
            frequency_max_hz=OFFERED_HZ[-1],
            memory_bytes=2**30,
        )
        self.control = ToyControl()
        self.timer = VirtualTimer()
        self.lap_timer = ToyTimer(self.control, self.timer)
        self.meter = ToyMeter(self.control, self.timer)
        self.guard = FrequencyGuard(self.identity.key, self.name, self.control)
        self.provenance = Provenance.of(Origin.SIMULATED)

    def frequencies(self) -> tuple[float, ...]:
        return OFFERED_HZ

    def capabilities(self) -> tuple[Probe, ...]:
        return (Probe(name="device", ok=True, state="a toy"),)

    def state(self) -> State:
        return State(frequency_hz=self.control.hz, throttled=False)
