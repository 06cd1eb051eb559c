"""What a person should know before trusting a fit, one line each."""

from __future__ import annotations

import numpy as np

from cardlab.calibrate.data import SweepData
from cardlab.calibrate.fitter import Solution
from cardlab.laws.measured import Measured
from cardlab.records.fit import Fit

POOR = 0.05
TOP_GAP = 0.03


def warnings_for(
    fit: Fit, data: SweepData, solution: Solution, frequency_max_hz: float | None
) -> tuple[str, ...]:
    """Warnings about the data and about the fit, in the order of the reading."""
    lines = list(data.warnings)
    lines += _about_range(fit, data, solution, frequency_max_hz)
    lines += [f"{name} is at its bound {p.value:.4g} {p.unit}" for name, p in fit.parameters.items() if p.at_bound]
    if solution.robust:
        lines.append("a point sticks out: fitted with a robust loss")
    if fit.covariance is None:
        lines.append("no uncertainty: no points to spare and no measured noise")
    held_out = fit.loo_mape
    if held_out is not None and held_out > POOR:
        lines.append(f"predicts clocks it has not seen to {100 * held_out:.0f} % only")
    return tuple(lines)


def _about_range(
    fit: Fit, data: SweepData, solution: Solution, frequency_max_hz: float | None
) -> list[str]:
    lines = []
    if data.clocks == 1:
        lines.append("one clock only: holds at that clock")
    elif not isinstance(solution.law, Measured) and data.clocks < solution.law.min_points:
        lines.append(f"{data.clocks} clocks, {fit.law} wants at least {solution.law.min_points}")
    elif isinstance(solution.law, Measured) and data.clocks < 3:
        lines.append("two clocks only: a straight line between them")
    if frequency_max_hz is not None and fit.x.max < (1 - TOP_GAP) * frequency_max_hz:
        lines.append(
            f"the sweep ends at {fit.x.max / 1e6:.0f} MHz, the device goes to {frequency_max_hz / 1e6:.0f} MHz"
        )
    return lines


def drift_warning(index: np.ndarray[tuple[int], np.dtype[np.float64]], y: list[float]) -> str | None:
    """A line if repeats of one clock (the anchor) moved by more than 2 % during the sweep."""
    if len(y) < 2:
        return None
    order = np.argsort(index)
    first, last = y[int(order[0])], y[int(order[-1])]
    change = last / first - 1.0
    return f"the repeated clock drifted by {100 * change:+.1f} % during the sweep" if abs(change) > 0.02 else None
