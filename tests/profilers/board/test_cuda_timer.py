"""If these fail, a GPU's time holds work that was queued before it, or is off by the factor from milliseconds."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

from cardlab.profilers.board.cuda_timer import CudaLapTimer
from cardlab.profilers.board.work import Lap, Work


def test_a_lap_is_the_time_between_two_events_of_an_empty_queue() -> None:
    said: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            said.append("record")

        def synchronize(self) -> None:
            said.append("wait for the event")

        def elapsed_time(self, end: object) -> float:
            assert end is not self
            return 12.5

    cuda = SimpleNamespace(
        Event=Event, synchronize=lambda: said.append("empty the queue"), device=lambda device: nullcontext()
    )
    torch = SimpleNamespace(cuda=cuda, device=lambda name: name)
    lap = Lap(phase="forward", run=lambda: said.append("run"))
    work = Work(segment="layer", laps=(lap,), synchronize=lambda: said.append("empty the queue"))
    timer = CudaLapTimer(torch, "cuda:0")
    with timer.held():
        sample = timer.time(lap, work)
    assert sample.wall_s == 0.0125 and sample.cpu_s is None and sample.clean
    assert said == ["empty the queue", "empty the queue", "record", "run", "record", "wait for the event"]


def test_kernels_are_launched_behind_one_that_waits_long_enough() -> None:
    """A GPU of 1e9 cycles a second whose lap takes the CPU 4 ms to launch: it waits 6 ms, then needs 1 ms."""
    now_s, gpu_s = [0.0], [0.0]

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.at_s = 0.0

        def record(self) -> None:
            self.at_s = max(gpu_s[0], now_s[0])

        def synchronize(self) -> None:
            now_s[0] = max(now_s[0], gpu_s[0])

        def elapsed_time(self, end: Event) -> float:
            return (end.at_s - self.at_s) * 1e3

    def computes(seconds: float) -> None:
        gpu_s[0] = max(gpu_s[0], now_s[0]) + seconds

    def launched() -> None:
        now_s[0] += 0.004
        computes(0.001)

    cuda = SimpleNamespace(Event=Event, _sleep=lambda cycles: computes(cycles / 1e9))
    lap = Lap(phase="forward", run=launched)
    work = Work(segment="layer", laps=(lap,), synchronize=lambda: computes(0.0))
    timer = CudaLapTimer(SimpleNamespace(cuda=cuda, device=lambda name: name), "cuda:0")
    alone_s = timer.queued(lap, work, lead_s=0.006)
    assert alone_s is not None and abs(alone_s - 0.001) < 1e-9
    assert timer.time(lap, work).wall_s > 0.0049
    old = CudaLapTimer(SimpleNamespace(cuda=SimpleNamespace(Event=Event), device=lambda name: name), "cuda:0")
    assert old.queued(lap, work, lead_s=0.006) is None
