"""All devices of a round decided at once, where a cap holds for the sum of their energies.

Without such a cap every device is decided alone. With one, each device takes one point of its front of (energy, cost),
so that the cost of all is least and the energies keep the cap: a multiple-choice knapsack. Lagrange's multiplier
bounds it from below; a choice that costs more above that bound than the best plan found does can be in no better plan
and is left out; what remains is gone through device by device, keeping sums that no other beats in both and that can
still win. The answer is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cardlab.card.problem.arrays import Array, Index
from cardlab.card.problem.objective import Range
from cardlab.card.problem.problem import Problem
from cardlab.card.solvers.enumeration import Choice, best_choice
from cardlab.core.errors import InfeasibleError, PlanError
from cardlab.core.text import si

FLEET_CAP = "fleet energy cap"
_BISECTIONS = 200
# Sums kept at once: more would be gigabytes, and a fleet whose bound is that loose has never been seen.
_MOST_SUMS = 5_000_000


def choices_of(
    problem: Problem, extents: Sequence[Range], cuts: Array | None = None, frequencies: Array | None = None
) -> list[Choice]:
    """The best choice of every device; `cuts` and `frequencies` as in `best_choice`. Raises InfeasibleError."""
    found = [best_choice(problem, m, extent, cuts, frequencies) for m, extent in enumerate(extents)]
    cap_j = problem.constraints.fleet_energy_j
    return found if cap_j is None else capped(problem, found, cap_j)


def capped(problem: Problem, alone: Sequence[Choice], cap_j: float) -> list[Choice]:
    """The choices of least cost whose energies together keep the cap."""
    if problem.continuous is not None and problem.objective.device_energy == "round":
        raise PlanError(
            "a cap on the energy of all devices needs listed server frequencies where their whole rounds count",
            remedy="list frequencies_hz in [server], or use --device-energy compute",
        )
    pairs = [(choice.costs, _own(choice)) for choice in alone]
    columns = columns_of(pairs, cap_j)
    if columns is None:
        least_j = sum(float(own[np.isfinite(costs)].min()) for costs, own in pairs)
        raise InfeasibleError(
            f"{FLEET_CAP} of {si(cap_j, 'J')} cannot be kept, the best possible is {si(least_j, 'J')}",
            remedy="raise --max-fleet-energy",
        )
    left_j = cap_j - sum(float(own.ravel()[i]) for (_, own), i in zip(pairs, columns, strict=True))
    return [_at(choice, i, left_j) for choice, i in zip(alone, columns, strict=True)]


def columns_of(pairs: Sequence[tuple[Array, Array]], cap_j: float) -> list[int] | None:
    """Place of each device's choice in its flattened (costs, energies) [C,K]; None where no plan keeps the cap."""
    fronts = [_front(costs.ravel(), own.ravel()) for costs, own in pairs]
    if any(not front.cost.size for front in fronts) or _sum_j(fronts, [0] * len(fronts)) > cap_j:
        return None
    return [int(front.column[i]) for front, i in zip(fronts, cheapest(fronts, cap_j), strict=True)]


def _own(choice: Choice) -> Array:
    # `check_caps` has made sure that the power is known.
    assert choice.table.device_energy_j is not None
    return choice.table.device_energy_j


@dataclass(frozen=True, slots=True)
class Front:
    """Choices of a device none of which another beats in both: energy rising, cost falling; columns of its table."""

    energy_j: Array
    cost: Array
    column: Index


def _front(costs: Array, own: Array) -> Front:
    feasible = np.flatnonzero(np.isfinite(costs))
    # Of equals the first column: the smaller cut, then the lower frequency, as one device alone decides.
    order = feasible[np.lexsort((feasible, costs[feasible], own[feasible]))]
    best = np.minimum.accumulate(np.concatenate(([np.inf], costs[order][:-1]))) if order.size else np.empty(0)
    kept = order[costs[order] < best]
    return Front(own[kept], costs[kept], kept)


def cheapest(fronts: Sequence[Front], cap_j: float) -> list[int]:
    """Index of one choice of each front: the least sum of costs whose energies keep the cap, which some do."""
    free = [front.cost.size - 1 for front in fronts]
    if _sum_j(fronts, free) <= cap_j:
        return free
    price, within = _multiplier(fronts, cap_j)
    reduced = [front.cost + price * front.energy_j for front in fronts]
    least = [float(r.min()) for r in reduced]
    bound = sum(least) - price * cap_j
    best = sum(float(front.cost[i]) for front, i in zip(fronts, within, strict=True))
    # A choice is in no better plan if the others at their least reduced cost cannot make up for it.
    above = [r - low for r, low in zip(reduced, least, strict=True)]
    room = best - bound + 1e-12 * (1.0 + abs(best))
    kept = [np.flatnonzero(a <= room) for a in above]
    return _searched(fronts, kept, _Bound(price=price, above=above, room=room), cap_j) or within


