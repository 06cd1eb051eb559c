"""If these fail, the agent reads power before it is steady, or another power than cardlab would from the same rails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cardlab.profilers.agent.board import Board
from cardlab.profilers.agent.power import Tools, measure_power, reading_s, settle_power
from cardlab.profilers.board.sampler import Look
from cardlab.profilers.board.timer import ElapsedTimer, VirtualTimer
from cardlab.profilers.board.window import waiting
from cardlab.profilers.devices import open_platform
from cardlab.profilers.measure import window
from tests.fakes.agent_board import hwmon, make_board


class SteppingSampler:
    """Looks as often in virtual time as a thread would in real time."""

    def __init__(self, timer: VirtualTimer) -> None:
        self.timer, self.sleep = timer, timer.sleep

    @contextmanager
    def during(self, look: Look) -> Iterator[None]:
        def sleep(seconds: float) -> None:
            end_s = self.timer.now() + seconds
            while self.timer.now() < end_s:
                self.sleep(min(look(), end_s - self.timer.now()))

        self.timer.sleep = sleep  # type: ignore[method-assign]
        try:
            yield
        finally:
            self.timer.sleep = self.sleep  # type: ignore[method-assign]


def tools() -> Tools:
    timer = VirtualTimer()
    return Tools(ElapsedTimer(timer), timer, SteppingSampler(timer))


def test_window_is_as_long_as_that_of_cardlab(tmp_path: Path) -> None:
    make_board(tmp_path, "orin-nx")
    own = open_platform("jetson", sysfs_root=tmp_path)
    assert reading_s(Board(str(tmp_path), str(tmp_path / "state"))) == window.window_s(own) > 0
    own.close()


def test_power_that_still_rises_is_waited_for(tmp_path: Path) -> None:
    make_board(tmp_path, "orin-nx")
    board, shared = Board(str(tmp_path), str(tmp_path / "state")), tools()
    timer = shared.timer
    looked = []

    def warming() -> float:
        looked.append(timer.now())
        milliampere = round(1600 - 600 * 2.0 ** (-timer.now() / 10))
        hwmon(tmp_path, "hwmon1", (("VDD_IN", 5000, milliampere),), 5000)
        return 918e6

    settle_power(board, shared, waiting(timer), warming, 918e6)
    assert 16.0 < timer.now() < 130.0 and len(looked) > 100
    assert 600 * 2.0 ** (-(timer.now() - 8.0) / 10) < 600 * 0.2, "most of the rise has passed"


def test_rows_name_rails_and_total_as_cardlab_does(tmp_path: Path) -> None:
    make_board(tmp_path, "agx-orin")
    board, shared = Board(str(tmp_path), str(tmp_path / "state")), tools()
    rows = {row["rail"]: row for row in measure_power(board, shared, waiting(shared.timer), 5.0)}
    own = open_platform("jetson", sysfs_root=tmp_path)
    assert set(rows) == {rail.name for rail in own.meter.rails}
    [total] = [rail for rail in own.meter.rails if rail.total]
    assert rows[total.name]["value"] == pytest.approx(12 * 0.28 + 12 * 0.04 + 4.968 * 0.98)
    assert rows[total.name]["how"] == "derived" and rows[total.name]["meter"]["update_s"] == own.meter.update_s
    assert rows[total.name]["n"] >= 5.0 / own.meter.update_s - 2
    own.close()
