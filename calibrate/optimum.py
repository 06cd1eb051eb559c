"""The clock that spends least energy on a fixed piece of work: minimise E(f) = P(f) t(f).

Without static power and with t = b / f the answer would always be the lowest clock; static power makes
slow clocks dear and rising voltage makes fast ones dear, so real cards have an optimum in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cardlab.quantity import Estimate, product
from cardlab.records.fit import Fit

GRID = 2001


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyOptimum:
    """The best clock and what it costs.

    Attributes:
        frequency_hz: the clock of least energy.
        frequency_ci95_hz: 95 % range of the best clock over the parameter draws.
        energy_j: energy of the work at that clock.
        saving: fraction saved against the highest clock allowed.
    """

    frequency_hz: float
    frequency_ci95_hz: tuple[float, float]
    energy_j: Estimate
    saving: float


def energy_optimum(power: Fit, latency: Fit, frequencies_hz: Sequence[float] | None = None) -> EnergyOptimum:
    """Clock of least P(f) t(f) among the given clocks, else over the range both fits cover (Hz)."""
    low, high = max(power.x.span[0], latency.x.span[0]), min(power.x.span[1], latency.x.span[1])
    grid = np.linspace(low, high, GRID)
    if frequencies_hz is not None:
        grid = np.sort(np.array(frequencies_hz, dtype=float))
    energy = power.curve.evaluate(grid, power.values) * latency.curve.evaluate(grid, latency.values)
    best = int(np.argmin(energy))
    powers, latencies = power.predict_draws(grid), latency.predict_draws(grid)
    count = max(len(powers), len(latencies))
    drawn = np.resize(powers, (count, grid.size)) * np.resize(latencies, (count, grid.size))
    clocks = grid[np.argmin(drawn, axis=1)]
    at = float(grid[best])
    return EnergyOptimum(
        frequency_hz=at,
        frequency_ci95_hz=(float(np.quantile(clocks, 0.025)), float(np.quantile(clocks, 0.975))),
        energy_j=product(power.predict(at), latency.predict(at)),
        saving=1.0 - float(energy[best] / energy[np.argmax(grid)]),
    )
