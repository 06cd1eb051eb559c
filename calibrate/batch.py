"""Many weighted bounded least-squares fits of one law at once.

Bootstrap, leave-one-out and profiles need hundreds of fits of 12 points each. One fit at a time the
interpreter dominates; here they are rows of arrays. For rows b of values y and weights w,

    minimise_p  S_b(p) = sum_i ( w_bi (y_bi - law(x_i; p)) )^2,   lower <= p <= upper.

Two steps: variable projection over a grid of shape parameters (for each shape the linear ones are a
non-negative least-squares problem of at most three unknowns, solved by enumerating which are zero),
then Levenberg-Marquardt on all parameters within the bounds. A point is left out by weight 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from cardlab.core.laws.base import Array, SeparableLaw

# Levenberg-Marquardt from a good start needs under ten steps; the rest is for flat valleys.
MAX_STEPS = 60
TOLERANCE = 1e-14


@dataclass(frozen=True, slots=True)
class Solutions:
    """Parameters [b, p] and sums of squared weighted residuals [b]."""

    params: Array
    cost: Array


def solve(law: SeparableLaw, x: Array, y: Array, w: Array, *, fixed: tuple[int, Array] | None = None) -> Solutions:
    """Best parameters for every row of y and w.

    Args:
        law: a separable law, bound to its data.
        x: [n]; y: [b, n] or [n]; w: [b, n] or [n], reciprocal standard deviations, 0 to leave out.
        fixed: index of a parameter and the value [b] it is held at in each row (for profiles).
    """
    rows = 1 if fixed is None else len(fixed[1])
    y, w, _ = np.broadcast_arrays(np.atleast_2d(y), np.atleast_2d(w), np.empty((rows, x.size)))
    # Copies: a held parameter narrows its bounds row by row.
    lower = np.broadcast_to(law.lower, (len(y), len(law.lower))).copy()
    upper = np.broadcast_to(law.upper, lower.shape).copy()
    if fixed is not None:
        lower[:, fixed[0]] = upper[:, fixed[0]] = fixed[1]
    # A held shape changes the basis curves, a held linear parameter only the bounds.
    if fixed is not None and fixed[0] >= len(law.linear):
        start = _search_held(law, x, y, w, fixed)
    else:
        start = _search(law, x, y, w, law.shape_grid(x))
    start = np.clip(start, lower, upper)
    # Linear laws are solved by the search itself: there is nothing to polish.
    if not law.shape and fixed is None:
        return Solutions(start, cost_of(law, x, y, w, start))
    return _polish(law, _Sweeps(x, y, w, lower, upper), start)


def cost_of(law: SeparableLaw, x: Array, y: Array, w: Array, params: Array) -> Array:
    """Sum of squared weighted residuals [b] for parameters [b, p]."""
    residual = w * (y - law.evaluate(x, params))
    cost: Array = np.einsum("bn,bn->b", residual, residual)
    return cost


def _search(law: SeparableLaw, x: Array, y: Array, w: Array, grid: Array) -> Array:
    k = len(law.linear)
    curves = np.broadcast_to(law.basis(x, grid), (len(grid), k, x.size))
    # Basis curves of 1 and f^3 differ by 1e27; normal equations need them alike.
    scale = np.sqrt(np.mean(curves**2, axis=-1))
    curves = curves / scale[..., None]
    w2 = w * w
    gram = {(i, j): w2 @ (curves[:, i] * curves[:, j]).T for i in range(k) for j in range(i, k)}
    right = [(w2 * y) @ curves[:, i].T for i in range(k)]
    beta, gain = _nonnegative(gram, right, k)
    best = np.argmax(gain, axis=1)
    linear = beta[:, np.arange(len(y)), best].T / scale[best]
    return np.concatenate([linear, grid[best]], axis=1)


def _search_held(law: SeparableLaw, x: Array, y: Array, w: Array, fixed: tuple[int, Array]) -> Array:
    # One small search per row: the held shape differs from row to row, the grid of the rest does not.
    rows = []
    for b, value in enumerate(fixed[1]):
        grid = law.shape_grid(x).copy()
        grid[:, fixed[0] - len(law.linear)] = value
        rows.append(_search(law, x, y[b : b + 1], w[b : b + 1], np.unique(grid, axis=0))[0])
    return np.array(rows)


def _nonnegative(gram: dict[tuple[int, int], Array], right: list[Array], k: int) -> tuple[Array, Array]:
    """Best non-negative coefficients [k, b, g] and the drop in cost [b, g] they bring."""
    shape = right[0].shape
    beta, gain = np.zeros((k, *shape)), np.full(shape, -np.inf)
    # At most three unknowns: enumerating which are zero is exact and quicker than an active-set method.
    for size in range(1, k + 1):
        for subset in combinations(range(k), size):
            solution = _subset(gram, right, subset)
            good = np.all(solution >= 0, axis=0)
            drop = sum(s * right[i] for s, i in zip(solution, subset, strict=True))
            better = good & (drop > gain)
            gain = np.where(better, drop, gain)
            for i in range(k):
                value = solution[subset.index(i)] if i in subset else 0.0
                beta[i] = np.where(better, value, beta[i])
    return beta, gain


def _subset(gram: dict[tuple[int, int], Array], right: list[Array], subset: tuple[int, ...]) -> Array:
    if len(subset) == 1:
        i = subset[0]
        return np.array([right[i] / np.maximum(gram[i, i], 1e-300)])
    if len(subset) == 2:
        i, j = subset
        a, b, c = gram[i, i], gram[i, j], gram[j, j]
        det = a * c - b * b
        # Parallel curves have no unique solution; an infinite determinant makes the pair lose to one of them.
        safe = np.where(det > 1e-14 * a * c, det, np.inf)
        return np.array([(c * right[i] - b * right[j]) / safe, (a * right[j] - b * right[i]) / safe])
    matrix = np.stack([np.stack([gram[min(i, j), max(i, j)] for j in subset], axis=-1) for i in subset], axis=-2)
    # Just enough for the solver to return numbers for collinear curves; they lose on cost anyway.
    ridge = 1e-15 * np.einsum("...ii->...", matrix)[..., None, None] * np.eye(len(subset))
    solution = np.linalg.solve(matrix + ridge, np.stack([right[i] for i in subset], axis=-1)[..., None])
    return np.moveaxis(solution[..., 0], -1, 0)


@dataclass(frozen=True)
class _Sweeps:
    """Sweeps fitted at once: x [n], values and weights [b, n], bounds of the parameters [b, p]."""

    x: Array
    y: Array
    w: Array
    lower: Array
    upper: Array

    def rows(self, chosen: NDArray[np.intp]) -> _Sweeps:
        """Some of the sweeps."""
        return _Sweeps(self.x, self.y[chosen], self.w[chosen], self.lower[chosen], self.upper[chosen])


def _polish(law: SeparableLaw, sweeps: _Sweeps, p: Array) -> Solutions:
    x, y, w = sweeps.x, sweeps.y, sweeps.w
    cost = cost_of(law, x, y, w, p)
    damping = np.full(len(p), 1e-3)
    active = np.ones(len(p), dtype=bool)
    for _ in range(MAX_STEPS):
        rows = np.flatnonzero(active)
        if rows.size == 0:
            break
        trial = _step(law, sweeps.rows(rows), p[rows], damping[rows])
        new = cost_of(law, x, y[rows], w[rows], trial)
        # Only rows that improved move; the others try again with more damping.
        better = new < cost[rows]
        small = np.abs(cost[rows] - new) <= TOLERANCE * cost[rows]
        p[rows[better]], cost[rows[better]] = trial[better], new[better]
        damping[rows] = np.where(better, damping[rows] * 0.1, damping[rows] * 10.0)
        # A damping this large means that no step of any length improves the row.
        active[rows] = ~(small | (damping[rows] > 1e8))
    return Solutions(p, cost)


def _step(law: SeparableLaw, sweeps: _Sweeps, p: Array, damping: Array) -> Array:
    x, y, w, lower, upper = sweeps.x, sweeps.y, sweeps.w, sweeps.lower, sweeps.upper
    jacobian = law.jacobian(x, p) * w[..., None]
    residual = w * (y - law.evaluate(x, p))
    scale = np.sqrt(np.einsum("bnp,bnp->bp", jacobian, jacobian))
    scale = np.where(scale > 0, scale, 1.0)
    jacobian = jacobian / scale[:, None, :]
    gradient = np.einsum("bnp,bn->bp", jacobian, residual)
    # A parameter that sits on a bound and wants to leave through it stays for this step.
    stuck = ((p <= lower) & (gradient <= 0)) | ((p >= upper) & (gradient >= 0))
    jacobian = np.where(stuck[:, None, :], 0.0, jacobian)
    gradient = np.where(stuck, 0.0, gradient)
    normal = np.einsum("bnp,bnq->bpq", jacobian, jacobian)
    eye = np.eye(p.shape[1])
    normal = normal + damping[:, None, None] * eye + np.where(stuck[:, :, None], eye, 0.0) + 1e-14 * eye
    step = np.linalg.solve(normal, gradient[..., None])[..., 0] / scale
    return np.clip(p + step, lower, upper)
