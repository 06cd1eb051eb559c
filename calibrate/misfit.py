"""How far the law itself may be from the truth.

Residuals hold noise and misfit. What tells them apart:

* noise was measured (repeats at each frequency): misfit is the excess. In the sample a law bends towards
  its points, so for a law that was *chosen* by the data the excess of the held-out errors counts,
  whose noise part is sigma^2 / (1 - h_i) with the leverages h_i, and at least a quarter of the noise.
* noise unknown: what successive residuals, in order of the frequency, differ by is noise (von Neumann
  1941), because a smooth misfit hardly changes between neighbours; the rest is misfit. For a chosen
  law at least half of the variance counts: a misfit that jumps (a stepped voltage table) looks like
  noise, and 12 points cannot tell.

The misfit is relative, and enters predictions as one more standard deviation.
"""

from __future__ import annotations

import math

import numpy as np

from cardlab.calibrate.data import SweepData
from cardlab.calibrate.fitter import Solution
from cardlab.core.laws.base import Array
from cardlab.core.laws.measured import Measured

# Twelve points estimate the noise to some 30 % only: the share called misfit is not taken too eagerly.
CHANCE = 1.3
CHOSEN_SHARE = 0.5
CHOSEN_FLOOR = 0.25
# Fewer residuals say nothing of two variances.
LEAST_FREEDOM = 3


def misfit(data: SweepData, solution: Solution, held_out: Array | None, *, chosen: bool) -> float | None:
    """Relative standard deviation of the law about the truth.

    Args:
        data, solution: the sweep and the law fitted to it.
        held_out: relative held-out errors [n], None if unknown.
        chosen: the data chose the law; False when a person named it.

    Returns:
        None where no residuals are left to judge by.
    """
    if isinstance(solution.law, Measured):
        return _of_table(data, held_out)
    if solution.degrees_of_freedom < LEAST_FREEDOM or solution.scale is None:
        return None
    size = solution.scale * float(np.median(solution.sigma / data.y))
    if data.known_noise is not None:
        known = float(np.mean(data.known_noise**2))
        excess = max(solution.scale**2 - 1.0, 0.0) * known
        if chosen and held_out is not None:
            excess = max(excess, _held_out_excess(data, solution, held_out), CHOSEN_FLOOR * known)
        return math.sqrt(excess)
    z = (data.y - solution.law.evaluate(data.x, solution.params)) * solution.weights
    # Von Neumann: half the mean squared successive difference estimates the noise alone.
    noise_share = float(np.mean(np.diff(z) ** 2)) / 2 / max(solution.scale**2, 1e-300)
    share = max(1.0 - CHANCE * noise_share, CHOSEN_SHARE if chosen else 0.0)
    return size * math.sqrt(share)


def _held_out_excess(data: SweepData, solution: Solution, held_out: Array) -> float:
    # Both ends are extrapolations when left out; only frequencies between others count.
    inner = (data.clock > 0) & (data.clock < data.clocks - 1)
    known = data.known_noise
    if known is None or not np.any(inner):
        return 0.0
    jacobian = solution.law.jacobian(data.x, solution.params) * solution.weights[:, None]
    orthogonal = np.linalg.qr(jacobian / np.maximum(np.linalg.norm(jacobian, axis=0), 1e-300))[0]
    # A leverage of 1 is a point that its law follows wherever it goes; it expects no residual at all.
    leverage = np.minimum(np.sum(orthogonal**2, axis=1), 0.9)
    expected = known**2 / (1.0 - leverage)
    return max(float(np.mean(held_out[inner] ** 2 - expected[inner])), 0.0)


def _of_table(data: SweepData, held_out: Array | None) -> float | None:
    # Left-out points are predicted over twice the spacing; 1.5 is the noise of that comparison.
    if held_out is None or data.clocks < 4:
        return None
    inner = (data.clock > 0) & (data.clock < data.clocks - 1)
    errors = float(np.mean(held_out[inner] ** 2))
    if data.known_noise is None:
        return math.sqrt(CHOSEN_SHARE * errors / 1.5)
    return math.sqrt(max(errors - 1.5 * float(np.mean(data.known_noise**2)), 0.0))
