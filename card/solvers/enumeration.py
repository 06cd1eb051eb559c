"""The exact solver by enumeration: every cut at every frequency that can matter, constraints kept.

With listed frequencies that is the whole table. With a continuous frequency (the paper's model) U is convex in f
at every cut once the ranges are fixed, and dU/df = 0 has one root that does not depend on the cut,
because the work W(c) factors out:

    f* = [ (w/dD + (1-w) P0/dE) dE / (2 kappa (1-w)) ]^(1/3)       CARD (16), with static power P0

Every limit admits an interval of frequencies at each cut, so only the ends, f* and the frequencies at which a
limit begins to hold can be optimal. An energy cap Q leaves the frequencies between two roots of

    kappa f^3 - q f + P0 = 0,      q = (Q - P_wait A(c)) / W(c)

Where devices choose among frequencies g, every column of the table is a pair (f, g), and a continuous server has the
candidates of each g. A device that is charged for its whole round makes a second of the server dearer by a_o P_wait(g),
with a_o what a joule of its own costs, which adds to w/dD above.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cardlab.card.problem.arrays import Array
from cardlab.card.problem.constraints import Limits, limits_of
from cardlab.card.problem.energy import device_energy_j, device_round_j, server_busy_s
from cardlab.card.problem.objective import (
    Range,
    Table,
    common_of,
    cost,
    delay_weight,
    ranges,
    server_energy_j,
    server_points,
    table,
)
from cardlab.card.problem.problem import PaperServer, Problem

_INSIDE = 1e-12


@dataclass(frozen=True, slots=True)
class Choice:
    """One cut (index) and frequency (column of `table`) of one device, with the whole table behind it.

    `costs` are inf where a limit is not kept. `capped`: the fleet's energy cap took away a better choice. With a budget
    for all rounds it was made at `price_per_j` of the device's own energy, which is in no cost here, within `room_j`.
    """

    cut: int
    frequency: int
    cost: float
    table: Table
    costs: Array
    limits: Limits
    capped: bool = False
    price_per_j: float = 0.0
    room_j: float = np.inf

    @property
    def priced(self) -> Array:
        """Costs with the price [C,K]; inf where a choice takes more than there is room for."""
        own = self.table.device_energy_j
        if own is None or (self.price_per_j == 0.0 and self.room_j == np.inf):
            return self.costs
        return np.where(own <= self.room_j * (1.0 + 1e-12), self.costs + self.price_per_j * own, np.inf)

    @property
    def roomless(self) -> bool:
        """Whether another choice would be better at its price, and takes more than there is room for."""
        own = self.table.device_energy_j
        if own is None or self.room_j == np.inf:
            return False
        free = self.costs + self.price_per_j * own
        return bool(free.min() < free[self.cut, self.frequency])

    @property
    def budgeted(self) -> bool:
        """Whether its budget took away a better choice."""
        return self.room_j < np.inf and bool(self.costs.min() < self.cost)


def extreme_frequencies(problem: Problem) -> Array:
    """Frequencies at which delay or energy can be extreme: the listed ones, else ends and energy optimum."""
    paper = problem.continuous
    if paper is None:
        return problem.frequency_hz
    low, high = float(problem.frequency_hz.min()), float(problem.frequency_hz.max())
    frequencies = [low, high]
    if paper.kappa_w_per_hz3 and problem.objective.energy != "above_idle":
        frequencies.append(float(np.clip(np.cbrt(paper.static_power_w / (2.0 * paper.kappa_w_per_hz3)), low, high)))
    return np.unique(frequencies)


def extents_of(problem: Problem) -> list[Range]:
    """The range of each device, before constraints."""
    at = None if problem.continuous is None else extreme_frequencies(problem)
    return ranges(problem, [table(problem, m, at) for m in range(len(problem.devices))])


def common_range(problem: Problem) -> Range:
    """The range of all devices together, as `extents_of` finds it, without a table for each of them.

    At one cut and frequency energy follows the waiting time in a straight line, so it is extreme at the device that
    waits least or most.
    """
    at = None if problem.continuous is None else extreme_frequencies(problem)
    return common_of([_extremes_at(problem.at_offered(g), at) for g in range(problem.offered)])


def _extremes_at(problem: Problem, at: Array | None) -> Range:
    points = server_points(problem, at)
    fixed = problem.every_fixed_s()
    epochs = problem.objective.local_epochs
    busy = np.asarray(server_busy_s(epochs, points.server_s))
    delays = np.stack([end[:, None] + busy for end in (fixed.min(axis=0), fixed.max(axis=0))])
    energy = None
    if points.power_w is not None:
        found = server_energy_j(problem, busy, delays, points.power_w, points.wait_power_w)
        energy = None if found is None else (np.array(found.min()), np.array(found.max()))
    own = _own_extremes(problem, fixed, busy)
    known = own[~np.isnan(own)]
    device = (float(known.min()), float(known.max())) if known.size else None
    return Range((float(delays.min()), float(delays.max())), energy, device)


def _own_extremes(problem: Problem, fixed_s: Array, busy_s: Array) -> Array:
    """Least and most of each device's own energy at each cut; it never falls as the server takes longer."""
    if problem.objective.device_energy == "compute":
        epochs = problem.objective.local_epochs
        return np.asarray(device_energy_j(problem.device_power_w[:, None], epochs, problem.device_s))
    places = np.arange(len(problem.devices))[:, None], np.arange(problem.cuts.size)[None, :]
    ends = [fixed_s + end[None, :] for end in (busy_s.min(axis=1), busy_s.max(axis=1))]
    return np.stack([np.asarray(device_round_j(problem.device_joules(*places, delay_s))) for delay_s in ends])


