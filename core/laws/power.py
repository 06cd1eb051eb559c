"""Power of a busy processor against its frequency f.

Dynamic power of CMOS is c f V^2. Three regimes follow from what the voltage does:

    V flat            P = P0 + c f                     (low frequencies, below the ridge)
    V proportional f  P = P0 + kappa f^3               (the cubic of the CARD paper has P0 = 0)
    flat, then rising P = P0 + c f V(f)^2              (real cards: a knee at 0.6-0.85 of the top frequency)

P0 is everything that does not depend on the frequency: leakage, fans, memory, the board. Sources: CARD
(arXiv 2412.00090) for kappa f^3; Schoonhoven et al., "Going green" (PMBS 2022) for the ridge.
Frequencies in Hz, power in W.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from cardlab.core.laws.base import Array, Law, Parameter, SeparableLaw, stack

# A scale at 1 GHz is a power that people can imagine; k in W/Hz^a is not.
REFERENCE_HZ = 1e9
# No card measured so far exceeds 1.5 between knee and top.
MAX_VOLTAGE_RATIO = 1.6

_POWER = ("power", "wait_power")
_STATIC = Parameter(name="static_power", unit="W", meaning="power that does not depend on the frequency")
_KAPPA = Parameter(name="kappa", unit="W/Hz^3", meaning="cubic coefficient of the dynamic power")
_LINEAR = Parameter(name="linear", unit="W/Hz", meaning="dynamic power per frequency at constant voltage")
_SCALE = Parameter(name="scale", unit="W", meaning="dynamic power at 1 GHz")
_KNEE = Parameter(name="knee", unit="Hz", meaning="frequency above which the voltage rises")
_RATIO = Parameter(
    name="voltage_ratio",
    unit="1",
    meaning="voltage at the top frequency over the voltage below the knee",
    lower=1.0,
    upper=MAX_VOLTAGE_RATIO,
)
_EXPONENT = Parameter(name="exponent", unit="1", meaning="exponent of the frequency", lower=0.5, upper=8.0)


class ConstantPower(SeparableLaw):
    """P = P0: no frequency control, or a rail that does not feel the frequency."""

    name = "constant"
    quantities = _POWER
    equation = "P = static_power"
    min_points = 1
    complexity = 1.0
    linear = (_STATIC,)

    def basis(self, x: Array, theta: Array) -> Array:
        """A curve of ones."""
        return stack((*theta.shape[:-1], x.size), 1.0)


class Cubic(SeparableLaw):
    """P = kappa f^3, the paper's law; kept as its named baseline."""

    name = "cubic"
    quantities = _POWER
    equation = "P = kappa f^3"
    min_points = 1
    complexity = 1.0
    linear = (_KAPPA,)

    def basis(self, x: Array, theta: Array) -> Array:
        """The cube of the frequency."""
        return stack((*theta.shape[:-1], x.size), x**3)


class StaticCubic(SeparableLaw):
    """P = P0 + kappa f^3: voltage proportional to the frequency, plus static power."""

    name = "static_cubic"
    quantities = _POWER
    equation = "P = static_power + kappa f^3"
    min_points = 3
    min_span = 1.05
    complexity = 2.0
    linear = (_STATIC, _KAPPA)

    def basis(self, x: Array, theta: Array) -> Array:
        """Ones and the cube of the frequency."""
        return stack((*theta.shape[:-1], x.size), 1.0, x**3)


class StaticLinearCubic(SeparableLaw):
    """P = P0 + b f + kappa f^3: convex, linear in its parameters, between the two regimes."""

    name = "static_linear_cubic"
    quantities = _POWER
    equation = "P = static_power + linear f + kappa f^3"
    min_points = 5
    min_span = 1.2
    complexity = 3.0
    linear = (_STATIC, _LINEAR, _KAPPA)

    def basis(self, x: Array, theta: Array) -> Array:
        """Ones, the frequency and its cube."""
        return stack((*theta.shape[:-1], x.size), 1.0, x, x**3)


def _power_curve(x: Array, exponent: Array) -> tuple[Array, Array]:
    # One exponential gives curve and derivative.
    log_ratio = np.log(x / REFERENCE_HZ)
    curve = np.exp(exponent * log_ratio)
    return curve, curve * log_ratio


def _exponent_grid() -> Array:
    return np.linspace(_EXPONENT.lower, _EXPONENT.upper, 61)[:, None]


