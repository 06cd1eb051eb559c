"""The constants users publish, derived from fits: kappa, static power, delta, clocks, cores.

    kappa, static_power   of static_cubic, P = static_power + kappa f^3, with the range and error it holds to
    kappa_paper           of the pure cubic P = kappa f^3 (CARD), with its error
    delta                 FLOP per core per cycle, flop / (t f cores)

delta is no constant of a card: with t = a + b / f (see cardlab.core.laws.latency)

    delta(f) = flop / (cores (a f + b)),

which falls with the clock whenever part of the time (a) does not follow it. So it is given per
operating point, segment and phase; `DeltaCurve` carries the law that explains how it falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cardlab.core.errors import BadDataError
from cardlab.core.quantity import Estimate, How
from cardlab.core.records.fit import Fit


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """FLOP per core per cycle at one operating point, of one segment and phase."""

    segment: str | None
    phase: str | None
    dtype: str | None
    frequency_hz: float
    memory_hz: float | None
    delta: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaCurve:
    """delta(f) = flop / (cores (stall f + cycles)), from an affine latency.

    Attributes:
        limit: delta at a vanishing clock, where only cycles count.
        stall_s, cycles: of the latency.
    """

    flop: float
    cores: int
    stall_s: float
    cycles: float

    @property
    def limit(self) -> float:
        """FLOP per core per cycle if no time were lost to anything but cycles."""
        return self.flop / (self.cores * self.cycles)

    def at(self, frequency_hz: float) -> float:
        """FLOP per core per cycle at a clock."""
        return self.flop / (self.cores * (self.stall_s * frequency_hz + self.cycles))


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """Published constants of one device, task, rail and power mode; None was not measured.

    Attributes:
        kappa_w_per_hz3, static_power_w: of static_cubic; `error` is its held-out (else in-sample)
            mean relative error over [frequency_min_hz, frequency_max_hz].
        kappa_paper_w_per_hz3: of the pure cubic; `paper_error` likewise.
        cores: arithmetic cores.
        delta: per operating point, segment and phase.
    """

    device: str
    device_name: str
    task: str | None
    workload: str | None
    execution: str | None
    rail: str | None
    power_mode: str | None
    memory_hz: float | None
    kappa_w_per_hz3: Estimate | None
    static_power_w: Estimate | None
    error: float | None
    kappa_paper_w_per_hz3: Estimate | None
    paper_error: float | None
    cores: int | None
    frequency_min_hz: float
    frequency_max_hz: float
    delta: tuple[Delta, ...] = ()


def power_constants(
    static_cubic: Fit | None, cubic: Fit, *, cores: int | None = None, delta: Sequence[Delta] = ()
) -> Constants:
    """Constants from the two cubic fits of one sweep (`static_cubic` None if not identifiable)."""
    return Constants(
        device=cubic.device,
        device_name=cubic.device_name,
        task=cubic.task,
        workload=cubic.workload,
        execution=cubic.execution,
        rail=cubic.rail,
        power_mode=cubic.power_mode,
        memory_hz=cubic.memory_hz,
        kappa_w_per_hz3=None if static_cubic is None else parameter(static_cubic, "kappa"),
        static_power_w=None if static_cubic is None else parameter(static_cubic, "static_power"),
        error=None if static_cubic is None else _error(static_cubic),
        kappa_paper_w_per_hz3=parameter(cubic, "kappa"),
        paper_error=_error(cubic),
        cores=cores,
        frequency_min_hz=cubic.x.span[0],
        frequency_max_hz=cubic.x.span[1],
        delta=tuple(delta),
    )


def parameter(fit: Fit, name: str) -> Estimate:
    """A fitted parameter as an Estimate, how = fitted; KeyError if the law has none of that name."""
    p = fit.parameters[name]
    return Estimate(p.value, p.stderr, p.ci95, fit.n_points, fit.provenance.joined([], How.FITTED))


def delta_from_latency(latency: Estimate, flop: float, frequency_hz: float, cores: int) -> Estimate:
    """FLOP per core per cycle, flop / (latency frequency cores), with the latency's relative error.

    Raises:
        BadDataError: one of the factors is not positive.
    """
    factors = {"latency": latency.value, "flop": flop, "frequency": frequency_hz, "cores": cores}
    for name, factor in factors.items():
        if not factor > 0:
            raise BadDataError(f"{name} is {factor:g}", remedy="delta needs positive factors")
    top = flop / (frequency_hz * cores)
    value = top / latency.value
    stderr = None if latency.stderr is None else value * latency.stderr / latency.value
    ci95 = None
    if latency.ci95 is not None and latency.ci95[0] > 0:
        ci95 = (top / latency.ci95[1], top / latency.ci95[0])
    return Estimate(value, stderr, ci95, latency.n, latency.provenance.joined([]))


def delta_curve(latency: Fit, flop: float, cores: int) -> DeltaCurve | None:
    """How delta falls with the clock; None unless the latency follows `inverse` or `affine_inverse`."""
    if "cycles" not in latency.parameters:
        return None
    stall = latency.parameters.get("stall")
    return DeltaCurve(
        flop=flop,
        cores=cores,
        stall_s=0.0 if stall is None else stall.value,
        cycles=latency.parameters["cycles"].value,
    )


def _error(fit: Fit) -> float:
    return fit.mape if fit.loo_mape is None else fit.loo_mape
