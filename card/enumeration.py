"""The exact solver by enumeration: every cut at every clock that can matter, constraints kept.

With listed clocks that is the whole table. With a continuous clock (the paper's model, `busy` or
`above_idle`) U is convex in f at every cut once the ranges are fixed, and dU/df = 0 has one root that
does not depend on the cut, because the work W(c) factors out:

    f* = [ (w/dD + (1-w) P0/dE) dE / (2 kappa (1-w)) ]^(1/3)       CARD (16), with static power P0

so per cut only the ends, f* and the clock at which a limit begins to hold can be optimal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cardlab.card.constraints import Limits, limits_of
from cardlab.card.objective import Range, Table, cost, delay_weight, table
from cardlab.card.problem import Array, PaperServer, Problem


@dataclass(frozen=True, slots=True)
class Choice:
    """One cut (index) and clock (index into `table`) of one device, with the whole table behind it."""

    cut: int
    clock: int
    cost: float
    table: Table
    costs: Array
    limits: Limits


def extreme_clocks(problem: Problem) -> Array:
    """Clocks at which delay or energy can be extreme: the listed ones, else ends and energy optimum."""
    paper = problem.continuous
    low, high = float(problem.frequency_hz.min()), float(problem.frequency_hz.max())
    if paper is None:
        return problem.frequency_hz
    clocks = [low, high]
    if paper.kappa_w_per_hz3 and problem.objective.energy == "busy":
        clocks.append(float(np.clip(np.cbrt(paper.static_power_w / (2.0 * paper.kappa_w_per_hz3)), low, high)))
    return np.unique(clocks)


def best_choice(problem: Problem, m: int, extent: Range, cuts: Array | None = None) -> Choice:
    """The cheapest feasible cut and clock of device m; `cuts` [C] bool admits only some.

    Ties go to the smaller cut, then the lower clock. Raises InfeasibleError naming the constraint that
    cannot be kept and by how much.
    """
    clocks = None if problem.continuous is None else _candidates(problem, problem.continuous, m, extent)
    t = table(problem, m, clocks)
    limits = limits_of(problem, m, t, cuts)
    costs = np.where(limits.feasible, cost(problem, t, extent), np.inf)
    limits.refuse_if_none(problem, m)
    cut, clock = np.unravel_index(int(np.argmin(costs)), costs.shape)
    return Choice(int(cut), int(clock), float(costs[cut, clock]), t, costs, limits)


def _candidates(problem: Problem, paper: PaperServer, m: int, extent: Range) -> Array:
    low, high = float(problem.frequency_hz.min()), float(problem.frequency_hz.max())
    clocks = [*extreme_clocks(problem), _stationary(problem, paper, extent, high)]
    if problem.constraints.deadline_s is not None:
        # The slowest clock that still meets the deadline at each cut.
        left_s = problem.constraints.deadline_s - problem.fixed_s(m)
        work_s = problem.objective.local_epochs * paper.flop / paper.flop_per_hz
        clocks.extend((work_s[left_s > 0] / left_s[left_s > 0]) * (1.0 + 1e-12))
    cap_w = problem.constraints.server_power_w
    if cap_w is not None and paper.kappa_w_per_hz3 and cap_w > paper.static_power_w:
        clocks.append(float(np.cbrt((cap_w - paper.static_power_w) / paper.kappa_w_per_hz3)) * (1.0 - 1e-12))
    return np.unique(np.clip(clocks, low, high))


def _stationary(problem: Problem, paper: PaperServer, extent: Range, highest: float) -> float:
    """f* of the module docstring; the highest clock when energy has no weight or no range."""
    weight = delay_weight(problem)
    if weight >= 1.0 or extent.energy_j is None or not paper.kappa_w_per_hz3:
        return highest
    d_delay = extent.delay_s[1] - extent.delay_s[0]
    d_energy = extent.energy_j[1] - extent.energy_j[0]
    static_w = paper.static_power_w if problem.objective.energy == "busy" else 0.0
    if d_energy <= 0:
        return highest
    per_second = (weight / d_delay if d_delay > 0 else 0.0) + (1.0 - weight) * static_w / d_energy
    return float(np.cbrt(per_second * d_energy / (2.0 * paper.kappa_w_per_hz3 * (1.0 - weight))))
