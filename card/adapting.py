"""Between two rounds: keep what was decided, or decide anew for what was learnt.

A plan is solved again for the constants as they are known now. A device moves only where that pays:

    (U(kept) - U(new)) h - U(move)  >  gain V h        over the h rounds that are left, at most `horizon`
    P(U(kept) > U(new))             >  probability     over the draws of what was learnt

with U the cost of `objective`, its ranges those of the constants as they are known, or as drawn, and V the price of
the new choice (`schemes.card.open_plan`). U(move) is what fetching layers costs the first of these rounds. Where what
was decided no longer keeps a limit, and another choice does, the device moves whatever it costs. A cap on all devices
together is kept by all of them, so they move together or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cardlab.card.problem.arrays import Array, Index
from cardlab.card.problem.constraints import limits_of
from cardlab.card.problem.objective import Range, cost, table
from cardlab.card.problem.problem import Problem
from cardlab.card.problem.ratios import TermRatios, with_ratios
from cardlab.card.schemes.card.open_plan import price_of
from cardlab.card.solvers.enumeration import Choice, best_choice, extents_of
from cardlab.card.solvers.together import capped
from cardlab.card.uncertainty import Uncertainty, with_guard
from cardlab.core.errors import InfeasibleError
from cardlab.core.records.plan import Decision

# A device's choice: index of its cut, column of its table.
Place = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hysteresis:
    """What a change must bring: `gain`, a share of the plan's price; its probability; rounds it may take to pay."""

    gain: float = 0.01
    probability: float = 0.9
    horizon: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What is known of the ratios: their medians, and draws of all of them, made where a move is looked at."""

    middle: TermRatios
    draws: Callable[[], Sequence[TermRatios]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What was decided for all devices [M], and how many rounds are left."""

    places: tuple[Place, ...]
    rounds_left: int
    hysteresis: Hysteresis = Hysteresis()


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A device that moves.

    Attributes:
        device: its index.
        before, after: choices.
        gain: what a round costs less, as a share of its price.
        probability: that it does; None where a limit made it move.
        limit: what was decided no longer keeps a limit.
    """

    device: int
    before: Place
    after: Place
    gain: float
    probability: float | None
    limit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Readjusted:
    """The choices for the rounds to come.

    Attributes:
        problem: with the ratios as known now.
        places: of each device [M].
        moves: of those that change.
        refusal: the limit that no choice keeps any more; everything is then left as it was.
    """

    problem: Problem
    places: tuple[Place, ...]
    moves: tuple[Move, ...]
    refusal: str | None = None


def readjusted(problem: Problem, learnt: Learnt, now: Standing, uncertainty: Uncertainty | None = None) -> Readjusted:
    """The choices for the rounds to come, from the plan's problem, what was learnt and what was decided so far.

    `uncertainty` is that of the constants, for a deadline that is to hold with a confidence.
    """
    known = with_guard(with_ratios(problem, learnt.middle), uncertainty)
    if now.rounds_left < 1:
        return Readjusted(problem=known, places=now.places, moves=())
    looked = _Looked(known, problem, learnt, now)
    try:
        new = looked.candidates()
    except InfeasibleError as error:
        return Readjusted(problem=known, places=now.places, moves=(), refusal=error.message)
    every = range(len(now.places))
    joined = problem.constraints.fleet_energy_j is not None
    moves = [move for group in ([every] if joined else [[m] for m in every]) for move in looked.moves(group, new)]
    places = list(now.places)
    for move in moves:
        places[move.device] = move.after
    return Readjusted(problem=known, places=tuple(places), moves=tuple(moves))


def places_of(problem: Problem, decisions: Sequence[Decision]) -> tuple[Place, ...]:
    """The choices that these decisions of its devices [M] are.

    Raises ValueError where the problem does not have one of them.
    """
    found = []
    for m, decision in enumerate(decisions):
        t = table(problem, m)
        cuts = np.flatnonzero(problem.cuts == decision.cut)
        columns = np.flatnonzero(
            _same(t.frequency_hz, decision.frequency_hz) & _same(t.device_frequency_hz, decision.device_frequency_hz)
        )
        if not cuts.size or not columns.size:
            raise ValueError(f"no choice of {decision.device} has the cut and the frequencies of its decision")
        found.append((int(cuts[0]), int(columns[0])))
    return tuple(found)


def _same(frequencies_hz: Array, hz: float | None) -> np.ndarray:
    """Which frequencies are that one; those that are not known where it is not."""
    return np.isnan(frequencies_hz) if hz is None else np.isclose(frequencies_hz, hz, rtol=1e-9, atol=0.0)


class _Looked:
    """The problem as known now, looked at from what was decided."""

    def __init__(self, known: Problem, problem: Problem, learnt: Learnt, now: Standing) -> None:
        self._known, self._problem, self._learnt, self._now = known, problem, learnt, now
        self._extents = extents_of(known)
        before: Index = known.cuts[[cut for cut, _ in now.places]]
        self._moved = known.moved_from(before)

    def candidates(self) -> list[Choice]:
        """The best choices. Raises InfeasibleError."""
        found = [self._candidate(m, extent) for m, extent in enumerate(self._extents)]
        cap_j = self._known.constraints.fleet_energy_j
        return found if cap_j is None else capped(self._known, found, cap_j)

    def _candidate(self, m: int, extent: Range) -> Choice:
        best = best_choice(self._known, m, extent)
        if self._moved is self._known:
            return best
        # The round in which layers are fetched has to keep its limits too, where some choice does.
        costs = np.where(limits_of(self._moved, m, table(self._moved, m)).feasible, best.costs, np.inf)
        if not np.isfinite(costs).any():
            return best
        cut, column = (int(i) for i in np.unravel_index(int(np.argmin(costs)), costs.shape))
        return replace(best, cut=cut, frequency=column, cost=float(costs[cut, column]), costs=costs)

    def moves(self, group: Sequence[int], new: Sequence[Choice]) -> list[Move]:
        """The moves of devices that move together; none where it does not pay."""
        after = {m: (new[m].cut, new[m].frequency) for m in group}
        moving = [m for m in group if after[m] != self._now.places[m]]
        if not moving:
            return []
        every = {m: cost(self._known, new[m].table, self._extents[m]) for m in moving}
        pays_by = {m: float(every[m][self._now.places[m]] - every[m][after[m]]) for m in moving}
        price = sum(price_of(self._known, self._extents[m], float(every[m][after[m]])) for m in moving)
        gain = sum(pays_by.values()) / price
        limit = not self._keeps(group, new)
        probability = None
        if not limit:
            rule = self._now.hysteresis
            rounds = min(self._now.rounds_left, rule.horizon)
            once = sum(self._move_costs(m, after[m], every[m]) for m in moving)
            if sum(pays_by.values()) * rounds - once <= rule.gain * price * rounds:
                return []
            probability = self._probability(moving, after)
            if probability <= rule.probability:
                return []
        return [
            Move(
                device=m,
                before=self._now.places[m],
                after=after[m],
                gain=gain,
                probability=probability,
                limit=limit,
            )
            for m in moving
        ]

    def _keeps(self, group: Sequence[int], new: Sequence[Choice]) -> bool:
        """Whether what was decided keeps the limits as far as is known now."""
        places = {m: self._now.places[m] for m in group}
        if not all(bool(new[m].limits.feasible[places[m]]) for m in group):
            return False
        cap_j = self._known.constraints.fleet_energy_j
        own = [new[m].table.device_energy_j for m in group]
        spent_j = sum(float(e[places[m]]) for m, e in zip(group, own, strict=True) if e is not None)
        return cap_j is None or spent_j <= cap_j * (1.0 + 1e-12)

    def _move_costs(self, m: int, after: Place, staying: Array) -> float:
        """What fetching layers adds to the cost of the round in which a device moves."""
        if self._moved is self._known:
            return 0.0
        return float(cost(self._moved, table(self._moved, m), self._extents[m])[after] - staying[after])

    def _probability(self, moving: Sequence[int], after: dict[int, Place]) -> float:
        """Share of the draws in which the new choices keep their limits and cost less, ranges as in the draw."""
        better, draws = 0, self._learnt.draws()
        for ratios in draws:
            drawn = replace(with_ratios(self._problem, ratios), guard_s=self._known.guard_s)
            total, kept, extents = 0.0, True, extents_of(drawn)
            for m in moving:
                t = table(drawn, m)
                costs = cost(drawn, t, extents[m])
                total += float(costs[self._now.places[m]] - costs[after[m]])
                kept = kept and bool(limits_of(drawn, m, t).feasible[after[m]])
            better += kept and total > 0.0
        return better / len(draws)
