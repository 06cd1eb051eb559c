"""Power and time against the frequency, and energy with its best frequency, as charts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cardlab.core.records.constants import Optimum
from cardlab.core.records.fit import Fit
from cardlab.core.text import percent, si, subject
from cardlab.reports.views.fit import CURVE_POINTS, Curve
from cardlab.reports.views.inputs import DeltaLaw
from cardlab.reports.views.parts import CLOCK, Axis, Chart, Mark, Series, file_key

# 0.2 %: without a least height the axis would blow up rounding to look like scatter.
LEAST_RESIDUAL = 0.002
_SHOWN = {"W": "W", "s": "ms", "1": "1"}


def delta_chart(delta: DeltaLaw) -> Chart:
    """Delta against the frequency: the law that its latency gives, with the points as measured."""
    fit, law = delta.fit, delta.law
    words = subject("delta", segment=fit.segment, phase=fit.phase)
    title = f"{fit.device_name}: {words}"
    low_hz, high_hz = fit.x.span
    clocks = tuple(float(f) for f in np.linspace(low_hz, high_hz, CURVE_POINTS))
    lost = f", {si(law.stall_s, 's')} a lap at any frequency" if law.stall_s > 0 else ""
    return Chart(
        key=file_key(title.replace(": ", "-").replace(" ", "-")),
        title=title,
        note=(
            f"delta = flop / (t f cores), flop {law.flop:.4g}, {law.cores} cores, t by the law {fit.law} of the latency"
            f" ({law.cycles:.4g} cycles{lost}); {law.limit:.4g} if no time were lost to anything but cycles."
            f" {fit.provenance}."
        ),
        x=CLOCK,
        y=Axis(label="FLOP per core per cycle", unit="1", shown="1", zero=True),
        series=(
            Series(name=f"law of {fit.law}", style="line", colour=0, x=clocks, y=tuple(law.at(f) for f in clocks)),
            _pairs("as measured", "points", 0, delta.points),
        ),
    )


def curve_charts(curve: Curve, best: Sequence[Optimum] = ()) -> tuple[Chart, Chart]:
    """A quantity against the frequency, and below it how far the points lie from the law."""
    key = file_key(curve.title.replace(": ", "-").replace(" ", "-"))
    return _main(curve, best, key), _residuals(curve, key)


def _main(curve: Curve, best: Sequence[Optimum], key: str) -> Chart:
    kept = [(f, v) for f, v, throttled in curve.points if not throttled]
    throttled = [(f, v) for f, v, t in curve.points if t]
    clocks = tuple(f for f, _, _ in curve.band)
    series = [
        Series(
            name="95 % interval of the law",
            style="band",
            colour=0,
            x=clocks,
            y=tuple(low for _, low, _ in curve.band),
            upper=tuple(high for _, _, high in curve.band),
        ),
        _pairs("the paper's cubic", "dashed", 1, curve.cubic),
        _pairs(f"law {curve.law_name}", "line", 0, curve.law),
        _pairs(curve.origins, "points", 0, kept),
        _pairs(f"{curve.origins}, throttled: not fitted", "hollow", 1, throttled),
    ]
    return Chart(
        key=key,
        title=curve.title,
        note=_note(curve),
        x=CLOCK,
        y=Axis(label=curve.y_label, unit=curve.unit, shown=_SHOWN[curve.unit], zero=True),
        series=tuple(s for s in series if s.x),
        marks=tuple(best_mark(b) for b in best if same_power(b, curve.fit)),
    )


def _note(curve: Curve) -> str:
    fit = curve.fit
    # The error of points that the fit did not see is the honest one; few frequencies give none.
    basis = "held out" if fit.loo_mape is not None else "in sample"
    error = fit.mape if fit.loo_mape is None else fit.loo_mape
    return (
        f"Points {curve.origins}; {curve.law_name} ({fit.curve.equation}) fitted to {fit.n_points} points,"
        f" error {percent(error, 2)} {basis}."
    )


def _residuals(curve: Curve, key: str) -> Chart:
    shown = [(f, r) for f, r, throttled in curve.residuals if not throttled]
    # Drawn over the frequencies of the chart above, so that the two line up.
    clocks = [f for f, _, _ in curve.points] + [f for f, _ in curve.law]
    ends = (min(clocks), max(clocks))
    return Chart(
        key=f"{key}-residuals",
        title=f"{curve.title}: difference from the law",
        note="Of each point that was fitted; derived.",
        x=CLOCK,
        y=Axis(label="off", unit="1", shown="%", least=LEAST_RESIDUAL),
        series=(_pairs("law", "line", 0, [(f, 0.0) for f in ends]), _pairs("point", "points", 0, shown)),
        low=True,
    )


def prediction_chart(fit: Fit, frequency_hz: float) -> Chart:
    """A law over the frequencies it was fitted to and out to one frequency, with the prediction there."""
    low, high = (min(fit.x.span[0], frequency_hz), max(fit.x.span[1], frequency_hz))
    clocks = [float(f) for f in np.linspace(low, high, CURVE_POINTS)]
    predicted = [fit.predict(f) for f in clocks]
    bands = [(f, *p.ci95) for f, p in zip(clocks, predicted, strict=True) if p.ci95 is not None]
    words = subject(fit.quantity, segment=fit.segment, phase=fit.phase, rail=fit.rail, codec=fit.codec)
    there = "extrapolated" if fit.extrapolated(frequency_hz) else "predicted"
    series = [
        Series(
            name="95 % interval of the law",
            style="band",
            colour=0,
            x=tuple(f for f, *_ in bands),
            y=tuple(b[1] for b in bands),
            upper=tuple(b[2] for b in bands),
        ),
        _pairs(f"law {fit.law}", "line", 0, [(f, p.value) for f, p in zip(clocks, predicted, strict=True)]),
        _pairs(there, "squares", 1, [(frequency_hz, fit.predict(frequency_hz).value)]),
    ]
    return Chart(
        key=file_key(fit.device_name, words.replace(" ", "-")),
        title=f"{fit.device_name}: {words} at {si(frequency_hz, 'Hz')}",
        note=f"{fit.law} ({fit.curve.equation}); {fit.provenance}.",
        x=CLOCK,
        y=Axis(label=subject(fit.quantity), unit=fit.unit, shown=_SHOWN[fit.unit], zero=True),
        series=tuple(s for s in series if s.x),
    )


def best_mark(best: Optimum) -> Mark:
    """The frequency of least energy on a frequency axis."""
    return Mark(
        label=f"frequency of least energy, {best.work}",
        x=best.optimum.frequency_hz,
        ci95=best.optimum.frequency_ci95_hz,
    )


def same_power(best: Optimum, fit: Fit) -> bool:
    """Whether a fit is the power that a best frequency was found with."""
    keys = ("task", "workload", "rail", "power_mode", "memory_hz")
    return fit.quantity == "power" and all(getattr(best, key) == getattr(fit, key) for key in keys)


def energy_chart(device_name: str, best: Optimum) -> Chart:
    """Energy of the work against the frequency."""
    found = best.optimum
    return Chart(
        key=file_key(device_name, "energy", best.work.replace(" ", "-"), best.rail, best.power_mode),
        title=f"{device_name}: energy of {best.work}" + (f", rail {best.rail}" if best.rail else ""),
        note=(
            f"Power ({best.law}) times time, {found.energy_j.provenance}; least {si(found.energy_j.value, 'J')} at"
            f" {si(found.frequency_hz, 'Hz')}, {percent(found.saving)} less than at the highest frequency."
        ),
        x=CLOCK,
        y=Axis(label="energy", unit="J", shown="J", zero=True),
        series=(_pairs("power law times time law", "line", 2, found.curve),),
        marks=(best_mark(best),),
    )


def powers_chart(curves: Sequence[Curve], key: str) -> Chart:
    """The whole-step power of several devices in one chart, each in its own colour."""
    series = []
    for i, curve in enumerate(curves):
        name = f"{curve.fit.device_name} ({curve.origins}, law {curve.law_name})"
        series.append(_pairs(name, "line", i, curve.law))
        measured = [(f, v) for f, v, throttled in curve.points if not throttled]
        series.append(_pairs(f"{curve.fit.device_name}: points", "points", i, measured))
    return Chart(
        key=key,
        title="power against frequency",
        note="One training step under load; laws as fitted, points as measured, imported or simulated.",
        x=CLOCK,
        y=Axis(label="power", unit="W", shown="W", zero=True),
        series=tuple(series),
    )


def _pairs(name: str, style: str, colour: int, pairs: Sequence[tuple[float, float]]) -> Series:
    return Series(name=name, style=style, colour=colour, x=tuple(x for x, _ in pairs), y=tuple(y for _, y in pairs))
