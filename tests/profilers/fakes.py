"""A lap timer that says what it is told, in a time that moves by what it said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from cardlab.profilers.board.timer import LapSample, VirtualTimer
from cardlab.profilers.board.work import Lap, Work


class ScriptedLapTimer:
    """Calls `sample(segment, phase, n)` for the n-th timing of each lap and lets its wall time pass."""

    def __init__(self, sample: Callable[[str, str, int], LapSample]) -> None:
        self.timer = VirtualTimer()
        self.calls: list[tuple[str, str]] = []
        self._sample = sample

    def held(self) -> AbstractContextManager[None]:
        return nullcontext()

    def time(self, lap: Lap, work: Work) -> LapSample:
        n = self.calls.count((work.segment, lap.phase))
        self.calls.append((work.segment, lap.phase))
        if lap.run is not None:
            lap.run()
        sample = self._sample(work.segment, lap.phase, n)
        self.timer.sleep(sample.wall_s)
        return sample


def clean(wall_s: float) -> LapSample:
    return LapSample(wall_s=wall_s, cpu_s=wall_s, involuntary_switches=0)


def disturbed(wall_s: float) -> LapSample:
    return LapSample(wall_s=wall_s, cpu_s=wall_s / 2, involuntary_switches=9)


def two_lap_work(repeats: int = 1) -> Work:
    laps = (Lap(phase="forward", run=None), Lap(phase="backward", run=None))
    return Work(segment="layer", laps=laps, repeats=repeats)


@contextmanager
def busy_core() -> Iterator[None]:
    """Another process keeps one core busy for the length of the block, always the same one."""
    import os
    import subprocess
    import sys

    load = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    os.sched_setaffinity(load.pid, {min(os.sched_getaffinity(0))})
    try:
        yield
    finally:
        load.kill()
        load.wait()
