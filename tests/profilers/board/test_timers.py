"""If these fail, disturbed samples pass for clean ones, or a profile leaves the user's process pinned."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cardlab.profilers.board import cpu_timer
from cardlab.profilers.board.cpu_timer import CpuLapTimer, quietest_cpus
from cardlab.profilers.board.errors import BoardError
from cardlab.profilers.board.timer import LapSample
from cardlab.profilers.board.work import Lap, Work, as_work


@pytest.mark.parametrize(
    ("wall_s", "cpu_s", "switches", "clean"),
    [
        (0.05, 0.05, 0, True),
        (0.05, 0.05, 1, True),
        (0.05, 0.05, 3, True),
        (0.05, 0.05, 4, False),
        (1.0, 1.0, 41, True),
        (1.0, 1.0, 42, False),
        (0.103, 0.1, 0, True),
        (0.104, 0.1, 0, False),
        (0.1, None, None, True),
    ],
)
def test_what_counts_as_clean(wall_s: float, cpu_s: float | None, switches: int | None, clean: bool) -> None:
    assert LapSample(wall_s=wall_s, cpu_s=cpu_s, involuntary_switches=switches).clean is clean


def test_sleeping_is_no_clean_sample() -> None:
    work = as_work(lambda: time.sleep(0.02))
    sample = CpuLapTimer(pin=False).time(work.laps[0], work)
    assert sample.wall_s >= 0.02
    assert sample.cpu_s is not None and sample.cpu_s < 0.01
    assert not sample.clean


def test_work_that_is_only_described_cannot_be_timed() -> None:
    work = Work(segment="layer", laps=(Lap(phase="forward", run=None, flop=1.0),))
    with pytest.raises(BoardError, match="layer forward has no code"):
        CpuLapTimer().time(work.laps[0], work)


def test_waiting_for_the_device_is_part_of_the_time() -> None:
    work = Work(segment="x", laps=(Lap(phase="run", run=lambda: None),), synchronize=lambda: time.sleep(0.02))
    assert CpuLapTimer(pin=False).time(work.laps[0], work).wall_s >= 0.02


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no CPU affinity here")
def test_cores_are_given_back_even_after_an_error() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(KeyboardInterrupt), CpuLapTimer(threads=1).held():
        assert len(os.sched_getaffinity(0)) == 1
        raise KeyboardInterrupt
    assert os.sched_getaffinity(0) == before


def test_the_quietest_core_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's idle counters decide: user nice system idle iowait, in ticks."""
    before = tmp_path / "before"
    before.write_text("cpu 9 9 9 9 9\ncpu0 10 0 0 100 5\ncpu1 10 0 0 100 5\ncpu2 10 0 0 100 5\nintr 7\n")
    after = tmp_path / "after"
    after.write_text("cpu 9 9 9 9 9\ncpu0 40 0 0 100 5\ncpu1 12 0 0 128 5\ncpu2 30 0 0 110 6\nintr 8\n")
    files = iter((before, after, before, after))
    ticks = cpu_timer._idle_ticks
    monkeypatch.setattr(cpu_timer, "_idle_ticks", lambda: ticks(next(files)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2})
    assert quietest_cpus(1, probe_s=0.0) == (1,)
    assert set(quietest_cpus(2, probe_s=0.0)) == {1, 2}
    assert quietest_cpus(3, probe_s=0.0) == (0, 1, 2)


def test_lap_timers_are_there_without_torch() -> None:
    code = "import sys, cardlab.profilers.runtime.timers, cardlab.profilers.measure.timing\n"
    code += "import cardlab.profilers.runtime.describe\n"
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
