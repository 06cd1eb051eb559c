"""Fits as the document of `calibrate fit --json`, and as curves to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cardlab.core.plain import Document, to_plain
from cardlab.core.records.fit import Fit
from cardlab.core.text import subject

# Smooth at the width of a picture; each point costs an evaluation of all draws.
CURVE_POINTS = 80


def fit_document(fit: Fit) -> Document:
    """One fit in plain SI numbers, errors as fractions."""
    return {
        "fit_id": fit.fit_id,
        "device": fit.device_name,
        "device_key": fit.device,
        "task": fit.task,
        "workload": fit.workload,
        "execution": fit.execution,
        "quantity": fit.quantity,
        "segment": fit.segment,
        "phase": fit.phase,
        "rail": fit.rail,
        "power_mode": fit.power_mode,
        "memory_hz": fit.memory_hz,
        "law": fit.law,
        "equation": fit.curve.equation,
        "selected": fit.selected,
        "n_points": fit.n_points,
        "x": to_plain(fit.x),
        "parameters": to_plain(fit.parameters),
        "intervals": fit.intervals,
        "mape": fit.mape,
        "loo_mape": fit.loo_mape,
        "r2": fit.r2,
        "data_hash": fit.data_hash,
        "provenance": fit.provenance.as_plain(),
        "warnings": list(fit.warnings),
    }


def prediction_document(fit: Fit, frequency_hz: float) -> Document:
    """What a fit says at one frequency (keys of `calibrate predict --json`)."""
    estimate = fit.predict(frequency_hz)
    return {
        "fit_id": fit.fit_id,
        "device": fit.device_name,
        "quantity": fit.quantity,
        "segment": fit.segment,
        "phase": fit.phase,
        "rail": fit.rail,
        "power_mode": fit.power_mode,
        "memory_hz": fit.memory_hz,
        "frequency_hz": frequency_hz,
        "value": estimate.value,
        "ci95": None if estimate.ci95 is None else list(estimate.ci95),
        "law": fit.law,
        "unit": fit.unit,
        "extrapolated": fit.extrapolated(frequency_hz),
        "provenance": estimate.provenance.as_plain(),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A measured quantity against frequency with its law, ready to draw.

    Attributes:
        title, y_label: in words; y in `unit`.
        points: (Hz, value, throttled).
        residuals: (Hz, relative difference of a point from the law, throttled).
        law: chosen law as [(Hz, value)]; `band` its 95 % interval as [(Hz, low, high)].
        cubic: the paper's cubic as [(Hz, value)], empty if it was not fitted.
        origins: of the points, in words.
        fit: the fit that draws the law.
    """

    title: str
    y_label: str
    unit: str
    points: tuple[tuple[float, float, bool], ...]
    residuals: tuple[tuple[float, float, bool], ...]
    law_name: str
    law: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float, float], ...]
    cubic: tuple[tuple[float, float], ...]
    origins: str
    fit: Fit


def curve(fits: Sequence[Fit], points: Sequence[tuple[float, float, bool]]) -> Curve | None:
    """The curve of one subject from all its fits; None if its frequency could not be read."""
    chosen = next(f for f in fits if f.selected)
    if chosen.x.min is None or chosen.x.max is None:
        return None
    clocks = np.linspace(chosen.x.min, chosen.x.max, CURVE_POINTS)
    predicted = [chosen.predict(float(f)) for f in clocks]
    # Drawn beside the chosen law for comparison; where it was chosen itself it is the law.
    cubic = next((f for f in fits if f.law == "cubic" and not f.selected), None)
    words = subject(chosen.quantity, segment=chosen.segment, phase=chosen.phase, rail=chosen.rail, codec=chosen.codec)
    return Curve(
        title=f"{chosen.device_name}: {words}",
        y_label="power" if chosen.unit == "W" else "latency",
        unit=chosen.unit,
        points=tuple(points),
        residuals=tuple((f, value / chosen.predict(f).value - 1.0, throttled) for f, value, throttled in points),
        law_name=chosen.law,
        law=tuple((float(f), p.value) for f, p in zip(clocks, predicted, strict=True)),
        band=tuple((float(f), p.ci95[0], p.ci95[1]) for f, p in zip(clocks, predicted, strict=True) if p.ci95),
        cubic=()
        if cubic is None
        else tuple(
            (float(f), float(v)) for f, v in zip(clocks, cubic.curve.evaluate(clocks, cubic.values), strict=True)
        ),
        origins="+".join(sorted(o.value for o in chosen.provenance.origins)),
        fit=chosen,
    )