def _multiplier(fronts: Sequence[Front], cap_j: float) -> tuple[float, list[int]]:
    """The price of a joule at which the energies just keep the cap, and the choices at it that do."""

    def at(price: float) -> list[int]:
        # Of equals the first, which takes the least energy.
        return [int(np.argmin(front.cost + price * front.energy_j)) for front in fronts]

    low, high = 0.0, 1.0
    while _sum_j(fronts, at(high)) > cap_j and high < 1e300:
        low, high = high, 4.0 * high
    within = at(high)
    if _sum_j(fronts, within) > cap_j:
        within = [0] * len(fronts)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        found = at(middle)
        if _sum_j(fronts, found) <= cap_j:
            high, within = middle, found
        else:
            low = middle
    return high, _filled(fronts, within, cap_j)


def _filled(fronts: Sequence[Front], places: list[int], cap_j: float) -> list[int]:
    """The same with what the cap leaves spent where a joule saves most: a plan to beat, not the best one."""
    found, left = list(places), cap_j - _sum_j(fronts, places)
    while True:
        best, best_m, best_i = 0.0, -1, -1
        for m, front in enumerate(fronts):
            more = front.energy_j[found[m] + 1 :] - front.energy_j[found[m]]
            saves = front.cost[found[m]] - front.cost[found[m] + 1 :]
            fits = np.flatnonzero(more <= left)
            if fits.size and saves[fits].max() > best:
                best, best_m = float(saves[fits].max()), m
                best_i = found[m] + 1 + int(fits[np.argmax(saves[fits])])
        if best_m < 0:
            return found
        left -= float(fronts[best_m].energy_j[best_i] - fronts[best_m].energy_j[found[best_m]])
        found[best_m] = best_i


def _sum_j(fronts: Sequence[Front], places: Sequence[int]) -> float:
    return sum(float(front.energy_j[i]) for front, i in zip(fronts, places, strict=True))


@dataclass(frozen=True, slots=True)
class _Bound:
    """The price of a joule, what each choice costs above the bound at it, and how much above a plan may be."""

    price: float
    above: Sequence[Array]
    room: float


def _searched(fronts: Sequence[Front], kept: Sequence[Index], bound: _Bound, cap_j: float) -> list[int] | None:
    """The best plan among the kept choices, None where none is within the bound's room."""
    # The least that the devices not yet decided can take, for every number decided.
    smallest_j = [float(front.energy_j[places[0]]) for front, places in zip(fronts, kept, strict=True)]
    rest_j = np.cumsum([0.0, *smallest_j[::-1]])[::-1]
    energy, cost, above = np.zeros(1), np.zeros(1), np.zeros(1)
    trail: list[tuple[Index, Index]] = []
    for m, (front, places) in enumerate(zip(fronts, kept, strict=True)):
        sums_j = energy[:, None] + front.energy_j[places][None, :]
        sums = cost[:, None] + front.cost[places][None, :]
        more = above[:, None] + bound.above[m][places][None, :]
        # rest_j is of the devices from m on: what is left after this one must still fit.
        open_ = np.flatnonzero(((sums_j + rest_j[m + 1] <= cap_j * (1.0 + 1e-15)) & (more <= bound.room)).ravel())
        order = open_[np.lexsort((open_, sums.ravel()[open_], sums_j.ravel()[open_]))]
        if not order.size:
            return None
        falling = np.minimum.accumulate(np.concatenate(([np.inf], sums.ravel()[order][:-1])))
        order = order[sums.ravel()[order] < falling]
        if order.size > _MOST_SUMS:
            raise PlanError(f"{FLEET_CAP}: too many plans are nearly alike", remedy="plan fewer devices together")
        energy, cost, above = sums_j.ravel()[order], sums.ravel()[order], more.ravel()[order]
        trail.append((order // places.size, places[order % places.size]))
    within = np.flatnonzero(energy <= cap_j)
    if not within.size:
        return None
    i = int(within[np.argmin(cost[within])])
    found = []
    for came, place in reversed(trail):
        found.append(int(place[i]))
        i = int(came[i])
    return found[::-1]


def _at(choice: Choice, column: int, left_j: float) -> Choice:
    """A choice moved to a column of its table; what it could not move to alone is left out of its costs."""
    own = _own(choice)
    cut, frequency = (int(i) for i in np.unravel_index(column, choice.costs.shape))
    moved = (cut, frequency) != (choice.cut, choice.frequency)
    reach_j = float(own[cut, frequency]) + left_j
    costs = np.where(own <= reach_j * (1.0 + 1e-12), choice.costs, np.inf)
    return replace(
        choice, cut=cut, frequency=frequency, cost=float(choice.costs[cut, frequency]), costs=costs, capped=moved
    )
