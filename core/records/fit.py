"""A fit: one law with its parameters, their uncertainty, and what it can and cannot say.

Four errors are kept apart, because they behave differently when numbers are added up:

* parameters: `covariance` and 200 `draws`; shrinks with more points;
* misfit: the law is not the truth; `misfit` is relative and does not shrink;
* noise: what one more reading would scatter by; `noise`, relative, is no part of a predicted mean;
* meter: `meter_systematic`, relative, one draw per device, never averaged away.

`predict` combines parameters and misfit into a 95 % interval for the true mean value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import numpy as np

from cardlab.core.errors import BadDataError
from cardlab.core.laws import Law, law_named
from cardlab.core.laws.base import Array
from cardlab.core.plain import Document, from_plain, to_plain
from cardlab.core.quantity import Estimate, How, Provenance

# What tells one subject from another; columns of the store's table of fits have these names.
SUBJECT = (
    "device",
    "task",
    "workload",
    "execution",
    "quantity",
    "segment",
    "phase",
    "rail",
    "cut",
    "codec",
    "power_mode",
    "memory_hz",
)
EDGE_TOLERANCE = 0.005
# A law that is off by more on average describes another device.
USABLE_ERROR = 0.15
# What a run taught: true time of a term over that of the constants its plan was made of.
RATIO = "ratio"
UNITS = {"power": "W", "wait_power": "W", "latency": "s", "accuracy": "1", RATIO: "1"}
_LEARNT = ("learnt_from", "window", "base")


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSubject:
    """What a fit is about: its key in the store, apart from the law.

    Attributes:
        device, device_name: key and label of the device.
        task: uid of the task, None for imports and external loads, which have a `workload`.
        workload: label of an import or external load.
        execution: uid of the execution.
        quantity: "power", "wait_power", "latency", "accuracy" or "ratio".
        segment, phase: of a latency; None for a whole step. The segment of a ratio is the term of a round.
        rail: what a power covers.
        cut: of an accuracy, layers on the device; None for other quantities.
        codec: what an accuracy is about: a family of codecs ("dense", "topk") or one codec ("topk:0.3:8"), either with
            "+feedback" behind it; None for other quantities, and for a curve of several families (0.1.0).
        power_mode: power mode of the device, None without modes.
        memory_hz: memory frequency, None if unknown.
        provenance: of the measurements; the fit's own adds how = fitted.
        meter_systematic: relative standard deviation of the meter's gain, None if unknown.
    """

    device: str = "imported:unnamed"
    device_name: str = "unnamed"
    task: str | None = None
    workload: str | None = None
    execution: str | None = None
    quantity: str = "power"
    segment: str | None = None
    phase: str | None = None
    rail: str | None = None
    cut: int | None = None
    codec: str | None = None
    power_mode: str | None = None
    memory_hz: float | None = None
    provenance: Provenance = field(default_factory=lambda: Provenance.of("imported"))
    meter_systematic: float | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """Values of SUBJECT: fits of one key are about one curve."""
        return tuple(getattr(self, name) for name in SUBJECT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """The variable a fit runs over and the range its data cover; None where it could not be read."""

    name: str = "frequency_hz"
    unit: str = "Hz"
    min: float | None
    max: float | None

    @property
    def span(self) -> tuple[float, float]:
        """The range; a variable that could not be read counts as covered everywhere."""
        return (
            -math.inf if self.min is None else self.min,
            math.inf if self.max is None else self.max,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterEstimate:
    """One fitted parameter; stderr and ci95 are None where the data do not determine them."""

    value: float
    stderr: float | None
    ci95: tuple[float, float] | None
    unit: str
    at_bound: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit(FitSubject):
    """A law fitted to one sweep of one subject.

    Attributes:
        fit_id: identity of the fit.
        law: name; `constants` hold what the law took from the data besides its parameters.
        selected: this fit is the one its selection chose, or the only one asked for.
        n_points: points used.
        x: variable and range of the data.
        parameters: by name, in the law's order.
        covariance: [p][p] of the parameters, zero in rows of parameters at a bound; None if unknown.
        degrees_of_freedom: of the residuals.
        intervals: where covariance, draws and intervals come from: "covariance" (of the least squares), or "bootstrap"
            (refits to operating points drawn with replacement).
        interval_factor: multiple of a standard error that makes a 95 % interval (Student's t).
        mape, loo_mape: mean relative error in the sample and with each frequency left out in turn
            (fraction); None where it cannot be computed.
        r2: coefficient of determination, None if the values do not vary.
        noise: relative standard deviation of one point about the law, None if unknown.
        run_spread: relative standard deviation between runs of the same point, None with one run of each.
        runs: runs that the points come from, None where that was not recorded.
        misfit: relative standard deviation of law against truth, None if it cannot be judged.
        data_hash: identity of the data; also the seed of the draws.
        warnings: lines in words.
        learnt_from: of a ratio, the run that taught it; None for what was measured.
        window: of a ratio, the first and the last round that it rests on.
        base: of a ratio, uids of what it multiplies: profiles, fits or a link.
        packed_draws: 200 x p float64, little endian; use `draws`.
    """

    fit_id: str
    law: str
    constants: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    selected: bool = True
    n_points: int
    x: Axis
    parameters: Mapping[str, ParameterEstimate]
    covariance: tuple[tuple[float, ...], ...] | None = None
    degrees_of_freedom: int
    intervals: str = "covariance"
    interval_factor: float | None = None
    mape: float
    loo_mape: float | None = None
    r2: float | None = None
    noise: float | None = None
    run_spread: float | None = None
    runs: int | None = None
    misfit: float | None = None
    data_hash: str
    warnings: tuple[str, ...] = ()
    learnt_from: str | None = None
    window: tuple[int, int] | None = None
    base: tuple[str, ...] = ()
    packed_draws: bytes = field(default=b"", repr=False)

    @property
    def unit(self) -> str:
        """SI unit of the fitted quantity."""
        return UNITS[self.quantity]

    @property
    def curve(self) -> Law:
        """The law object, with its constants."""
        return law_named(self.quantity, self.law, self.constants)

    @property
    def values(self) -> Array:
        """Parameter vector [p]."""
        return np.array([p.value for p in self.parameters.values()])

    @property
    def draws(self) -> Array:
        """Parameter draws [200, p] (read-only); [1, p], the values, where uncertainty is unknown."""
        if not self.packed_draws:
            return self.values[None, :]
        return np.frombuffer(self.packed_draws, dtype="<f8").reshape(-1, len(self.parameters))

    @property
    def error(self) -> float:
        """Mean relative error at frequencies it has not seen, else in the sample."""
        return self.mape if self.loo_mape is None else self.loo_mape

    @property
    def describes(self) -> bool:
        """Whether it describes its device at all: what follows from a law that does not is no finding."""
        return self.error <= USABLE_ERROR

    def extrapolated(self, x: float) -> bool:
        """Whether x lies outside the data by more than 0.5 %."""
        low, high = self.x.span
        return not (low * (1 - EDGE_TOLERANCE) <= x <= high * (1 + EDGE_TOLERANCE))

    def predict(self, x: float) -> Estimate:
        """Mean value at x (Hz for frequencies) with its 95 % interval.

        The interval covers parameters and misfit, and widens outside the data; it leaves out the
        meter's systematic error and the noise of a single reading.

        Raises:
            BadDataError: x is not positive and finite.
        """
        if not (math.isfinite(x) and (x > 0 or self.x.unit != "Hz")):
            raise BadDataError(f"cannot predict at {x:g} {self.x.unit}", remedy="give a positive number")
        at = np.array([x])
        value = float(self.curve.evaluate(at, self.values)[0])
        # A value outside the data is a transfer, whoever asks for it.
        known = self.provenance.how is not How.TRANSFERRED and not self.extrapolated(x)
        how = How.FITTED if known else How.TRANSFERRED
        provenance = self.provenance.joined([], how)
        stderr = float(self.stderr_at(at)[0])
        # No uncertainty is known: a plain value, and no interval that means nothing.
        if self.interval_factor is None or not math.isfinite(stderr):
            return Estimate(value, n=self.n_points, provenance=provenance)
        half = self.interval_factor * stderr
        return Estimate(value, stderr, (max(value - half, 0.0), value + half), self.n_points, provenance)

    def stderr_at(self, x: Array) -> Array:
        """Standard error [n] of the predicted mean at x [n], nan where it is unknown."""
        curve, x = self.curve, np.asarray(x, float)
        if self.covariance is None:
            return np.full(x.shape, math.nan)
        jacobian = curve.jacobian(x, self.values)
        variance = np.einsum("np,pq,nq->n", jacobian, np.array(self.covariance), jacobian)
        # Misfit and reach grow with the distance: outside the data the law itself is in question.
        relative = (self.misfit or 0.0) * (1.0 + self._distance(x))
        reach = self._distance(x) * max(self.loo_mape or 0.0, self.mape)
        value = curve.evaluate(x, self.values)
        total = np.maximum(variance, 0.0) + (value * relative) ** 2 + (value * reach) ** 2
        return np.asarray(np.sqrt(total))

    def predict_draws(self, x: Array) -> Array:
        """Values [200, n] at x [n], one row per parameter draw; misfit and meter are not in them."""
        return self.curve.evaluate(np.atleast_1d(np.asarray(x, float)), self.draws)

    def _distance(self, x: Array) -> Array:
        # How far outside, in units of the covered span: an extrapolation by one span has distance 1.
        low, high = self.x.span
        if math.isinf(low) or math.isinf(high):
            return np.zeros_like(np.asarray(x, float))
        # A sweep of one frequency has no span; a thousandth of it stands in.
        span = max(high - low, 1e-3 * high, 1e-300)
        return np.maximum(np.maximum(low - x, x - high), 0.0) / span

    def document(self) -> Document:
        """JSON-ready form without the draws, which travel as `packed_draws`."""
        plain = {f.name: to_plain(getattr(self, f.name)) for f in fields(self) if f.name != "packed_draws"}
        # What was measured has none of it, and its document stays as it was.
        return {name: value for name, value in plain.items() if name not in _LEARNT or value}

    @classmethod
    def from_document(cls, document: Document, packed_draws: bytes = b"") -> Fit:
        """Inverse of `document`; ValueError names the key that does not fit."""
        fit = replace(from_plain(cls, dict(document)), packed_draws=packed_draws)
        # Vector positions follow the law; a document that was re-sorted on its way must not permute them.
        names = [parameter.name for parameter in fit.curve.parameters]
        if sorted(names) != sorted(fit.parameters):
            raise ValueError(f"Fit.parameters: law {fit.law} has {names}, got {list(fit.parameters)}")
        return replace(fit, parameters={name: fit.parameters[name] for name in names})
