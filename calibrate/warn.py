"""What a person should know before trusting a fit, one line each."""

from __future__ import annotations

from cardlab.calibrate.data import SweepData
from cardlab.calibrate.fitter import Solution
from cardlab.core.laws.measured import Measured
from cardlab.core.records.fit import Fit

# A held-out error above this is worth a word; a sweep that ends this far below the top extrapolates.
POOR = 0.05
TOP_GAP = 0.03


def warnings_for(fit: Fit, data: SweepData, solution: Solution, frequency_max_hz: float | None) -> tuple[str, ...]:
    """Warnings about the data and about the fit, in the order of the reading."""
    lines = list(data.warnings)
    lines += _about_range(fit, data, solution, frequency_max_hz)
    for name, parameter in fit.parameters.items():
        if parameter.at_bound:
            lines.append(f"{name} is at its bound {parameter.value:.4g} {parameter.unit}")
    if solution.robust:
        lines.append("a point sticks out: fitted with a robust loss")
    if fit.covariance is None:
        lines.append("no uncertainty: no points to spare and no measured noise")
    held_out = fit.loo_mape
    if held_out is not None and held_out > POOR:
        lines.append(f"predicts frequencies it has not seen to {100 * held_out:.0f} % only")
    return tuple(lines)


def _about_range(fit: Fit, data: SweepData, solution: Solution, frequency_max_hz: float | None) -> list[str]:
    lines = []
    if data.clocks == 1:
        lines.append("one frequency only: holds at that frequency")
    elif not isinstance(solution.law, Measured) and data.clocks < solution.law.min_points:
        lines.append(f"{data.clocks} frequencies, {fit.law} wants at least {solution.law.min_points}")
    elif isinstance(solution.law, Measured) and data.clocks < 3:
        lines.append("two frequencies only: a straight line between them")
    if frequency_max_hz is not None and fit.x.span[1] < (1 - TOP_GAP) * frequency_max_hz:
        end, top = fit.x.span[1] / 1e6, frequency_max_hz / 1e6
        lines.append(f"the sweep ends at {end:.0f} MHz, the device goes to {top:.0f} MHz")
    return lines