def best_choice(
    problem: Problem, m: int, extent: Range, cuts: Array | None = None, frequencies: Array | None = None
) -> Choice:
    """The cheapest feasible cut and frequency of device m.

    `cuts` [C] bool admits only some cuts; `frequencies` [K] (Hz) only these frequencies of a continuous server, or
    [F] bool some of the listed ones. Ties go to the smaller cut, then the lower frequency. Raises
    InfeasibleError naming the constraint that cannot be kept and by how much.
    """
    at, mask = None, None
    if problem.continuous is not None:
        at = _candidates(problem, problem.continuous, m, extent) if frequencies is None else frequencies
    elif frequencies is not None:
        mask = frequencies
    t = table(problem, m, at)
    limits = limits_of(problem, m, t, cuts, mask)
    limits.refuse_if_none(problem, m)
    costs = np.where(limits.feasible, cost(problem, t, extent), np.inf)
    # argmin takes the first of equals, and the table is sorted by cut and frequency.
    cut, frequency = np.unravel_index(int(np.argmin(costs)), costs.shape)
    return Choice(int(cut), int(frequency), float(costs[cut, frequency]), t, costs, limits)


def _candidates(problem: Problem, paper: PaperServer, m: int, extent: Range) -> Array:
    low, high = float(problem.frequency_hz.min()), float(problem.frequency_hz.max())
    frequencies = [extreme_frequencies(problem)]
    for g in range(problem.offered):
        frequencies += _candidates_at(problem.at_offered(g), paper, m, extent)
    return np.unique(np.clip(np.concatenate(frequencies), low, high))


