"""A battery for all rounds: each device may spend so many joules in N rounds, whatever their links turn out to be.

Drift plus penalty (Lyapunov; Neely 2010, chapter 4). A device has a virtual queue Z of what it spent above its share,
and takes in round t the choice that keeps every limit and minimises

    V U(t) + Z(t) E(t),        Z(t+1) = max(0, Z(t) + E(t) - b(t)),        b(t) = what is left / rounds left

with U the cost of the plan's objective and E the device's energy, counted as the objective says. No round knows the
links of later ones. Z/V is the price of a joule. Whenever the rounds seen have grown by a thirtieth the queue is put
where they would have had it: V p, with p the price at which their energies would have been the share (place-holder
backlog; Huang, Liu and Hao 2014), and V = sqrt(N) dE / p, with dE what their cheapest and thriftiest choices differ
by: a round then moves the price by at most a part in sqrt(N), and both the loss and the overspending on the way vanish
as N grows.

Since a battery is empty when it is empty, no round may take what the thriftiest choices of the rounds to come will
need: their mean in the rounds seen, and three standard deviations of their sum. Where a round's own energy follows its
link that is no certainty, and a budget only just above the least that is possible may be missed: `kept` says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cardlab.card.problem.arrays import Array, Index
from cardlab.card.problem.constraints import check_caps
from cardlab.card.problem.objective import Range, check_energy, device_power_remedy, unknown_device_power
from cardlab.card.problem.problem import Problem
from cardlab.card.solvers.enumeration import Choice, best_choice, extents_of
from cardlab.core.errors import InfeasibleError, PlanError
from cardlab.core.text import si

# Growth of the rounds seen after which the price is found anew. Settled at every doubling, 5 of 120 simulated budgets
# cost more than a twentieth above hindsight; at this, one (by 5.1 %).
_GROWN = 1.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgeted:
    """What becomes of the rounds of one job with a budget, beside those planned one by one without.

    Attributes:
        budget_j: of each device, for all rounds.
        spent_j, myopic_j: energy of each device in all rounds, with the budget and without; kept: whether every one
            of spent_j is within it.
        cost, myopic_cost: of the objective, means over rounds of sums over devices.
        delay_s, server_energy_j: the same of the plan with the budget.
        frequency_hz: mean frequency of each device, None where it is not known.
    """

    budget_j: float
    spent_j: tuple[float, ...]
    myopic_j: tuple[float, ...]
    kept: bool
    cost: float
    myopic_cost: float
    delay_s: float
    server_energy_j: float | None
    frequency_hz: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class _Taken:
    """One choice of one device: cost without the price of its joules, and what it takes."""

    cost: float
    own_j: float
    delay_s: float
    server_energy_j: float | None
    frequency_hz: float


@dataclass(frozen=True, slots=True)
class _Round:
    """One round of one device: what may be chosen (cost, energy), and the table of it."""

    problem: Problem
    m: int
    extent: Range
    choice: Choice
    place: Index
    cost: Array
    own_j: Array

    @property
    def least_j(self) -> float:
        """Energy of the thriftiest choice."""
        return float(self.own_j.min())

    @property
    def free_j(self) -> float:
        """Energy of the cheapest choice; of equals the thriftiest."""
        return float(self.own_j[self.cost == self.cost.min()].min())

    def steps(self) -> list[tuple[float, float]]:
        """Prices at which a thriftier choice becomes the best one, and the joules that each of them saves."""
        found, cost, own_j = [], float(self.cost.min()), self.free_j
        while own_j > self.least_j:
            thriftier = self.own_j < own_j
            prices = (self.cost[thriftier] - cost) / (own_j - self.own_j[thriftier])
            price = float(prices.min())
            # Of several that take over at one price the thriftiest: those between are best nowhere.
            i = np.flatnonzero(thriftier)[prices <= price * (1.0 + 1e-12)]
            j = int(i[np.argmin(self.own_j[i])])
            found.append((price, own_j - float(self.own_j[j])))
            cost, own_j = float(self.cost[j]), float(self.own_j[j])
        return found

    def taken(self, price: float, room_j: float) -> _Taken:
        """The best choice at a price within what is left; the thriftiest where none is."""
        room_j = max(room_j, self.least_j)
        if self.problem.continuous is not None and self.problem.objective.device_energy == "round":
            # Where the server's frequency follows the price the table of another price lacks the best choice.
            return self._solved(price, room_j)
        priced = np.where(self.own_j <= room_j, self.cost + price * self.own_j, np.inf)
        return _of(self.choice, int(self.place[np.argmin(priced)]), 0.0)

    def _solved(self, price: float, room_j: float) -> _Taken:
        limits = self.problem.constraints
        cap_j = room_j if limits.device_energy_j is None else min(room_j, limits.device_energy_j)
        asked = replace(
            self.problem,
            device_price_per_j=np.full(len(self.problem.devices), price),
            constraints=replace(limits, device_energy_j=cap_j * (1.0 + 1e-12)),
        )
        found = best_choice(asked, self.m, self.extent)
        return _of(found, found.cut * found.costs.shape[1] + found.frequency, price)


def _round(problem: Problem, m: int, extent: Range) -> _Round:
    choice = best_choice(problem, m, extent)
    own = choice.table.device_energy_j
    # Its power is known (`with_budget`).
    assert own is not None
    place = np.flatnonzero(np.isfinite(choice.costs.ravel()))
    return _Round(problem, m, extent, choice, place, choice.costs.ravel()[place], own.ravel()[place])


def _of(choice: Choice, place: int, price: float) -> _Taken:
    t, at = choice.table, np.unravel_index(place, choice.costs.shape)
    assert t.device_energy_j is not None
    own_j = float(t.device_energy_j[at])
    return _Taken(
        cost=float(choice.costs[at]) - price * own_j,
        own_j=own_j,
        delay_s=float(t.delay_s[at]),
        server_energy_j=None if t.energy_j is None else float(t.energy_j[at]),
        frequency_hz=float(t.device_frequency_hz[at[1]]),
    )


def with_budget(problems: Sequence[Problem], budget_j: float) -> Budgeted:
    """The rounds of these problems, each device with `budget_j` joules for all of them.

    Raises InfeasibleError where not even the thriftiest choice of every round keeps it, and PlanError where a device's
    energy is not known or a cap on all devices binds what the budget decides apart.
    """
    first = problems[0]
    check_energy(first)
    check_caps(first)
    lacking = unknown_device_power(first)
    if lacking is not None:
        remedy = device_power_remedy(first, "leave the budget out")
        raise PlanError(f"a budget cannot be kept: {lacking}", remedy=remedy)
    if first.constraints.fleet_energy_j is not None:
        raise PlanError("a cap on all devices and a budget of each are two plans", remedy="leave fleet_energy_j out")
    free, kept = [], []
    extents = {id(p): extents_of(p) for p in problems}
    for m, name in enumerate(first.devices):
        rounds = [_round(p, m, extents[id(p)][m]) for p in problems]
        least_j = sum(r.least_j for r in rounds)
        if least_j > budget_j:
            raise InfeasibleError(
                f"{name}: a budget of {si(budget_j, 'J')} cannot be kept in {len(problems)} rounds, "
                f"the best possible is {si(least_j, 'J')}",
                remedy="raise --device-budget-j, or simulate fewer rounds",
            )
        free.append([r.taken(0.0, np.inf) for r in rounds])
        kept.append(_device(rounds, budget_j))
    spent = tuple(sum(t.own_j for t in taken) for taken in kept)
    energies = [t.server_energy_j for taken in kept for t in taken]
    count = len(problems)
    return Budgeted(
        budget_j=budget_j,
        spent_j=spent,
        myopic_j=tuple(sum(t.own_j for t in taken) for taken in free),
        kept=max(spent) <= budget_j * (1.0 + 1e-12),
        cost=sum(t.cost for taken in kept for t in taken) / count,
        myopic_cost=sum(t.cost for taken in free for t in taken) / count,
        delay_s=sum(t.delay_s for taken in kept for t in taken) / count,
        server_energy_j=None if None in energies else sum(e for e in energies if e is not None) / count,
        frequency_hz=tuple(_mean([t.frequency_hz for t in taken]) for taken in kept),
    )


def _device(rounds: Sequence[_Round], budget_j: float) -> list[_Taken]:
    """What a device takes in every round; of each decision no later round is looked at."""
    count, left_j, queue_j, weight, settle = len(rounds), budget_j, 0.0, 1.0, 1
    found: list[_Taken] = []
    seen = _Seen()
    for t, here in enumerate(rounds):
        share_j = left_j / (count - t)
        # The round in hand is seen before it is decided.
        seen.add(here)
        if t + 1 >= settle:
            queue_j, weight = seen.settled(share_j, count)
            settle = max(t + 2, math.ceil(_GROWN * (t + 1)))
        taken = here.taken(queue_j / weight, left_j - seen.reserve_j(count - t - 1))
        queue_j = max(0.0, queue_j + taken.own_j - share_j)
        left_j -= taken.own_j
        found.append(taken)
    return found


@dataclass
class _Seen:
    """What the rounds seen so far say: the price of a joule at which they would have kept a share."""

    free_j: list[float] = field(default_factory=list)
    least_j: list[float] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    steps: list[tuple[float, float]] = field(default_factory=list)

    def add(self, here: _Round) -> None:
        """One more round."""
        self.free_j.append(here.free_j)
        self.least_j.append(here.least_j)
        self.lost.append(float(here.cost[np.argmin(here.own_j)] - here.cost.min()))
        self.steps += here.steps()

    def price(self, share_j: float) -> float:
        """The least price at which the rounds take no more than their share; 0 where none does, or all do."""
        above_j = sum(self.free_j) - share_j * len(self.free_j)
        for price, saved_j in sorted(self.steps):
            if above_j <= 0.0:
                break
            above_j -= saved_j
            if above_j <= 0.0:
                # Just above it, so that the choice that takes over has.
                return price * (1.0 + 1e-9)
        return 0.0

    def settled(self, share_j: float, count: int) -> tuple[float, float]:
        """Queue, joules, and V, joules squared per unit of cost, that these rounds would have come to."""
        saved_j = (sum(self.free_j) - sum(self.least_j)) / len(self.free_j)
        price = self.price(share_j)
        if price > 0.0 and saved_j > 0.0:
            weight = math.sqrt(count) * saved_j / price
            return weight * price, weight
        # Nothing to save, or nothing to pay for yet: the queue begins at nothing, and fills at the mean price.
        lost = sum(self.lost) / len(self.lost)
        return 0.0, 1.0 if saved_j <= 0.0 or lost <= 0.0 else math.sqrt(count) * saved_j**2 / lost

    def reserve_j(self, rest: int) -> float:
        """What the thriftiest choices of so many rounds will hardly be above."""
        return rest * float(np.mean(self.least_j)) + 3.0 * float(np.std(self.least_j)) * math.sqrt(rest)


def _mean(values: Sequence[float]) -> float | None:
    return None if np.isnan(values).any() else float(np.mean(values))
