"""The measured points themselves as a law: monotone cubic interpolation (PCHIP).

For cards that no closed form fits. The parameters are the values at the knots, the knots are
constants. Slopes follow Fritsch and Butland (SIAM J. Sci. Stat. Comput. 5, 1984): the weighted
harmonic mean of the neighbouring secants, zero at an extremum, so a monotone table gives a monotone
curve without overshoot. Beyond the ends the curve goes on along the secant of the last two knots, and
never below 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cardlab.core.laws.base import Array, Law, Parameter


@dataclass(frozen=True, slots=True)
class Measured(Law):
    """Monotone interpolation of a table.

    Attributes:
        knots: increasing x of the table.
        unit: of the values.
    """

    knots: tuple[float, ...] = ()

    name = "measured"
    quantities = ("power", "wait_power", "latency")
    equation = "monotone cubic through the measured points"
    min_points = 2
    # Every closed form that predicts as well is preferred.
    complexity = 1e3

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """One value per knot, in the unit of the quantity."""
        return tuple(
            Parameter(name=f"value_{i}", unit="SI", meaning=f"value at {knot:g}") for i, knot in enumerate(self.knots)
        )

    @property
    def constants(self) -> Mapping[str, tuple[float, ...]]:
        """The knots."""
        return {"knots": self.knots}

    def bound_to(self, x: Array, y: Array) -> Law:
        """The law with its knots at the distinct x."""
        del y
        return Measured(tuple(float(v) for v in np.unique(x)))

    def start(self, x: Array, y: Array) -> Array:
        """The values at the knots, points at one knot averaged."""
        return np.array([[float(np.mean(y[x == knot])) for knot in self.knots]])

    def evaluate(self, x: Array, params: Array) -> Array:
        """Values [..., n] at x [n] for tables [..., knots]."""
        x, y = np.asarray(x, float), np.asarray(params, float)
        knots = np.array(self.knots)
        if knots.size == 1:
            return np.array(np.broadcast_to(y, (*y.shape[:-1], x.size)))
        slope, secant = _slopes(knots, y)
        i = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, knots.size - 2)
        width = knots[i + 1] - knots[i]
        t = np.clip((x - knots[i]) / width, 0.0, 1.0)
        value = (
            (2 * t**3 - 3 * t**2 + 1) * y[..., i]
            + (3 * t**2 - 2 * t**3) * y[..., i + 1]
            + (t**3 - 2 * t**2 + t) * width * slope[..., i]
            + (t**3 - t**2) * width * slope[..., i + 1]
        )
        # Extrapolated along the last secant: a cubic would run away.
        beyond = np.where(x < knots[0], x - knots[0], np.where(x > knots[-1], x - knots[-1], 0.0))
        extended: Array = np.maximum(value + beyond * secant[..., i], 0.0)
        return extended

    def jacobian(self, x: Array, params: Array) -> Array:
        """Derivatives [..., n, knots] by central differences of the interpolation."""
        params = np.asarray(params, float)
        # Linear in the values except where slopes change sign: central differences are exact enough.
        step = 1e-6 * max(float(np.max(np.abs(params))), 1e-300)
        columns = []
        for i in range(params.shape[-1]):
            shift = np.zeros(params.shape[-1])
            shift[i] = step
            columns.append((self.evaluate(x, params + shift) - self.evaluate(x, params - shift)) / (2 * step))
        return np.stack(columns, axis=-1)


def _slopes(knots: Array, y: Array) -> tuple[Array, Array]:
    h = np.diff(knots)
    secant = np.diff(y, axis=-1) / h
    slope = np.empty_like(y)
    slope[..., 0], slope[..., -1] = secant[..., 0], secant[..., -1]
    if knots.size > 2:
        left, right = secant[..., :-1], secant[..., 1:]
        w1, w2 = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
        # A sign change is an extremum, where the slope must vanish.
        same = left * right > 0
        safe_left, safe_right = np.where(same, left, 1.0), np.where(same, right, 1.0)
        slope[..., 1:-1] = np.where(same, (w1 + w2) / (w1 / safe_left + w2 / safe_right), 0.0)
    return slope, secant
