"""Tables made ready for the batch solver: sorted clocks and lower convex hulls of every cut.

With weights a on delay and e on energy, the best clock of a cut minimises a S + e Y over the points
(S, Y) = (server seconds, server joules) of its clocks, and that minimum lies on their lower convex hull.
Sorted by S, the hull of every prefix is kept too: the monotone chain is a stack, and remembering below
which point each one was pushed gives all its former states. A deadline admits a prefix.

When the waiting server counts and its power V(f) depends on the clock, Y = Q + A V with A the time the
server waits. The minimum over clocks is concave in A, so between two levels of A the chord through
their hulls bounds it from below.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cardlab.card.problem.problem import Array, Problem
from cardlab.card.solvers.hull_kernels import chains
from cardlab.card.solvers.kernels import compiled

Index = npt.NDArray[np.int64]
LEVELS = 17


@dataclass(frozen=True, slots=True)
class HullTable:
    """The clocks of every cut that keep the limits all devices share, sorted by server seconds.

    count: points of each cut [C]; clock: index into frequency_hz [C,F]; server_s: busy seconds a round;
    busy_j: P(f) times that; wait_w: power while waiting, or 0 [C,F]. level_s: waiting times of the
    levels [K]. For each level: energy_j [K,C,F] = busy_j + level wait_w; below [K,C,F]: the point under
    each one on the chain of its prefix, -1 none; hull_size [K,C] and hull [K,C,F]: the chain of all;
    slope [K,C,F]: joules per second between neighbours on it.
    """

    count: Index
    clock: Index
    server_s: Array
    busy_j: Array
    wait_w: Array
    level_s: Array
    energy_j: Array
    below: Index
    hull_size: Index
    hull: Index
    slope: Array


def hull_table(problem: Problem, waits_s: tuple[float, float]) -> HullTable:
    """Hulls of a problem with listed clocks; `waits_s` spans the waiting times of its devices."""
    busy_s = problem.objective.local_epochs * problem.server_s
    busy_j, wait_w = energy_parts(problem, busy_s)
    shape = busy_s.shape
    keep = np.ones(shape, dtype=bool)
    limits = problem.constraints
    if limits.server_power_w is not None and problem.power_w is not None:
        keep &= ~(problem.power_w > limits.server_power_w)[None, :]
    if limits.server_energy_j is not None and problem.power_w is not None:
        # What waits adds to it; a point above the cap without it is out for every device.
        keep &= ~(busy_j + wait_w * waits_s[0] > limits.server_energy_j * (1.0 + 1e-9))
    order = np.argsort(np.where(keep, busy_s, np.inf), axis=1, kind="stable")
    wait = np.broadcast_to(wait_w, shape)
    levels = _levels(wait_w, waits_s)
    sorted_s, sorted_j, sorted_w = (np.take_along_axis(a, order, axis=1) for a in (busy_s, busy_j, wait))
    count = keep.sum(axis=1).astype(np.int64)
    energy = sorted_j[None] + levels[:, None, None] * sorted_w[None]
    below, hull_size, hull, slope = _chains(count, sorted_s, energy)
    parts = (np.ascontiguousarray(sorted_s), np.ascontiguousarray(sorted_j), np.ascontiguousarray(sorted_w))
    return HullTable(count, order.astype(np.int64), *parts, levels, energy, below, hull_size, hull, slope)


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
        # The same at every clock: it moves no clock, and any one level is exact.
        return np.zeros(1)
    if high <= low * (1.0 + 1e-9):
        high = low * (1.0 + 1e-6) + 1e-12
    levels = np.geomspace(low, high, LEVELS) if low > 0 else np.linspace(low, high, LEVELS)
    levels[0], levels[-1] = low * (1.0 - 1e-9), high * (1.0 + 1e-9)
    return np.asarray(levels)


def _chains(count: Index, server_s: Array, energy_j: Array) -> tuple[Index, Index, Index, Array]:
    below = np.full(energy_j.shape, -1, dtype=np.int64)
    hull = np.zeros(energy_j.shape, dtype=np.int64)
    hull_size = np.zeros(energy_j.shape[:2], dtype=np.int64)
    slope = np.zeros(energy_j.shape)
    compiled(chains)(count, server_s, energy_j, below, hull_size, hull, slope)
    return below, hull_size, hull, slope
