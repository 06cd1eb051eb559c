"""How far to trust a fit: covariance, intervals, profiles, held-out error, draws.

* Covariance: s^2 (J' W J)^-1 with s^2 from the residuals; parameters at a bound are left out of J.
* Interval: value +- t(0.975, n - p) standard errors; for the knee of a ridge the cost is no parabola,
  so its ends are where the profiled cost passes S_min (1 + F(0.95; 1, n - p) / (n - p)).
* Held-out error: every frequency is left out in turn and predicted from the others.
* Bootstrap, on request in place of covariance and draws: the law is refitted to whole operating points drawn with
  replacement, so that readings of one frequency, which share its errors, are never taken for independent ones.
* Draws: the law is refitted to itself plus noise of the size of the residuals, the noise of each draw
  scaled by sqrt(nu / chi^2_nu), so that the draws spread like Student's t and keep every bound.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from cardlab.calibrate.batch import cost_of, solve
from cardlab.calibrate.data import SweepData
from cardlab.calibrate.fitter import Solution, isotonic
from cardlab.core.laws.base import Array, SeparableLaw
from cardlab.core.laws.measured import Measured

DRAWS = 200
# With fewer degrees Student's t has such heavy tails that single draws are absurd curves; intervals still use
# the true number.
LEAST_FREEDOM = 4


@lru_cache(maxsize=256)
def t_factor(degrees_of_freedom: int) -> float:
    """97.5 % point of Student's t; of the normal distribution for 0 degrees (noise known)."""
    if degrees_of_freedom == 0:
        return 1.959963984540054
    return float(student.ppf(0.975, degrees_of_freedom))


def freedom_of(data: SweepData, solution: Solution) -> int:
    """Degrees of freedom behind the noise: of the residuals, or of a table's interior points."""
    if isinstance(solution.law, Measured) and data.known_noise is None:
        return max(data.clocks - 2, 0)
    return solution.degrees_of_freedom


def at_bound(solution: Solution) -> NDArray[np.bool_]:
    """Which parameters [p] ended on a bound."""
    law, p = solution.law, solution.params
    lower, upper = law.lower, law.upper
    # A millionth of the allowed range: the solver stops just short of a bound it is pressed against.
    width = np.where(np.isfinite(upper), upper - lower, 0.0)
    return np.asarray((p <= lower + 1e-6 * width) | (p >= upper - 1e-6 * width))


def noise_scale(data: SweepData, solution: Solution) -> float | None:
    """Standard deviation of a point in units of `solution.sigma`; None if nothing tells it.

    From the residuals; where there are none to spare, 1 if the noise was measured.
    """
    if solution.scale is not None:
        return solution.scale
    if isinstance(solution.law, Measured):
        return 1.0 if data.known_noise is not None else _table_noise(data)
    return 1.0 if data.known_noise is not None else None


def covariance(data: SweepData, solution: Solution) -> Array | None:
    """Covariance [p, p], zero in rows of parameters at a bound; None if the noise is unknown."""
    scale = noise_scale(data, solution)
    if scale is None:
        return None
    if isinstance(solution.law, Measured):
        return _table_covariance(data, solution, scale)
    free = np.flatnonzero(~at_bound(solution))
    result = np.zeros((solution.params.size, solution.params.size))
    if free.size == 0:
        return result
    jacobian = solution.law.jacobian(data.x, solution.params)[:, free] * solution.weights[:, None]
    # Columns differ by 27 orders of magnitude (W against W/Hz^3): without scaling the pseudo-inverse drops the
    # small ones.
    unit = np.sqrt(np.sum(jacobian**2, axis=0))
    unit = np.where(unit > 0, unit, 1.0)
    inverse = np.linalg.pinv((jacobian / unit).T @ (jacobian / unit), rcond=1e-13, hermitian=True)
    result[np.ix_(free, free)] = scale**2 * inverse / np.outer(unit, unit)
    return result


def leave_one_clock_out(data: SweepData, solution: Solution) -> Array | None:
    """Relative error [n] of every point predicted without its frequency; None with too few frequencies."""
    if data.clocks < (4 if isinstance(solution.law, Measured) else 2):
        return None
    # One fold a frequency, not a point: an anchor measured twice would vouch for itself.
    folds = np.arange(data.clocks)[:, None] != data.clock[None, :]
    law = solution.law
    if isinstance(law, Measured):
        predicted = _table_held_out(data, folds)
    else:
        assert isinstance(law, SeparableLaw)
        params = solve(law, data.x, data.y, folds * solution.weights).params
        predicted = law.evaluate(data.x, params)[data.clock, np.arange(data.x.size)]
    errors: Array = (predicted - data.y) / data.y
    return errors


