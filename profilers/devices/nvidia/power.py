"""Power of an NVIDIA card: the total-energy counter from tick to tick.

    counter   ____|------|------|------|------|--      moves every 100 ms or so
    looks     | |||    |||    |||    |||    |||        often only where a tick is due
    whole ticks   [======================]             energy / time between observed moves

The time of a move is known to the gap between two looks; a move seen late is no boundary, its tick is joined to
the next. Samples of the instant field are taken at each move and their mean is kept beside the counter's as a
check. Without a counter the instant field is the source, and without that the one-second average.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean, median

from cardlab.profilers.board.sampler import Sampler
from cardlab.profilers.board.timer import Timer
from cardlab.profilers.devices.nvidia.nvml import Card
from cardlab.profilers.devices.power import PowerMeter, Rail, RailTrace, Recording

BOARD = Rail(name="board", scope="whole card", total=True)
# A move is known to this and the call's own time, 2.3 ms on an H200: 3 % of a tick at the two ends of a window.
LOOK_S = 0.001
TICK_S = 0.1
# Cards held against meters read 8 % less to 13 % more, each always the same: NVML promises plus or minus 5 %.
SYSTEMATIC = 0.05
AVERAGE_S = 1.0
# A look that was kept waiting for a CPU does not tell when the counter moved.
_LATE_S = 0.003
_LATE_SHARE = 0.05
# Longer than the longest tick known: the counter has not moved where it should have.
_STILL_S = 0.15

Boundary = tuple[float, float]
"""Time and energy at a move of the counter."""


class NvmlMeter(PowerMeter):
    """The card's power by the best source that it has.

    Attributes:
        source: "counter", "instant" or "average".
    """

    def __init__(self, card: Card, timer: Timer, sampler: Sampler, source: str) -> None:
        self.rails = (BOARD,)
        self.source = source
        self.update_s = AVERAGE_S if source == "average" else TICK_S
        self._card = card
        self._timer = timer
        self._sampler = sampler

    @contextmanager
    def recording(self) -> Iterator[Recording]:
        """Raises DeviceLostError at the end of the block if the card went away."""
        recording = _Ticks(self._card, self._timer) if self.source == "counter" else None
        plain = recording or _Samples(self._card, self._timer, self.source, self.update_s)
        with self._sampler.during(plain.look):
            yield plain


def best_source(card: Card) -> str | None:
    """The best source of power that answers now, None if none does."""
    if card.energy_j() is not None:
        return "counter"
    if card.instant_w() is not None:
        return "instant"
    return "average" if card.average_w() is not None else None


class _Samples(Recording):
    """Readings of a sensor that averages over its own window: the first may reach back before the start."""

    def __init__(self, card: Card, timer: Timer, source: str, update_s: float) -> None:
        self._read = card.instant_w if source == "instant" else card.average_w
        self._timer = timer
        self._source = source
        self._update_s = update_s
        self._end_s: list[float] = []
        self._power_w: list[float] = []
        self._first = True

    def look(self) -> float:
        power_w = self._read()
        if power_w is not None and not self._first:
            self._end_s.append(self._timer.now())
            self._power_w.append(power_w)
        self._first = False
        return self._update_s

    @property
    def traces(self) -> Mapping[str, RailTrace]:
        words = "instant power field" if self._source == "instant" else "power usage, a one-second mean"
        return {BOARD.name: _trace(self._end_s, self._power_w, self._update_s, words)}


class _Ticks(Recording):
    def __init__(self, card: Card, timer: Timer) -> None:
        self._card = card
        self._timer = timer
        self._looked: Boundary | None = None
        self._moves: list[tuple[float, float, float]] = []
        self._instants: list[tuple[float, float]] = []
        self._counting = True
        self._sampled_s = -math.inf

    def look(self) -> float:
        before_s = self._timer.now()
        energy_j = self._card.energy_j() if self._counting else None
        at_s = (before_s + self._timer.now()) / 2
        if energy_j is None:
            self._counting = False
            self._keep_instant(at_s)
            return TICK_S
        last, self._looked = self._looked, (at_s, energy_j)
        if last is not None and energy_j != last[1]:
            self._moves.append(((last[0] + at_s) / 2, energy_j, at_s - last[0]))
            self._keep_instant(at_s)
            return self._until_due(at_s)
        # Some counters stand still for good: then these samples are all there is.
        if at_s - self._sampled_s > _STILL_S:
            self._keep_instant(at_s)
        return LOOK_S

    def _keep_instant(self, at_s: float) -> None:
        self._sampled_s = at_s
        power_w = self._card.instant_w()
        if power_w is not None:
            self._instants.append((at_s, power_w))

    def _until_due(self, at_s: float) -> float:
        """Rest for most of a tick, once two moves seen in time have told how long one is."""
        good = [move for move in self._moves[-3:] if _timely(move[2], TICK_S)]
        if len(good) < 3:
            return LOOK_S
        # The shortest gap, since a longer one may hold two ticks.
        tick_s = min(b[0] - a[0] for a, b in zip(good, good[1:], strict=False))
        # Awake a little before the next move, so that it falls between two close looks.
        return max(LOOK_S, 0.92 * tick_s - (at_s - self._moves[-1][0]))

    @property
    def traces(self) -> Mapping[str, RailTrace]:
        end_s, power_w, tick_s = whole_ticks(self._moves)
        if not power_w:
            samples = self._instants[1:]
            words = "instant power field; the energy counter gave no whole tick"
            return {BOARD.name: _trace([t for t, _ in samples], [p for _, p in samples], TICK_S, words)}
        # The first sample tells of the tick before the window.
        check = [p for t, p in self._instants if self._moves[0][0] + tick_s / 2 < t]
        check_w = fmean(check) if check else None
        words = "total-energy counter, whole ticks"
        if check_w is not None:
            words += f"; instant samples differ by {check_w / fmean(power_w) - 1:+.1%}"
        return {BOARD.name: _trace(end_s, power_w, tick_s, words, check_w)}


def whole_ticks(moves: Sequence[tuple[float, float, float]]) -> tuple[list[float], list[float], float]:
    """End times and mean power of whole ticks, and the length of a tick.

    Args:
        moves: time in s, energy in J, and the gap in s between the looks before and after each move.

    Several ticks between two boundaries seen in time count as that many equal ones.
    """
    if len(moves) < 2:
        return [], [], TICK_S
    tick_s = median(b[0] - a[0] for a, b in zip(moves, moves[1:], strict=False))
    timely = [move for move in moves if _timely(move[2], tick_s)]
    boundaries = timely if len(timely) >= 2 else list(moves)
    end_s: list[float] = []
    power_w: list[float] = []
    for (start, start_j, _), (end, end_j, _) in zip(boundaries, boundaries[1:], strict=False):
        count = max(1, round((end - start) / tick_s))
        end_s += [start + (k + 1) * (end - start) / count for k in range(count)]
        power_w += [(end_j - start_j) / (end - start)] * count
    return end_s, power_w, tick_s


def _timely(gap_s: float, tick_s: float) -> bool:
    """Whether the looks around a move were close enough together to tell when it came."""
    return gap_s <= max(_LATE_S, _LATE_SHARE * tick_s)


def _trace(
    end_s: Sequence[float], power_w: Sequence[float], update_s: float, source: str, check_w: float | None = None
) -> RailTrace:
    return RailTrace(
        rail=BOARD,
        end_s=tuple(end_s),
        power_w=tuple(power_w),
        update_s=update_s,
        # The counter moves in millijoules, the fields in milliwatts.
        quantisation_w=1e-3 / update_s if "counter, whole" in source else 1e-3,
        source=source,
        check_w=check_w,
        systematic=SYSTEMATIC,
    )
