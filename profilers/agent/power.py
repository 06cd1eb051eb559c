"""Rows of power: each rail and the total over a window, while work runs, by the rules of ../board."""

from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

from ..board.ina3221 import LEAST_WINDOW_S, SOURCE, InaRail, reading_memory_s, reading_update_s, systematic
from ..board.power import NO_UPDATE, is_possible, mean_known, mean_power, sum_step_w
from ..board.rails import SUM_SCOPE, scope
from ..board.rules import interval95
from ..board.sampler import Sampler
from ..board.timer import LapTimer, Timer
from ..board.window import WindowReading, idle_window_s, iterate, settle, window_s
from ..board.work import Work
from .board import Board
from .bundle import Row


class Tools(NamedTuple):
    """What the readings of a run share: how works are timed, the time they pass in, and who looks meanwhile."""

    lap_timer: LapTimer
    timer: Timer
    sampler: Sampler


class Rounds:
    """Readings of all rails, round by round; those of one round are at one index."""

    def __init__(self, rails: Sequence[InaRail], timer: Timer) -> None:
        self._rails, self._timer = rails, timer
        self.times_s: List[float] = []
        self.power_w: Dict[str, List[float]] = {rail.name: [] for rail in rails}
        self.thrown_out = 0

    def look(self) -> float:
        """Read every rail; seconds until the next round."""
        values = [(rail.name, rail.power_w()) for rail in self._rails]
        known = [value for _, value in values if value is not None]
        possible = all(is_possible(value, None, total=False) for value in known)
        self.thrown_out += not possible
        # A round with a gap is dropped whole, because the rails of a sum must agree on their index.
        if possible and len(known) == len(values):
            self.times_s.append(self._timer.now())
            for name, value in values:
                self.power_w[name].append(float(value or 0.0))
        return reading_update_s(self._rails)

    def sums_w(self, names: Sequence[str]) -> List[float]:
        """The sum of these rails, round by round."""
        return [sum(values) for values in zip(*(self.power_w[name] for name in names))]


def reading_s(board: Board) -> float:
    """Length of a power reading."""
    return window_s(reading_update_s(board.rails), LEAST_WINDOW_S)


def idle_s(board: Board) -> float:
    """Length of the reading with nothing to do."""
    return idle_window_s(reading_update_s(board.rails), LEAST_WINDOW_S)


def settle_power(
    board: Board, tools: Tools, work: Work, frequency: Callable[[], Optional[float]], requested_hz: Optional[float]
) -> None:
    """Run work until the frequency is the requested one and the board's power is steady."""
    _, members = board.total()

    def read(seconds: float) -> WindowReading:
        seen: List[Optional[float]] = []
        rounds = _record(board, tools, work, seconds, lambda: seen.append(frequency()))
        return WindowReading(mean_known(seen), mean_known(rounds.sums_w(members)))

    _lead(board, tools, work)
    settle(read, tools.timer, reading_update_s(board.rails), requested_hz)


def measure_power(
    board: Board, tools: Tools, work: Work, seconds: float, look: Optional[Callable[[], object]] = None
) -> List[Row]:
    """Rows of power, one a rail and one for the total, while work repeats.

    Args:
        seconds: length of the window; the time in which a reading still remembers what was before passes first.
        look: reads the board's state now and then while the work runs.

    A rail that gave no reading has no value.
    """
    _lead(board, tools, work)
    rounds = _record(board, tools, work, seconds, look)
    name, members = board.total()
    rows = []
    for rail in board.rails:
        rows.append(
            _row(rail.name, rounds.power_w[rail.name], rounds, _meter(board, rail, rail.name == name, rounds), rail)
        )
    if members and name not in rounds.power_w:
        step_w = sum_step_w([rail.step_w() for rail in board.rails if rail.name in members])
        meter = dict(_meter(board, board.rails[0], True, rounds), scope=SUM_SCOPE, quantisation_w=step_w)
        rows.append(dict(_row(name, rounds.sums_w(members), rounds, meter, board.rails[0]), how="derived"))
    return rows


def _lead(board: Board, tools: Tools, work: Work) -> None:
    """Run work until the monitors have forgotten what was before."""
    iterate(work, tools.lap_timer, tools.timer, tools.timer.now() + reading_memory_s(board.rails))


def _record(
    board: Board, tools: Tools, work: Work, seconds: float, look: Optional[Callable[[], object]] = None
) -> Rounds:
    rounds = Rounds(board.rails, tools.timer)
    with tools.sampler.during(rounds.look):
        iterate(work, tools.lap_timer, tools.timer, tools.timer.now() + seconds, look)
    return rounds


def _meter(board: Board, rail: InaRail, total: bool, rounds: Rounds) -> Row:
    """How a rail was read, by the columns of a measurement."""
    return {
        "scope": scope(rail.name),
        "total": total,
        "source": f"{SOURCE}; {rounds.thrown_out} readings thrown out" if rounds.thrown_out else SOURCE,
        "update_s": reading_update_s(board.rails),
        "quantisation_w": rail.step_w(),
    }


def _row(name: str, values_w: List[float], rounds: Rounds, meter: Row, rail: InaRail) -> Row:
    row: Row = {
        "rail": name,
        "meter": meter,
        "details": rail.facts(),
        "samples": {"end_s": rounds.times_s, "power_w": values_w},
    }
    found = mean_power(values_w, meter["quantisation_w"])
    meter = dict(meter, systematic=systematic(None if found is None else found.value_w, meter["quantisation_w"]))
    row["meter"] = meter
    if found is None:
        row.update(value=None, flags=[NO_UPDATE])
        return row
    row.update(value=found.value_w, stderr=found.stderr_w, n=found.n)
    if found.stderr_w is not None:
        row["ci95"] = interval95(found.value_w, found.stderr_w)
    return row