def draws(data: SweepData, solution: Solution, count: int = DRAWS) -> Array | None:
    """Parameter draws [count, p]; reproducible, the seed is the hash of the data; None if unknown."""
    scale = noise_scale(data, solution)
    if scale is None:
        return None
    # The same data give the same draws everywhere, so a plan can be repeated to the last digit.
    seed = [int(data.data_hash[:15], 16), *solution.law.name.encode()]
    rng = np.random.default_rng(seed)
    freedom = max(freedom_of(data, solution), LEAST_FREEDOM)
    # The variance is itself estimated; scaling each draw by a chi-square makes them spread like Student's t.
    half = scale * np.sqrt(freedom / rng.chisquare(freedom, size=(count // 2, 1)))
    spread = np.concatenate([half, half])
    law = solution.law
    if isinstance(law, Measured):
        return _table_draws(data, solution, spread, rng)
    assert isinstance(law, SeparableLaw)
    fitted = law.evaluate(data.x, solution.params)
    noise = solution.sigma * spread * _mirrored(rng, count, data.x.size)
    return solve(law, data.x, fitted + noise, solution.weights).params


def _mirrored(rng: np.random.Generator, count: int, size: int) -> Array:
    # Antithetic pairs: the draws are centred on the fit, and 200 of them are as good as more.
    half = rng.standard_normal((count // 2, size))
    return np.concatenate([half, -half])


def can_resample(data: SweepData, solution: Solution) -> bool:
    """Whether frequencies drawn with replacement say anything: a law with parameters, and more frequencies than those.

    A table passes through its points whatever is drawn.
    """
    return not isinstance(solution.law, Measured) and data.clocks > max(3, len(solution.law.parameters))


def bootstrap_by_clock(data: SweepData, solution: Solution, count: int = DRAWS) -> Array:
    """Parameters [count, p] refitted to frequencies drawn with replacement (at least three distinct)."""
    law = solution.law
    assert isinstance(law, SeparableLaw)
    rng = np.random.default_rng([int(data.data_hash[:15], 16), 1])
    # A resample of one or two frequencies determines no law.
    need = min(max(3, len(law.parameters)), data.clocks)
    rows: list[Array] = []
    while len(rows) < count:
        multiplicity = np.bincount(rng.integers(data.clocks, size=data.clocks), minlength=data.clocks)
        if np.count_nonzero(multiplicity) >= need:
            rows.append(np.sqrt(multiplicity[data.clock]) * solution.weights)
    return solve(law, data.x, data.y, np.array(rows)).params


def profile_interval(data: SweepData, solution: Solution, index: int, steps: int = 41) -> tuple[float, float]:
    """95 % interval of a shape parameter from its profiled cost; an open end is the bound."""
    law = solution.law
    assert isinstance(law, SeparableLaw)
    freedom = solution.degrees_of_freedom
    best = float(solution.params[index])
    low, high = float(law.lower[index]), float(law.upper[index])
    grid = np.unique(np.concatenate([np.linspace(low, high, steps), [best]]))
    cost = solve(law, data.x, data.y, solution.weights, fixed=(index, grid)).cost
    least = cost_of(law, data.x, data.y[None], solution.weights[None], solution.params[None])[0]
    # F(0.95; 1, n - p) is the square of t(0.975, n - p).
    limit = least * (1.0 + t_factor(freedom) ** 2 / freedom)
    at = int(np.searchsorted(grid, best))
    return _crossing(grid[at::-1], cost[at::-1], limit), _crossing(grid[at:], cost[at:], limit)


def _crossing(grid: Array, cost: Array, limit: float) -> float:
    for i in range(1, grid.size):
        if cost[i] > limit:
            # The square root of the excess is nearly linear in the parameter.
            a = math.sqrt(max(cost[i - 1] - cost[0], 0.0))
            b, goal = math.sqrt(cost[i] - cost[0]), math.sqrt(max(limit - cost[0], 0.0))
            part = (goal - a) / (b - a) if b > a else 0.5
            return float(grid[i - 1] + min(max(part, 0.0), 1.0) * (grid[i] - grid[i - 1]))
    return float(grid[-1])


def _table_noise(data: SweepData) -> float | None:
    # Interior points against the curve through their neighbours; 1.5 is the variance of that difference.
    if data.clocks < 4:
        return None
    folds = np.arange(data.clocks)[:, None] != data.clock[None, :]
    errors = (_table_held_out(data, folds) - data.y) / data.y
    inner = (data.clock > 0) & (data.clock < data.clocks - 1)
    return float(np.sqrt(np.mean(errors[inner] ** 2) / 1.5))


def _table_covariance(data: SweepData, solution: Solution, scale: float) -> Array:
    assert isinstance(solution.law, Measured)
    variance = []
    for knot in solution.law.knots:
        here = data.x == knot
        variance.append(float(np.mean(solution.sigma[here] ** 2)) * scale**2 / int(here.sum()))
    return np.diag(variance)


def _table_held_out(data: SweepData, folds: Array) -> Array:
    predicted = np.empty_like(data.y)
    for clock, fold in enumerate(folds):
        keep = fold.astype(bool)
        law = Measured().bound_to(data.x[keep], data.y[keep])
        out = data.clock == clock
        predicted[out] = law.evaluate(data.x[out], law.start(data.x[keep], data.y[keep])[0])
    return predicted


def _table_draws(data: SweepData, solution: Solution, spread: Array, rng: np.random.Generator) -> Array:
    matrix = _table_covariance(data, solution, 1.0)
    noisy = solution.params + spread * np.sqrt(np.diag(matrix)) * _mirrored(rng, len(spread), solution.params.size)
    # Draws of a table must keep its direction, or an interpolation between them would overshoot.
    sign = 1.0 if solution.params[-1] >= solution.params[0] else -1.0
    return np.array([sign * isotonic(sign * row, np.ones(row.size)) for row in noisy])
