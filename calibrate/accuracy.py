"""Accuracy against compression as a fit like any other: the saturating law through measured shares of the gain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cardlab.calibrate.data import prepare
from cardlab.calibrate.fit import compare
from cardlab.calibrate.fitter import Options
from cardlab.core.records.fit import Fit, FitSubject

LAW = "saturating"


def fit_accuracy(points: Sequence[tuple[float, float, float | None]], subject: FitSubject) -> tuple[Fit, list[str]]:
    """The curve through (rate, accuracy, standard error) and what was left out, in words.

    A standard error is None where it is unknown. Shares that are not positive (training got worse) have no place on
    the curve and are named. Raises TooFewPointsError with fewer than four rates.
    """
    used = [p for p in points if p[1] > 0.0]
    left_out = [f"rate {r:.4g} with an accuracy of {a:.3g}" for r, a, _ in points if not a > 0.0]
    # One seed says nothing of how far seeds differ.
    errors = [e for _, _, e in used if e is not None]
    data = prepare(
        [r for r, _, _ in used],
        [a for _, a, _ in used],
        y_name="accuracy",
        stderr=[max(e, 1e-3) for e in errors] if len(errors) == len(used) and all(e > 0.0 for e in errors) else None,
    )
    subject = replace(subject, quantity="accuracy")
    fits = compare(data, subject, options=Options(relative=False)).fits
    chosen = next((fit for fit in fits if fit.law == LAW), fits[0])
    return replace(chosen, selected=True), left_out
