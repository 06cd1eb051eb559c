"""From points to Fit records: the functions users call.

`fit_power` and `fit_latency` return the chosen fit; `compare` returns every law tried, with the paper's
cubic always among the powers, so that a report can show the choice and what it was chosen over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike

from cardlab.calibrate.data import SweepData, prepare
from cardlab.calibrate.fitter import Intervals, Loss, Options, Solution, solve_law
from cardlab.calibrate.misfit import misfit
from cardlab.calibrate.select import BASELINE, Candidate, choose, try_laws
from cardlab.calibrate.uncertainty import (
    at_bound,
    bootstrap_by_clock,
    can_resample,
    covariance,
    draws,
    freedom_of,
    leave_one_clock_out,
    noise_scale,
    profile_interval,
    t_factor,
)
from cardlab.calibrate.warn import warnings_for
from cardlab.core.errors import TooFewPointsError
from cardlab.core.identity import new_uid
from cardlab.core.laws import law_named
from cardlab.core.laws.base import Array
from cardlab.core.laws.measured import Measured
from cardlab.core.quantity import Estimate, Origin, Provenance, union_of
from cardlab.core.records.fit import UNITS, Axis, Fit, FitSubject, ParameterEstimate

PROFILED = ("knee", "voltage_ratio")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All laws fitted to one sweep; exactly one has `selected`."""

    fits: tuple[Fit, ...]

    @property
    def selected(self) -> Fit:
        """The chosen fit."""
        return next(fit for fit in self.fits if fit.selected)

    def law(self, name: str) -> Fit | None:
        """The fit of that law, None if it was not identifiable."""
        return next((fit for fit in self.fits if fit.law == name), None)


def fit_power(
    frequency_hz: ArrayLike,
    power_w: ArrayLike | Sequence[Estimate | float],
    law: str = "auto",
    *,
    stderr_w: ArrayLike | None = None,
    quantisation_w: float | None = None,
    throttled: Sequence[bool | None] | None = None,
    frequency_max_hz: float | None = None,
    loss: Loss = "auto",
    relative: bool = True,
    intervals: Intervals = "covariance",
    subject: FitSubject | None = None,
) -> Fit:
    """Fit power against frequency and return the chosen law.

    Args:
        frequency_hz: frequencies read back under load [n], Hz, in the order they were measured.
        power_w: mean power [n], W; Estimates keep their origins, plain numbers are imported.
        law: a name of cardlab.core.laws, or "auto".
        stderr_w: measured standard errors [n], W.
        quantisation_w: step of the meter, W.
        throttled: flags [n]; throttled points are left out.
        frequency_max_hz: highest frequency the device offers, to warn when the sweep lacks it.
        loss: "linear", "soft_l1" or "auto".
        relative: weigh by relative error; False is plain least squares.
        intervals: "covariance", or "bootstrap" by operating point; a law that cannot be resampled keeps the former and
            warns.
        subject: what the sweep is about.

    Raises:
        BadDataError: a value is not finite and positive; the message names the point.
        TooFewPointsError: the named law has more parameters than there are frequencies.
        UsageError: no such law.
    """
    data = prepare(frequency_hz, _numbers(power_w), stderr=stderr_w, quantisation=quantisation_w, throttled=throttled)
    subject = subject or _of_estimates(power_w)
    if subject.quantity not in ("power", "wait_power"):
        subject = replace(subject, quantity="power")
    return _fit(data, law, subject, Options(loss=loss, relative=relative, intervals=intervals), frequency_max_hz)


def fit_latency(
    frequency_hz: ArrayLike,
    latency_s: ArrayLike | Sequence[Estimate | float],
    law: str = "auto",
    *,
    stderr_s: ArrayLike | None = None,
    throttled: Sequence[bool | None] | None = None,
    frequency_max_hz: float | None = None,
    loss: Loss = "auto",
    relative: bool = True,
    intervals: Intervals = "covariance",
    subject: FitSubject | None = None,
) -> Fit:
    """Fit latency (s) against frequency (Hz) at one memory frequency; arguments and errors as `fit_power`."""
    data = prepare(frequency_hz, _numbers(latency_s), y_name="latency_s", stderr=stderr_s, throttled=throttled)
    subject = replace(subject or _of_estimates(latency_s), quantity="latency")
    return _fit(data, law, subject, Options(loss=loss, relative=relative, intervals=intervals), frequency_max_hz)


def _numbers(values: ArrayLike | Sequence[Estimate | float]) -> ArrayLike:
    """The values of Estimates, other values as they are."""
    if not isinstance(values, list | tuple):
        return values  # type: ignore[return-value]
    return [v.value if isinstance(v, Estimate) else v for v in values]


def _of_estimates(values: ArrayLike | Sequence[Estimate | float]) -> FitSubject:
    """A subject with the origins of Estimates among the values; plain numbers are imported."""
    every = values if isinstance(values, list | tuple) else ()
    known = [v.provenance for v in every if isinstance(v, Estimate)]
    if not known:
        return FitSubject()
    plain = [] if len(known) == len(every) else [Provenance.of(Origin.IMPORTED)]
    return FitSubject(provenance=union_of([*known, *plain]))


def compare(
    data: SweepData,
    subject: FitSubject,
    *,
    options: Options | None = None,
    frequency_max_hz: float | None = None,
) -> Comparison:
    """Fit every identifiable law and mark the chosen one; powers include the pure cubic."""
    options = options or Options()
    tried = try_laws(subject.quantity, data, options)
    chosen = choose(tried)
    fits = [
        _record(data, c, subject, options, frequency_max_hz, _Role(selected=c is chosen, by_data=True)) for c in tried
    ]
    if subject.quantity in ("power", "wait_power"):
        baseline = _candidate(subject.quantity, BASELINE, data, options)
        role = _Role(selected=False, by_data=False)
        # The cubic of the paper is fitted and shown, never chosen.
        fits.append(_record(data, baseline, subject, options, frequency_max_hz, role))
    return Comparison(fits=tuple(fits))