class PowerLaw(SeparableLaw):
    """P = P0 + k (f / 1 GHz)^a: a free exponent."""

    name = "power_law"
    quantities = _POWER
    equation = "P = static_power + scale (f / 1 GHz)^exponent"
    min_points = 5
    min_span = 1.2
    complexity = 3.0
    linear = (_STATIC, _SCALE)
    shape = (_EXPONENT,)

    def basis(self, x: Array, theta: Array) -> Array:
        """Ones and the power of the frequency."""
        return stack((*theta.shape[:-1], x.size), 1.0, _power_curve(x, theta)[0])

    def basis_slope(self, x: Array, theta: Array) -> Array:
        """Only the second curve depends on the exponent."""
        slope = stack((*theta.shape[:-1], x.size), 0.0, _power_curve(x, theta)[1])
        return slope[..., None, :, :]

    def shape_grid(self, x: Array) -> Array:
        """Exponents over the whole allowed range."""
        del x
        return _exponent_grid()


class PurePowerLaw(SeparableLaw):
    """P = k (f / 1 GHz)^a without static power; the form of NIST's DanWood data set."""

    name = "pure_power_law"
    quantities = _POWER
    equation = "P = scale (f / 1 GHz)^exponent"
    min_points = 3
    min_span = 1.1
    complexity = 2.0
    linear = (_SCALE,)
    shape = (_EXPONENT,)

    def basis(self, x: Array, theta: Array) -> Array:
        """The power of the frequency."""
        return stack((*theta.shape[:-1], x.size), _power_curve(x, theta)[0])

    def basis_slope(self, x: Array, theta: Array) -> Array:
        """Derivative by the exponent."""
        slope = stack((*theta.shape[:-1], x.size), _power_curve(x, theta)[1])
        return slope[..., None, :, :]

    def shape_grid(self, x: Array) -> Array:
        """Exponents over the whole allowed range."""
        del x
        return _exponent_grid()


@dataclass(frozen=True, slots=True)
class Ridge(SeparableLaw):
    """P = P0 + c f V(f)^2 with V = 1 up to the knee, then rising linearly to V = r at the top frequency.

    Attributes:
        bottom_hz, top_hz: lowest and highest frequency of the data; they fix where V = r holds and
            between which frequencies the knee may lie.
    """

    bottom_hz: float = 0.0
    top_hz: float = REFERENCE_HZ

    name = "ridge"
    quantities = _POWER
    equation = "P = static_power + linear f V^2, V = 1 + (voltage_ratio - 1) max(0, f - knee)/(f_top - knee)"
    min_points = 7
    min_span = 1.4
    complexity = 4.0
    linear = (_STATIC, _LINEAR)
    shape = (_KNEE, _RATIO)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Static power, slope, knee within the sweep, voltage ratio within physics."""
        # A knee at either end of the sweep is no knee: the data would lie in one regime.
        margin = 0.1 * (self.top_hz - self.bottom_hz)
        knee = replace(_KNEE, lower=self.bottom_hz + margin, upper=self.top_hz - margin)
        return (*self.linear, knee, _RATIO)

    def bound_to(self, x: Array, y: Array) -> Law:
        """The ridge over the range of these frequencies."""
        del y
        return Ridge(float(np.min(x)), float(np.max(x)))

    @property
    def constants(self) -> Mapping[str, tuple[float, ...]]:
        """The range of frequencies the knee and the voltage ratio refer to."""
        return {"bottom_hz": (self.bottom_hz,), "top_hz": (self.top_hz,)}

    def basis(self, x: Array, theta: Array) -> Array:
        """Ones and f V^2."""
        voltage = self._voltage(x, theta)[0]
        return stack((*theta.shape[:-1], x.size), 1.0, x * voltage**2)

    def basis_slope(self, x: Array, theta: Array) -> Array:
        """Derivatives of f V^2 by the knee and by the voltage ratio."""
        voltage, above, span = self._voltage(x, theta)
        rise = theta[..., 1:2] - 1.0
        by_knee = np.where(above > 0, rise * (above / span - 1.0) / span, 0.0)
        shape = (*theta.shape[:-1], x.size)
        slopes = [stack(shape, 0.0, 2.0 * x * voltage * by) for by in (by_knee, above / span)]
        return np.stack(slopes, axis=-3)

    def shape_grid(self, x: Array) -> Array:
        """A grid of knees and voltage ratios."""
        del x
        low, high = self.parameters[2].lower, self.parameters[2].upper
        knees, ratios = np.linspace(low, high, 33), np.linspace(1.0, MAX_VOLTAGE_RATIO, 21)[1:]
        return np.stack(np.meshgrid(knees, ratios, indexing="ij"), axis=-1).reshape(-1, 2)

    def _voltage(self, x: Array, theta: Array) -> tuple[Array, Array, Array]:
        knee, ratio = theta[..., 0:1], theta[..., 1:2]
        above = np.maximum(x - knee, 0.0)
        # A knee at the very top would divide by zero.
        span = np.maximum(self.top_hz - knee, 1e-9 * self.top_hz)
        return 1.0 + (ratio - 1.0) * above / span, above, span
