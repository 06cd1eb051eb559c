"""Mean power of each rail over a window of whole averaging intervals, while something runs."""

import math
import threading
import time
from typing import Callable, Dict, List, Optional

from ..board.ina3221 import MEMORY_UPDATES, SOURCE, InaRail
from ..board.rails import SUM_SCOPE, scope
from .board import Board
from .bundle import Row

# Reading a register takes about half a millisecond: ten rounds a second cost little, and the chip's own mean
# moves no faster.
SAMPLE_S = 0.1
# The rails of an Orin move in steps of 0.04 to 0.4 W: below some seconds there are too few different readings.
MIN_WINDOW_S = 5.0
# A reading reaches back over one averaging interval; of ten, what it carries in and leaves out weighs little.
INTERVALS = 10
# After a change of load or frequency these boards need from 0.3 to 3 s.
SETTLE_S = 3.0


def window_s(board: Board) -> float:
    """Length of a window: ten averaging intervals of the slowest rail, 5 s at least."""
    return max([MIN_WINDOW_S] + [INTERVALS * rail.update_s for rail in board.rails])


class _Sampler(threading.Thread):
    """Reads all rails every 0.1 s until stopped; readings of one round are at one index."""

    def __init__(self, board: Board) -> None:
        super().__init__(daemon=True)
        self.board, self.stopping = board, threading.Event()
        self.times_s = []  # type: List[float]
        self.power_w = {rail.name: [] for rail in board.rails}  # type: Dict[str, List[float]]

    def run(self) -> None:
        while not self.stopping.is_set():
            values = [(rail.name, rail.power_w()) for rail in self.board.rails]
            # A round with a gap is dropped whole, because the rails of a sum must agree on their index.
            if all(value is not None for _, value in values):
                self.times_s.append(time.perf_counter())
                for name, value in values:
                    self.power_w[name].append(float(value or 0.0))
            self.stopping.wait(SAMPLE_S)


def measure_power(board: Board, step: Optional[Callable[[], None]], wanted_s: Optional[float] = None) -> List[Row]:
    """Rows of power, one a rail and one for the total, while `step` repeats (None: while nothing runs).

    Args:
        wanted_s: length of the window; None takes what the slowest rail needs.

    A settling time passes first: the monitor's own average still holds what was before. A rail that gave no
    reading has no value.
    """
    seconds = wanted_s or window_s(board)
    _busy(step, max(min(SETTLE_S, seconds), MEMORY_UPDATES * max(rail.update_s for rail in board.rails)))
    sampler = _Sampler(board)
    sampler.start()
    _busy(step, seconds)
    sampler.stopping.set()
    sampler.join()
    name, members = board.total()
    rows = [
        _row(sampler.power_w[rail.name], sampler.times_s, rail, _meter(rail, rail.name == name)) for rail in board.rails
    ]
    if members and name not in sampler.power_w:
        sums = [sum(values) for values in zip(*(sampler.power_w[member] for member in members))]
        steps_w = [rail.step_w() for rail in board.rails if rail.name in members]
        # Steps of a sum's parts are independent of each other.
        step_w = math.sqrt(sum(step**2 for step in steps_w if step)) if all(steps_w) else None
        meter = dict(_meter(board.rails[0], True), scope=SUM_SCOPE, quantisation_w=step_w)
        rows.append(dict(_row(sums, sampler.times_s, board.rails[0], meter), rail=name, how="derived"))
    return rows


def _busy(step: Optional[Callable[[], None]], seconds: float) -> None:
    end = time.perf_counter() + seconds
    if step is None:
        time.sleep(seconds)
        return
    while time.perf_counter() < end:
        step()


def _meter(rail: InaRail, total: bool) -> Dict[str, object]:
    """How a rail was read, by the columns of a measurement."""
    return {
        "scope": scope(rail.name),
        "total": total,
        "source": SOURCE,
        "update_s": rail.update_s,
        "quantisation_w": rail.step_w(),
    }


def _row(values: List[float], times_s: List[float], rail: InaRail, meter: Row) -> Row:
    row = {
        "rail": rail.name,
        "meter": meter,
        "details": rail.facts(),
        "samples": {"end_s": times_s, "power_w": values},
    }  # type: Row
    if len(values) < 2:
        row.update(value=None, flags=["no whole sensor update"])
        return row
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    # Readings inside one averaging interval repeat each other.
    span_s = times_s[-1] - times_s[0]
    independent = max(1.0, min(float(len(values)), span_s / (rail.update_s or SAMPLE_S)))
    step_w = meter["quantisation_w"] or 0.0
    # A reading may lie anywhere within its step, which has a variance of step^2 / 12; repeating does not
    # average it out.
    error = math.sqrt(variance / independent + step_w**2 / 12.0)
    row.update(value=mean, stderr=error, ci95=(mean - 1.96 * error, mean + 1.96 * error), n=int(independent))
    return row
