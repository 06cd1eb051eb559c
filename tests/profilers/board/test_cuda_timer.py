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
