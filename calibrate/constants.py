"""The constants users publish, derived from fits: kappa, static power, delta, frequencies, cores.

    kappa, static_power   of static_cubic, P = static_power + kappa f^3, with the range and error it holds to
    kappa_paper           of the pure cubic P = kappa f^3 (CARD), with its error
    delta                 FLOP per core per cycle, flop / (t f cores)

delta is no constant of a card: with t = a + b / f (see cardlab.core.laws.latency)

    delta(f) = flop / (cores (a f + b)),

which falls with the frequency whenever part of the time (a) does not follow it. So it is given per
operating point, segment and phase; `DeltaCurve` carries the law that explains how it falls.
"""

from __future__ import annotations

from collections.abc import Sequence

from cardlab.core.errors import BadDataError
from cardlab.core.quantity import Estimate, How
from cardlab.core.records.constants import Constants, Delta, DeltaCurve
from cardlab.core.records.fit import Fit


def power_constants(
    static_cubic: Fit | None, cubic: Fit, *, cores: int | None = None, delta: Sequence[Delta] = ()
) -> Constants:
    """Constants from the two cubic fits of one sweep (`static_cubic` None if not identifiable).

    A law that the points could not contradict (one frequency, or as many as it has parameters) is no measurement of
    its constants: they are None then.
    """
    if static_cubic is not None and not _tested(static_cubic):
        static_cubic = None
    paper = cubic if _tested(cubic) else None
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
        error=None if static_cubic is None else static_cubic.error,
        kappa_paper_w_per_hz3=None if paper is None else parameter(paper, "kappa"),
        paper_error=None if paper is None else paper.error,
        cores=cores,
        frequency_min_hz=cubic.x.span[0],
        frequency_max_hz=cubic.x.span[1],
        delta=tuple(delta),
    )


def _tested(fit: Fit) -> bool:
    low_hz, high_hz = fit.x.span
    return low_hz != high_hz and fit.degrees_of_freedom > 0


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
    # An interval that reaches zero has no reciprocal.
    if latency.ci95 is not None and latency.ci95[0] > 0:
        ci95 = (top / latency.ci95[1], top / latency.ci95[0])
    return Estimate(value, stderr, ci95, latency.n, latency.provenance.joined([]))


def delta_curve(latency: Fit, flop: float, cores: int) -> DeltaCurve | None:
    """How delta falls with the frequency; None unless the latency follows `inverse` or `affine_inverse`."""
    if "cycles" not in latency.parameters:
        return None
    stall = latency.parameters.get("stall")
    return DeltaCurve(
        flop=flop,
        cores=cores,
        stall_s=0.0 if stall is None else stall.value,
        cycles=latency.parameters["cycles"].value,
    )