def _candidates_at(problem: Problem, paper: PaperServer, m: int, extent: Range) -> list[Array]:
    """Those of one device frequency."""
    limits, fixed_s = problem.constraints, problem.fixed_s(m)
    waiting_w = 0.0
    if problem.objective.device_energy == "round" and problem.device_wait_power_w is not None:
        waiting_w = float(np.nan_to_num(problem.device_wait_power_w[m], nan=0.0))
    added = waiting_w * price_per_j(problem, m, extent)
    frequencies = [stationary(problem, paper, extent, float(problem.frequency_hz.max()), added).ravel()]
    work_s = problem.objective.local_epochs * paper.flop / paper.flop_per_hz
    if limits.deadline_s is not None:
        # The slowest frequency that still meets the deadline at each cut.
        # Cuts that miss the deadline before the server has begun give no frequency.
        frequencies.append(_slowest(work_s, limits.deadline_s - fixed_s))
    if waiting_w > 0.0 and limits.device_energy_j is not None:
        # What is left of the cap when the server has taken no time is waited away.
        spent_j = problem.device_energy_j(m, fixed_s[:, None])
        if spent_j is not None:
            frequencies.append(_slowest(work_s, (limits.device_energy_j - spent_j[:, 0]) / waiting_w))
    kappa = paper.kappa_w_per_hz3
    if kappa and limits.server_power_w is not None and limits.server_power_w > paper.static_power_w:
        frequencies.append(np.cbrt([(limits.server_power_w - paper.static_power_w) / kappa]) * (1.0 - _INSIDE))
    if kappa and limits.server_energy_j is not None:
        waiting_j = np.zeros_like(work_s)
        if problem.objective.energy == "round" and problem.wait_power_w is not None:
            waiting_j = problem.wait_power_w[0] * fixed_s
        static_w = 0.0 if problem.objective.energy == "above_idle" else paper.static_power_w
        frequencies.append(energy_cap_frequencies(kappa, static_w, (limits.server_energy_j - waiting_j) / work_s))
    return frequencies


def _slowest(work_s: Array, left_s: Array) -> Array:
    """Frequencies at which the server's work takes just what is left [C]; none where nothing is."""
    return np.asarray(work_s[left_s > 0] / left_s[left_s > 0] * (1.0 + _INSIDE))


def price_per_j(problem: Problem, m: int, extent: Range) -> float:
    """What a joule of device m's own energy adds to the cost."""
    price = 0.0 if problem.device_price_per_j is None else float(problem.device_price_per_j[m])
    if problem.objective.device_energy_weight > 0.0 and extent.device_energy_j is not None:
        low, high = extent.device_energy_j
        price += problem.objective.device_energy_weight / (high - low) if high > low else 0.0
    return price


def stationary(
    problem: Problem, paper: PaperServer, extent: Range, highest: float, per_second_more: float = 0.0
) -> Array:
    """f* of the module docstring (one, or one per cut); the highest frequency where energy plays no part.

    `per_second_more`: cost of a second of the round beside that of delay.
    """
    weight = delay_weight(problem)
    if weight >= 1.0 or extent.energy_j is None or not paper.kappa_w_per_hz3:
        return np.array([highest])
    d_delay = extent.delay_s[1] - extent.delay_s[0]
    d_energy = np.atleast_1d(extent.energy_j[1] - extent.energy_j[0])
    static_w = 0.0 if problem.objective.energy == "above_idle" else paper.static_power_w
    # Per cut, a range can have no width: energy then plays no part at that cut.
    weighed = d_energy[d_energy > 0]
    if not weighed.size:
        return np.array([highest])
    per_second = per_second_more + (weight / d_delay if d_delay > 0 else 0.0) + (1.0 - weight) * static_w / weighed
    return np.asarray(np.cbrt(per_second * weighed / (2.0 * paper.kappa_w_per_hz3 * (1.0 - weight))))


def energy_cap_frequencies(kappa: float, static_w: float, joule_per_work: Array) -> Array:
    """Frequencies between which energy keeps its cap: the positive roots of kappa f^3 - q f + P0, q [n].

    Cuts whose cap cannot be kept at any frequency give none. Each root is nudged to the feasible side.
    """
    q = joule_per_work[joule_per_work > 0] / kappa
    r = static_w / kappa
    if r == 0.0:
        return np.asarray(np.sqrt(q) * (1.0 - _INSIDE))
    q = q[4.0 * q**3 >= 27.0 * r * r]
    # Three real roots (the discriminant is checked above), so the trigonometric form needs no complex numbers.
    angle = np.arccos(np.clip(-1.5 * r / q * np.sqrt(3.0 / q), -1.0, 1.0)) / 3.0
    radius = 2.0 * np.sqrt(q / 3.0)
    upper = radius * np.cos(angle)
    middle = radius * np.cos(angle - 2.0 * np.pi / 3.0)
    nudge = 1e-9
    return np.concatenate([upper, upper * (1.0 - nudge), middle, middle * (1.0 + nudge)])
