"""A fit as lines of plain text: equation, points, parameters, correlations, errors, verdict.

The order and the habit of naming what could not be estimated follow lmfit's fit report.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np

from cardlab.core.records.fit import USABLE_ERROR, Fit, ParameterEstimate

CORRELATION = 0.5
MAX_PARAMETERS = 8


def fit_report(fit: Fit) -> tuple[str, ...]:
    """Lines that describe a fit, ready to print."""
    return (
        *_head(fit),
        *_parameters(fit),
        *_correlations(fit),
        *_errors(fit),
        *(f"  warning: {line}" for line in fit.warnings),
        f"  {verdict(fit)}",
    )


def verdict(fit: Fit) -> str:
    """One sentence about what the fit is good for."""
    if fit.loo_mape is None and fit.degrees_of_freedom == 0:
        return "verdict: cannot be judged, there are no points to spare"
    error = fit.error
    basis = "points it was fitted to" if fit.loo_mape is None else "frequencies it has not seen"
    grade = next(word for limit, word in _GRADES if error <= limit)
    return f"verdict: {grade}; off by {100 * error:.2g} % on average at {basis}"


_GRADES = (
    (0.01, "excellent"),
    (0.03, "good"),
    (0.06, "usable"),
    (USABLE_ERROR, "rough"),
    (math.inf, "does not describe this device"),
)


def _head(fit: Fit) -> list[str]:
    about = [fit.segment, fit.phase, fit.rail, fit.power_mode, fit.workload]
    if fit.memory_hz:
        about.append(f"memory {fit.memory_hz / 1e6:.0f} MHz")
    detail = ", ".join(part for part in about if part)
    chosen = "" if fit.selected else "  (not selected)"
    scale, unit = (1e6, "MHz") if fit.x.unit == "Hz" else (1.0, fit.x.unit)
    span = f"{fit.x.span[0] / scale:.6g} to {fit.x.span[1] / scale:.6g} {unit}"
    return [
        f"{fit.device_name}: {fit.quantity}" + (f" ({detail})" if detail else ""),
        f"  law          {fit.law}{chosen}: {fit.curve.equation}",
        f"  points       {fit.n_points}, {span}; {fit.provenance}",
        *(["  intervals    bootstrap by operating point"] if fit.intervals == "bootstrap" else []),
    ]


def _parameters(fit: Fit) -> list[str]:
    items = list(fit.parameters.items())
    width = max(len(name) for name, _ in items)
    lines = [f"  {name:<{width}} {_value(p)}" for name, p in items[:MAX_PARAMETERS]]
    if len(items) > MAX_PARAMETERS:
        lines.append(f"  ... and {len(items) - MAX_PARAMETERS} more")
    return lines


def _value(p: ParameterEstimate) -> str:
    unit = "" if p.unit == "1" else f" {p.unit}"
    if p.stderr is None:
        why = "at bound" if p.at_bound else "uncertainty N/A"
        text = f"{p.value:.6g}{unit} ({why})"
    else:
        percent = f" ({100 * p.stderr / abs(p.value):.2g} %)" if p.value else ""
        text = f"{p.value:.6g} +- {p.stderr:.2g}{unit}{percent}"
    return text if p.ci95 is None else f"{text}, 95 %: {p.ci95[0]:.6g} to {p.ci95[1]:.6g}"


def _correlations(fit: Fit) -> list[str]:
    if fit.covariance is None or len(fit.parameters) > MAX_PARAMETERS:
        return []
    matrix = np.array(fit.covariance)
    spread = np.sqrt(np.diag(matrix))
    found = []
    for (i, a), (j, b) in combinations(enumerate(fit.parameters), 2):
        if spread[i] > 0 and spread[j] > 0:
            found.append((matrix[i, j] / (spread[i] * spread[j]), a, b))
    strong = sorted((c for c in found if abs(c[0]) >= CORRELATION), key=lambda c: -abs(c[0]))
    return [f"  correlation  {a}, {b}: {value:+.3f}" for value, a, b in strong]


def _errors(fit: Fit) -> list[str]:
    parts = [f"in sample {100 * fit.mape:.2g} %"]
    parts.append("held out N/A" if fit.loo_mape is None else f"held out {100 * fit.loo_mape:.2g} %")
    if fit.r2 is not None:
        parts.append(f"R2 {fit.r2:.4f}")
    kinds = {"noise": fit.noise, "misfit": fit.misfit, "meter": fit.meter_systematic}
    known = [f"{name} {'N/A' if value is None else f'{100 * value:.2g} %'}" for name, value in kinds.items()]
    return [f"  errors       {', '.join(parts)}", f"  apart        {', '.join(known)}"]
