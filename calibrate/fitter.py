"""One law, one sweep: best parameters, weights, residuals.

    minimise_p  sum_i rho( ((y_i - law(x_i; p)) / sigma_i)^2 ),   lower <= p <= upper

with sigma_i relative (see calibrate.data) and rho(z) = z, or soft-L1 when points stick out. The search
starts from the whole grid of shape parameters (calibrate.batch) and ends with scipy's bounded
trust-region solver on scaled parameters with the analytic Jacobian.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.optimize import least_squares

from cardlab.calibrate.batch import solve
from cardlab.calibrate.data import SweepData
from cardlab.core.laws.base import Array, Law, SeparableLaw
from cardlab.core.laws.measured import Measured

Loss = Literal["auto", "linear", "soft_l1"]
Intervals = Literal["covariance", "bootstrap"]
INTERVALS: tuple[Intervals, ...] = ("covariance", "bootstrap")
# In robust standard deviations; SOFT_SCALE is where soft-L1 begins to give less weight.
OUTLIER = 6.0
SOFT_SCALE = 3.0
RENEWALS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to weigh the points.

    Attributes:
        loss: "linear" is least squares, "soft_l1" bounds the pull of outliers, "auto" takes the
            second only when a point sticks out of the first.
        relative: errors scale with the value; False weighs all points alike (plain least squares).
        polish: finish with scipy's solver; off where thousands of fits are only compared.
        intervals: "covariance", or "bootstrap" by whole operating points where a law can be resampled.
    """

    loss: Loss = "auto"
    relative: bool = True
    polish: bool = True
    intervals: Intervals = "covariance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """The best parameters of one law.

    Attributes:
        law: bound to the data.
        params: [p].
        sigma: standard deviation [n] of each point up to the common factor `scale`.
        weights: 1 / sigma [n], lowered for outliers under a robust loss.
        scale: root mean square of the weighted residuals per degree of freedom, None without any.
        degrees_of_freedom: points minus parameters.
        robust: the loss was soft-L1.
    """

    law: Law
    params: Array
    sigma: Array
    weights: Array
    scale: float | None
    degrees_of_freedom: int
    robust: bool

    def residuals(self, data: SweepData) -> Array:
        """Relative residuals [n], (y - law) / y."""
        return np.asarray((data.y - self.law.evaluate(data.x, self.params)) / data.y)


def point_sigma(data: SweepData, options: Options) -> Array:
    """Standard deviations [n] of the points, up to a common factor unless they were measured."""
    if not options.relative:
        return np.ones_like(data.y)
    if data.known_noise is not None:
        return np.asarray(data.known_noise * data.y)
    return np.array(data.y)


def solve_law(law: Law, data: SweepData, options: Options | None = None) -> Solution:
    """Fit one law to a sweep."""
    options = options or Options()
    law = law.bound_to(data.x, data.y)
    sigma = point_sigma(data, options)
    if isinstance(law, Measured):
        return _table(law, data, sigma)
    assert isinstance(law, SeparableLaw)
    solution = _least_squares(law, data, sigma, replace(options, polish=False))
    for _ in range(RENEWALS if options.relative else 0):
        sigma = _renewed_sigma(data, solution)
        solution = _least_squares(law, data, sigma, replace(options, polish=False))
    return _least_squares(law, data, sigma, options) if options.polish else solution


def _renewed_sigma(data: SweepData, solution: Solution) -> Array:
    """Standard deviations from the fitted values, which carry no noise, and from rounding.

    Weights from the noisy readings would favour those that happen to be low. A law that is far off
    (the pure cubic) would weigh by its own error, so the fitted value counts within 20 % only.
    """
    fitted = solution.law.evaluate(data.x, solution.params)
    size = np.clip(fitted, 0.8 * data.y, 1.2 * data.y)
    if data.known_noise is not None:
        return np.asarray(data.known_noise * size)
    rounding = data.rounding
    if not np.any(rounding) or solution.degrees_of_freedom == 0:
        return np.asarray(size)
    squares = ((data.y - fitted) / size) ** 2
    return np.asarray(np.sqrt(_scatter(squares, rounding, solution.degrees_of_freedom) + rounding**2) * size)


def _scatter(squares: Array, rounding: Array, freedom: int) -> float:
    # Variance s^2 with sum r^2 / (s^2 + rounding^2) = freedom (Paule and Mandel 1982), by bisection.
    low, high = 1e-10, float(np.sum(squares)) + 1e-9
    for _ in range(60):
        middle = 0.5 * (low + high)
        if float(np.sum(squares / (middle + rounding**2))) > freedom:
            low = middle
        else:
            high = middle
    return high


def _least_squares(law: SeparableLaw, data: SweepData, sigma: Array, options: Options) -> Solution:
    weights = 1.0 / sigma
    freedom = max(data.x.size - len(law.parameters), 0)
    params = solve(law, data.x, data.y, weights).params[0]
    robust = options.loss == "soft_l1" or (
        options.loss == "auto" and freedom >= 3 and _sticks_out(law, data, params, weights)
    )
    if robust:
        params, weights = _reweigh(law, data, params, weights)
    if options.polish:
        params = polish(law, data.x, data.y, weights, params)
    z = (data.y - law.evaluate(data.x, params)) * weights
    scale = float(np.sqrt(z @ z / freedom)) if freedom else None
    return Solution(
        law=law,
        params=params,
        sigma=sigma,
        weights=weights,
        scale=scale,
        degrees_of_freedom=freedom,
        robust=robust,
    )


def polish(law: SeparableLaw, x: Array, y: Array, weights: Array, start: Array) -> Array:
    """Bounded trust-region least squares from `start` [p]; the better of start and result.

    Parameters on a bound stay there: the search that found `start` already knows they want to leave.
    """
    free = (start > law.lower) & (start < law.upper)
    if not np.any(free):
        return start
    unit = np.abs(start[free])

    def full(scaled: Array) -> Array:
        params = np.array(start)
        params[free] = scaled * unit
        return params

    def residual(scaled: Array) -> Array:
        return np.asarray(weights * (law.evaluate(x, full(scaled)) - y))

    def jacobian(scaled: Array) -> Array:
        return np.asarray(weights[:, None] * law.jacobian(x, full(scaled))[:, free] * unit)

    at = start[free] / unit
    result = least_squares(
        residual,
        at,
        jac=jacobian,
        bounds=(law.lower[free] / unit, law.upper[free] / unit),
        method="trf",
        x_scale="jac",
        ftol=1e-15,
        xtol=1e-15,
        gtol=1e-15,
        max_nfev=60,
    )
    better = 2 * result.cost < float(np.sum(residual(at) ** 2))
    return full(result.x) if better else start


def _sticks_out(law: SeparableLaw, data: SweepData, params: Array, weights: Array) -> bool:
    z = np.abs((data.y - law.evaluate(data.x, params)) * weights)
    spread = 1.4826 * float(np.median(z))
    return spread > 0 and float(np.max(z)) > OUTLIER * spread and data.known_noise is None


def _reweigh(law: SeparableLaw, data: SweepData, params: Array, weights: Array) -> tuple[Array, Array]:
    # Iteratively reweighted least squares for soft-L1: weight^2 = 1 / sqrt(1 + (z / scale)^2).
    base, lowered = weights, weights
    for _ in range(12):
        z = (data.y - law.evaluate(data.x, params)) * base
        spread = SOFT_SCALE * 1.4826 * max(float(np.median(np.abs(z))), 1e-12)
        lowered = base * (1.0 + (z / spread) ** 2) ** -0.25
        params = solve(law, data.x, data.y, lowered).params[0]
    return params, lowered


def _table(law: Measured, data: SweepData, sigma: Array) -> Solution:
    means = law.start(data.x, data.y)[0]
    counts = np.array([float(np.sum(data.x == knot)) for knot in law.knots])
    rising = means[-1] >= means[0]
    params = isotonic(means if rising else -means, counts)
    return Solution(
        law=law,
        params=params if rising else -params,
        sigma=sigma,
        weights=1.0 / sigma,
        scale=None,
        degrees_of_freedom=0,
        robust=False,
    )


def isotonic(y: Array, weights: Array) -> Array:
    """Nearest non-decreasing sequence [n] in weighted least squares (pool adjacent violators)."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(y.tolist(), weights.tolist(), strict=True):
        block = (value, weight, 1)
        while blocks and blocks[-1][0] > block[0]:
            last = blocks.pop()
            total = last[1] + block[1]
            block = ((last[0] * last[1] + block[0] * block[1]) / total, total, last[2] + block[2])
        blocks.append(block)
    return np.concatenate([np.full(count, value) for value, _, count in blocks])
