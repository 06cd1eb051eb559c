"""The frequency that spends least energy on a fixed piece of work: minimise E(f) = P(f) t(f).

Without static power and with t = b / f the answer would always be the lowest frequency; static power makes
slow frequencies dear and rising voltage makes fast ones dear, so real cards have an optimum in between.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cardlab.core.errors import BadDataError
from cardlab.core.laws.base import Array
from cardlab.core.quantity import Estimate, product, union_of
from cardlab.core.records.constants import EnergyOptimum
from cardlab.core.records.fit import Fit

# Fine enough that the optimum moves by under 0.1 % of the range; DRAWN points are enough for a curve.
GRID = 2001
DRAWS = 200
DRAWN = 61


def energy_optimum(power: Fit, latency: Fit, frequencies_hz: Sequence[float] | None = None) -> EnergyOptimum:
    """Frequency of least P(f) t(f) among the given frequencies, else over the range both fits cover (Hz)."""
    return step_optimum(power, [(latency, 1.0)], frequencies_hz)


def step_optimum(
    power: Fit, parts: Sequence[tuple[Fit, float]], frequencies_hz: Sequence[float] | None = None
) -> EnergyOptimum:
    """Frequency of least P(f) times the sum of count x t(f) over the parts [(latency, count)] of a step.

    Raises BadDataError if the fits cover no common range.
    """
    fits = [power, *(latency for latency, _ in parts)]
    low, high = max(f.x.span[0] for f in fits), min(f.x.span[1] for f in fits)
    if not low <= high or not np.isfinite([low, high]).all():
        raise BadDataError("power and latency cover no common frequencies", remedy="measure both in one sweep")
    grid = np.linspace(low, high, GRID)
    if frequencies_hz is not None:
        grid = np.sort(np.array(frequencies_hz, dtype=float))
    seconds = sum(count * latency.curve.evaluate(grid, latency.values) for latency, count in parts)
    energy = power.curve.evaluate(grid, power.values) * seconds
    best = int(np.argmin(energy))
    # The optimum is taken in every draw: its interval is not that of the energy.
    drawn = _drawn(power, grid) * sum(count * _drawn(latency, grid) for latency, count in parts)
    clocks = grid[np.argmin(drawn, axis=1)]
    at = float(grid[best])
    return EnergyOptimum(
        frequency_hz=at,
        frequency_ci95_hz=(float(np.quantile(clocks, 0.025)), float(np.quantile(clocks, 0.975))),
        energy_j=product(power.predict(at), _sum([latency.predict(at).scaled(count) for latency, count in parts])),
        saving=1.0 - float(energy[best] / energy[np.argmax(grid)]),
        curve=tuple((float(grid[i]), float(energy[i])) for i in _thinned(grid.size)),
    )


def _thinned(size: int) -> list[int]:
    return sorted({int(i) for i in np.linspace(0, size - 1, min(size, DRAWN)).round()})


def _drawn(fit: Fit, grid: Array) -> Array:
    """Draws [200, n]; a fit without uncertainty repeats its values."""
    return np.resize(fit.predict_draws(grid), (DRAWS, grid.size))


def _sum(terms: Sequence[Estimate]) -> Estimate:
    errors = [t.stderr for t in terms if t.stderr is not None]
    stderr = float(np.linalg.norm(errors)) if len(errors) == len(terms) else None
    value = sum(t.value for t in terms)
    ci95 = None if stderr is None else (value - 1.96 * stderr, value + 1.96 * stderr)
    return Estimate(value, stderr, ci95, None, union_of(t.provenance for t in terms))
