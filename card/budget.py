"""A battery for all rounds: each device may spend so many joules in N rounds, whatever their links turn out to be.

Drift plus penalty (Lyapunov; Neely 2010, chapter 4). A device has a virtual queue Z of joules, and takes in round t the
choice that keeps every limit and minimises

    V U(t) + Z(t) E(t)

with U the cost of the plan's objective and E the device's energy, counted as the objective says: Z/V is the price of a
joule. The queue is put anew in every round where rounds like those that are known would hold it (place-holder backlog;
Huang, Liu and Hao 2014): at the least price at which they spend no more than the share. Known are the round in hand,
those before it and, where a channel draws the links, as many other draws of it; no later round's. What was overspent is
missing from what is left, which the share is made of, so nothing is counted twice.

    share(t) = min over k of (left - R(k)) / (rounds left - k),    0 <= k < rounds left
    R(k) = k m + max(2 s sqrt(k), worst - m),    R(0) = 0

R(k) is what the thriftiest choices of the last k rounds will hardly need more of; m, s and worst are the mean, standard
deviation and most of the thriftiest choices' energies. A reserve that only the last rounds need is so put by in all of
them at one price, where that costs least, and lowers no share while what is left is far above it. At that price no
choice may take what R says of the rounds to come, and the last round takes the best of what is left. Where a round's
least energy follows its link none of this is certain: `kept` says what became of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cardlab.card.problem.arrays import Array, Index
from cardlab.card.problem.constraints import check_caps, limits_of
from cardlab.card.problem.objective import Range, check_energy, device_power_remedy, unknown_device_power
from cardlab.card.problem.objective import cost as cost_of
from cardlab.card.problem.problem import Problem
from cardlab.card.solvers.enumeration import Choice, best_choice, extents_of
from cardlab.core.errors import InfeasibleError, PlanError
from cardlab.core.records.budget import Budgeted, all_kept
from cardlab.core.text import si

# Other rounds of a channel that a plan with budgets knows: with none, budgets under Rayleigh fading that bind nothing
# cost up to 8 % more than the plan without; with these nothing (docs/device-energy.md).
DRAWS = 200
# Standard deviations that are put by, and that no choice may take.
_PUT_BY = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetedRound:
    """One round as it was decided.

    Attributes:
        problem: with what moving the cuts takes; joules without a price.
        extents: ranges of each device [M].
        choices: of each device [M]; their costs are without the price.
        price_per_j: cost of a joule of each device at which it was decided [M].
    """

    problem: Problem
    extents: Sequence[Range]
    choices: tuple[Choice, ...]
    price_per_j: tuple[float, ...]

    @property
    def cuts(self) -> Index:
        """Layers on each device [M]."""
        return np.asarray(self.problem.cuts[[choice.cut for choice in self.choices]])


def with_budget(
    problems: Sequence[Problem], budgets_j: Sequence[float | None], known: Sequence[Problem] = ()
) -> Budgeted:
    """What becomes of the rounds of these problems with budgets for all of them, beside those without; the arguments
    and errors of `budgeted_rounds`."""
    return decided_beside(problems, budgets_j, known)[1]


def decided_beside(
    problems: Sequence[Problem], budgets_j: Sequence[float | None], known: Sequence[Problem] = ()
) -> tuple[list[BudgetedRound], Budgeted]:
    """`budgeted_rounds`, and what they are in a few numbers beside the same rounds without budgets."""
    solver = _Rounds()
    rounds = _decided(solver, problems, budgets_j, known)
    return rounds, _summary(rounds, _decided(solver, problems, [None] * len(budgets_j)), budgets_j)


def _summary(
    rounds: Sequence[BudgetedRound], alone: Sequence[BudgetedRound], budgets_j: Sequence[float | None]
) -> Budgeted:
    spent, myopic = _each_j(rounds), _each_j(alone)
    mine, other = _means(rounds), _means(alone)
    each_hz = np.array([[c.table.device_frequency_hz[c.frequency] for c in r.choices] for r in rounds]).mean(axis=0)
    return Budgeted(
        devices=rounds[0].problem.devices,
        budget_j=tuple(budgets_j),
        spent_j=spent,
        myopic_j=myopic,
        kept=all_kept(tuple(budgets_j), spent),
        cost=mine.cost,
        myopic_cost=other.cost,
        delay_s=mine.delay_s,
        myopic_delay_s=other.delay_s,
        server_energy_j=mine.server_energy_j,
        myopic_server_energy_j=other.server_energy_j,
        frequency_hz=tuple(None if np.isnan(hz) else float(hz) for hz in each_hz),
    )


def _each_j(rounds: Sequence[BudgetedRound]) -> tuple[float | None, ...]:
    """Energy of each device in all rounds, None where its power is not known."""
    each = [[_own_j(choice) for choice in of_device] for of_device in zip(*(r.choices for r in rounds), strict=True)]
    return tuple(None if None in own else sum(e for e in own if e is not None) for own in each)


@dataclass(frozen=True, slots=True)
class _Means:
    cost: float
    delay_s: float
    server_energy_j: float | None


def _means(rounds: Sequence[BudgetedRound]) -> _Means:
    every, count = [choice for r in rounds for choice in r.choices], len(rounds)
    energies = [_at(c.table.energy_j, c) for c in every]
    return _Means(
        cost=sum(choice.cost for choice in every) / count,
        delay_s=sum(float(c.table.delay_s[c.cut, c.frequency]) for c in every) / count,
        server_energy_j=None if None in energies else sum(e for e in energies if e is not None) / count,
    )


def _at(values: Array | None, choice: Choice) -> float | None:
    return None if values is None else float(values[choice.cut, choice.frequency])


def _own_j(choice: Choice) -> float | None:
    return _at(choice.table.device_energy_j, choice)


def check_budgets(first: Problem, budgets_j: Sequence[float | None]) -> None:
    """Raise PlanError where a device with a budget has an energy that is not known, or all devices have a cap beside:
    it would bind what the budgets decide apart."""
    check_energy(first)
    check_caps(first)
    lacking = unknown_device_power(first, [budget is not None for budget in budgets_j])
    if lacking is not None:
        remedy = device_power_remedy(first, "leave the budget out")
        raise PlanError(f"a budget cannot be kept: {lacking}", remedy=remedy)
    if first.constraints.fleet_energy_j is not None:
        raise PlanError(
            "a cap on all devices in a round and a budget of each for all rounds are two plans",
            remedy="leave fleet_energy_j (--max-fleet-energy) or the budgets out",
        )


def budgeted_rounds(
    problems: Sequence[Problem], budgets_j: Sequence[float | None], known: Sequence[Problem] = ()
) -> list[BudgetedRound]:
    """The rounds of these problems in their order, each device with its budget for all of them, None without one.

    `known` are other rounds over the same channel, which none of these is. Of no decision a later round is looked at.

    Raises InfeasibleError where not even the thriftiest choice of every round keeps a budget, and PlanError as
    `check_budgets`.
    """
    return _decided(_Rounds(), problems, budgets_j, known)


def _decided(
    solver: _Rounds, problems: Sequence[Problem], budgets_j: Sequence[float | None], known: Sequence[Problem] = ()
) -> list[BudgetedRound]:
    if any(budget is not None for budget in budgets_j):
        check_budgets(problems[0], budgets_j)
    batteries = [None if budget is None else _Battery(left_j=budget) for budget in budgets_j]
    for m, battery in enumerate(batteries):
        if battery is not None:
            _refuse_if_too_small([solver.at(p, m) for p in problems], battery.left_j)
            for other in known:
                battery.seen.add(solver.at(other, m))
    found: list[BudgetedRound] = []
    for number, problem in enumerate(problems):
        asked = [(0.0, np.inf)] * len(batteries)
        for m, battery in enumerate(batteries):
            if battery is not None:
                asked[m] = battery.asked(solver.at(problem, m), len(problems) - number)
        here = solver.decided(problem, asked)
        if found and problem.device_layer_s is not None and not np.array_equal(found[-1].cuts, here.cuts):
            # Staying takes no time: where the best cuts are those of the round before it is decided already.
            here = solver.decided(solver.moved(problem, found[-1].cuts), asked)
        for battery, choice in zip(batteries, here.choices, strict=True):
            if battery is not None:
                battery.left_j -= _own_j(choice) or 0.0
        found.append(here)
    return found


def _refuse_if_too_small(rounds: Sequence[_Round], budget_j: float) -> None:
    least_j = sum(r.least_j for r in rounds)
    if least_j > budget_j:
        raise InfeasibleError(
            f"{rounds[0].name}: a budget of {si(budget_j, 'J')} cannot be kept in {len(rounds)} rounds, "
            f"the best possible is {si(least_j, 'J')}",
            remedy="raise energy_budget_j (--device-budget-j), or take fewer --rounds",
        )


class _Rounds:
    """What may be chosen in each round, found once for rounds that are alike."""

    def __init__(self) -> None:
        self._extents: dict[int, Sequence[Range]] = {}
        self._rounds: dict[tuple[int, int], _Round] = {}
        self._moved: dict[tuple[int, tuple[int, ...]], Problem] = {}

    def extents(self, problem: Problem) -> Sequence[Range]:
        """The range of each device."""
        if id(problem) not in self._extents:
            self._extents[id(problem)] = extents_of(problem)
        return self._extents[id(problem)]

    def at(self, problem: Problem, m: int) -> _Round:
        """One round of one device."""
        key = (id(problem), m)
        if key not in self._rounds:
            self._rounds[key] = _round(problem, m, self.extents(problem)[m])
        return self._rounds[key]

    def moved(self, problem: Problem, before: Index) -> Problem:
        """The problem of a round whose cuts were these in the round before."""
        key = (id(problem), tuple(before.tolist()))
        if key not in self._moved:
            self._moved[key] = problem.moved_from(before)
        return self._moved[key]

    def decided(self, problem: Problem, asked: Sequence[tuple[float, float]]) -> BudgetedRound:
        """The round with each device at its price of a joule and within its joules."""
        return BudgetedRound(
            problem=problem,
            extents=self.extents(problem),
            choices=tuple(self.at(problem, m).taken(price, room_j) for m, (price, room_j) in enumerate(asked)),
            price_per_j=tuple(price for price, _ in asked),
        )


@dataclass(frozen=True, slots=True)
class _Round:
    """One round of one device: the best choice without a budget, and what may be chosen [K]: place in the flattened
    table, cost, energy (NaN where the power is not known)."""

    problem: Problem
    m: int
    extent: Range
    choice: Choice
    place: Index
    cost: Array
    own_j: Array

    @property
    def name(self) -> str:
        """Of the device."""
        return self.problem.devices[self.m]

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

    def taken(self, price: float, room_j: float) -> Choice:
        """The best choice at a price of a joule within what is left; the thriftiest where none is."""
        if price == 0.0 and room_j == np.inf:
            return self.choice
        room_j = max(room_j, self.least_j)
        if self.problem.continuous is not None and self.problem.objective.device_energy == "round":
            # Where the server's frequency follows the price the table of another price lacks the best choice.
            return self._solved(price, room_j)
        priced = np.where(self.own_j <= room_j, self.cost + price * self.own_j, np.inf)
        return _moved_to(self.choice, int(self.place[np.argmin(priced)]), price, room_j)

    def _solved(self, price: float, room_j: float) -> Choice:
        limits, before = self.problem.constraints, self.problem.device_price_per_j
        cap_j = room_j if limits.device_energy_j is None else min(room_j, limits.device_energy_j)
        asked = replace(
            self.problem,
            device_price_per_j=np.full(len(self.problem.devices), price) + (0.0 if before is None else before),
            constraints=replace(limits, device_energy_j=cap_j * (1.0 + 1e-12)),
        )
        found = best_choice(asked, self.m, self.extent)
        # Decided at the price; told without it, and without the joules that are left as one more limit.
        t = replace(found.table, device_price_per_j=self.choice.table.device_price_per_j)
        kept = limits_of(self.problem, self.m, t)
        costs = np.where(kept.feasible, cost_of(self.problem, t, self.extent), np.inf)
        plain = replace(found, table=t, limits=kept, costs=costs)
        return _moved_to(plain, found.cut * costs.shape[1] + found.frequency, price, room_j)


def _round(problem: Problem, m: int, extent: Range) -> _Round:
    choice = best_choice(problem, m, extent)
    own = choice.table.device_energy_j
    place = np.flatnonzero(np.isfinite(choice.costs.ravel()))
    own_j = np.full(place.size, np.nan) if own is None else own.ravel()[place]
    return _Round(problem, m, extent, choice, place, choice.costs.ravel()[place], own_j)


def _moved_to(choice: Choice, place: int, price: float, room_j: float) -> Choice:
    """The choice at that place of its table; its cost is without the price."""
    cut, frequency = (int(i) for i in np.unravel_index(place, choice.costs.shape))
    return replace(
        choice,
        cut=cut,
        frequency=frequency,
        cost=float(choice.costs[cut, frequency]),
        price_per_j=price,
        room_j=room_j,
    )


@dataclass(kw_only=True)
class _Battery:
    """What one device has left, and the rounds that are known."""

    left_j: float
    seen: _Seen = field(default_factory=lambda: _Seen())

    def asked(self, here: _Round, rest: int) -> tuple[float, float]:
        """Price of a joule, and the joules that the round in hand may take; `rest` rounds are left with it."""
        # It is seen before it is decided.
        self.seen.add(here)
        if rest == 1:
            # Nothing is left for anyone but this round.
            return 0.0, self.left_j
        later = np.arange(rest, dtype=np.float64)
        share_j = float(((self.left_j - self.seen.reserve_j(later)) / (rest - later)).min())
        return self.seen.price(share_j), self.left_j - float(self.seen.reserve_j(later[-1:])[0])


@dataclass
class _Seen:
    """What the known rounds say of rounds to come."""

    free_j: list[float] = field(default_factory=list)
    least_j: list[float] = field(default_factory=list)
    steps: list[tuple[float, float]] = field(default_factory=list)

    def add(self, here: _Round) -> None:
        """One more round."""
        self.free_j.append(here.free_j)
        self.least_j.append(here.least_j)
        self.steps += here.steps()

    def price(self, share_j: float) -> float:
        """The least price at which the known rounds take no more than their share, the thriftiest choices' where none
        does; 0 where they take no more anyway."""
        above_j = sum(self.free_j) - share_j * len(self.free_j)
        if above_j <= 0.0 or not self.steps:
            return 0.0
        prices, saved = np.array(self.steps).T
        order = np.argsort(prices, kind="stable")
        enough = np.flatnonzero(np.cumsum(saved[order]) >= above_j)
        # Just above it, so that the choice that takes over has.
        return float(prices[order][enough[0] if enough.size else -1]) * (1.0 + 1e-9)

    def reserve_j(self, rounds: Array) -> Array:
        """What the thriftiest choices of so many rounds will hardly be above [n]."""
        mean_j, spread_j = float(np.mean(self.least_j)), float(np.std(self.least_j))
        more = np.maximum(_PUT_BY * spread_j * np.sqrt(rounds), max(self.least_j) - mean_j)
        return np.asarray(rounds * mean_j + np.where(rounds > 0, more, 0.0))
