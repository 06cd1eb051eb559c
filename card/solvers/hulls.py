"""Tables made ready for the batch solver: sorted frequencies and lower convex hulls of every cut.

With weights a on delay and e on energy, the best frequency of a cut minimises a S + e Y over the points
(S, Y) = (server seconds, server joules) of its frequencies, and that minimum lies on their lower convex hull.
Sorted by S, the hull of every prefix is kept too: the monotone chain is a stack, and remembering below
which point each one was pushed gives all its former states. A deadline admits a prefix.

When the waiting server counts and its power V(f) depends on the frequency, Y = Q + A V with A the time the
server waits. The minimum over frequencies is concave in A, so between two levels of A the chord through
their hulls bounds it from below.
"""

from __future__ import annotations

import numpy as np

from cardlab.card.problem.arrays import Array
from cardlab.card.problem.energy import server_busy_s
from cardlab.card.problem.objective import energy_is_known
from cardlab.card.problem.problem import Problem
from cardlab.card.solvers.hull_kernels import fill_chains
from cardlab.card.solvers.kernels import compiled
from cardlab.card.solvers.records import Chains, HullTable, SortedPoints

LEVELS = 17


def hull_table(problem: Problem, waits_s: tuple[float, float]) -> HullTable:
    """Hulls of a problem with listed frequencies; `waits_s` spans the waiting times of its devices."""
    busy = np.asarray(server_busy_s(problem.objective.local_epochs, problem.server_s))
    busy_j, wait_w = energy_parts(problem, busy)
    shape = busy.shape
    keep = np.ones(shape, dtype=bool)
    limits = problem.constraints
    if limits.server_power_w is not None and problem.power_w is not None:
        keep &= ~(problem.power_w > limits.server_power_w)[None, :]
    if limits.server_energy_j is not None and energy_is_known(problem):
        # What waits adds to it; a point above the cap without it is out for every device.
        keep &= ~(busy_j + wait_w * waits_s[0] > limits.server_energy_j * (1.0 + 1e-9))
    order = np.argsort(np.where(keep, busy, np.inf), axis=1, kind="stable")
    wait = np.broadcast_to(wait_w, shape)
    levels = _levels(wait_w, waits_s)
    sorted_s, sorted_j, sorted_w = (np.take_along_axis(a, order, axis=1) for a in (busy, busy_j, wait))
    points = SortedPoints(
        size=keep.sum(axis=1).astype(np.int64),
        server_s=np.ascontiguousarray(sorted_s),
        energy_j=sorted_j[None] + levels[:, None, None] * sorted_w[None],
    )
    return HullTable(
        points=points,
        frequency=order.astype(np.int64),
        busy_j=np.ascontiguousarray(sorted_j),
        wait_w=np.ascontiguousarray(sorted_w),
        level_s=levels,
        chains=_chains(points),
    )


def energy_parts(problem: Problem, busy_s: Array) -> tuple[Array, Array]:
    """Server energy as busy_j [C,F] + wait_w [F] times the waiting time; zeros without power data."""
    power_w = problem.power_w
    none = np.zeros(problem.frequency_hz.size)
    if power_w is None:
        return np.zeros_like(busy_s), none
    if problem.objective.energy == "above_idle":
        return np.asarray((power_w - (problem.idle_power_w or 0.0)) * busy_s), none
    wait = problem.wait_power_w if problem.objective.energy == "round" else None
    return np.asarray(power_w * busy_s), none if wait is None else wait


def _levels(wait_w: Array, waits_s: tuple[float, float]) -> Array:
    low, high = waits_s
    if np.ptp(wait_w) == 0.0:
        # The same at every frequency: it moves no frequency, and any one level is exact.
        return np.zeros(1)
    # All devices wait alike: two levels still need a width to interpolate over.
    if high <= low * (1.0 + 1e-9):
        high = low * (1.0 + 1e-6) + 1e-12
    levels = np.geomspace(low, high, LEVELS) if low > 0 else np.linspace(low, high, LEVELS)
    # Waiting times are computed a second time in the kernel, and rounding must not put one outside.
    levels[0], levels[-1] = low * (1.0 - 1e-9), high * (1.0 + 1e-9)
    return np.asarray(levels)


def _chains(points: SortedPoints) -> Chains:
    shape = points.energy_j.shape
    made = Chains(
        below=np.full(shape, -1, dtype=np.int64),
        size=np.zeros(shape[:2], dtype=np.int64),
        hull=np.zeros(shape, dtype=np.int64),
        slope=np.zeros(shape),
    )
    compiled(fill_chains)(points, made)
    return made