def _fit(data: SweepData, law: str, subject: FitSubject, options: Options, frequency_max_hz: float | None) -> Fit:
    if law == "auto":
        chosen = choose(try_laws(subject.quantity, data, options))
    else:
        chosen = _candidate(subject.quantity, law, data, options)
    return _record(data, chosen, subject, options, frequency_max_hz, _Role(selected=True, by_data=law == "auto"))


def _candidate(quantity: str, name: str, data: SweepData, options: Options) -> Candidate:
    law = law_named(quantity, name)
    # A table has as many parameters as knots, and always enough.
    need = 1 if isinstance(law, Measured) else len(law.parameters)
    if data.clocks < need:
        raise TooFewPointsError(
            f"law {name} has {need} parameters and the sweep {data.clocks} distinct frequencies",
            remedy="measure more frequencies or use --law auto",
        )
    solution = solve_law(law, data, options)
    held_out = leave_one_clock_out(data, solution) if data.clocks > need else None
    return Candidate(solution=solution, held_out=held_out)


def fit_record(data: SweepData, candidate: Candidate, subject: FitSubject, options: Options) -> Fit:
    """The record of one law that was fitted to a sweep and chosen."""
    return _record(data, candidate, subject, options, None, _Role(selected=True, by_data=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Role:
    """What a fit is among those of its sweep: the selected one; whether its law was chosen by the data."""

    selected: bool
    by_data: bool


def _record(
    data: SweepData,
    candidate: Candidate,
    subject: FitSubject,
    options: Options,
    frequency_max_hz: float | None,
    role: _Role,
) -> Fit:
    solution = candidate.solution
    resampled = None
    if options.intervals == "bootstrap" and can_resample(data, solution):
        resampled = bootstrap_by_clock(data, solution)
    matrix = covariance(data, solution) if resampled is None else np.atleast_2d(np.cov(resampled, rowvar=False))
    sampled = draws(data, solution) if resampled is None else resampled
    scale = noise_scale(data, solution)
    residual = solution.residuals(data)
    identity = {f.name: getattr(subject, f.name) for f in fields(FitSubject)}
    fit = Fit(
        **identity,
        fit_id=new_uid(),
        law=solution.law.name,
        constants=solution.law.constants,
        selected=role.selected,
        n_points=data.x.size,
        x=_axis(data, subject.quantity),
        parameters=_parameters(data, solution, matrix, subject.quantity, resampled),
        intervals="covariance" if resampled is None else "bootstrap",
        covariance=None if matrix is None else tuple(tuple(row) for row in matrix.tolist()),
        degrees_of_freedom=freedom_of(data, solution),
        interval_factor=None if matrix is None else t_factor(freedom_of(data, solution)),
        mape=float(np.mean(np.abs(residual))),
        loo_mape=None if candidate.held_out is None else candidate.score,
        r2=_r2(data.y, data.y * (1.0 - residual)),
        noise=None if scale is None else scale * float(np.sqrt(np.mean((solution.sigma / data.y) ** 2))),
        misfit=misfit(data, solution, candidate.held_out, chosen=role.by_data) if options.relative else None,
        data_hash=data.data_hash,
        packed_draws=b"" if sampled is None else np.ascontiguousarray(sampled, dtype="<f8").tobytes(),
    )
    lines = warnings_for(fit, data, solution, frequency_max_hz)
    if options.intervals == "bootstrap" and resampled is None:
        lines = (*lines, f"intervals by covariance: {data.clocks} frequencies of a {fit.law} law cannot be resampled")
    return replace(fit, warnings=lines)


def _axis(data: SweepData, quantity: str) -> Axis:
    low, high = float(data.x[0]), float(data.x[-1])
    if quantity == "accuracy":
        return Axis(name="compression", unit="1", min=low, max=high)
    return Axis(min=low, max=high)


def _parameters(
    data: SweepData, solution: Solution, matrix: Array | None, quantity: str, resampled: Array | None
) -> dict[str, ParameterEstimate]:
    bound = at_bound(solution)
    factor = t_factor(freedom_of(data, solution))
    result = {}
    for i, parameter in enumerate(solution.law.parameters):
        value = float(solution.params[i])
        stderr = ci95 = None
        if matrix is not None and not bound[i]:
            stderr = float(np.sqrt(matrix[i, i]))
            half = factor * stderr
            ci95 = (max(value - half, parameter.lower), min(value + half, parameter.upper))
        # The cost around a knee is no parabola: its interval comes from the profiled cost.
        if parameter.name in PROFILED and solution.degrees_of_freedom > 0 and solution.scale:
            ci95 = profile_interval(data, solution, i)
        if resampled is not None and not bound[i]:
            low, high = np.percentile(resampled[:, i], (2.5, 97.5))
            ci95 = (float(low), float(high))
        # A table's values have the unit of whatever was measured.
        unit = UNITS[quantity] if parameter.unit == "SI" else parameter.unit
        result[parameter.name] = ParameterEstimate(
            value=value, stderr=stderr, ci95=ci95, unit=unit, at_bound=bool(bound[i])
        )
    return result


def _r2(y: Array, fitted: Array) -> float | None:
    total = float(np.sum((y - y.mean()) ** 2))
    return None if total == 0 else 1.0 - float(np.sum((y - fitted) ** 2)) / total
