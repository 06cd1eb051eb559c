"""Accuracy against compression as fits like any other: each codec's own figure, and a curve for each family.

Families are never joined: at the same rate Top-K breaks what a dense codec leaves whole. A curve holds only above the
highest rate at which training got worse, and within the rates that were measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cardlab.calibrate.data import prepare
from cardlab.calibrate.fit import fit_record
from cardlab.calibrate.fitter import Options
from cardlab.calibrate.select import try_laws
from cardlab.calibrate.uncertainty import t_factor
from cardlab.core.errors import CalibrationError, TooFewPointsError
from cardlab.core.identity import content_hash, new_uid
from cardlab.core.laws import law_named
from cardlab.core.records.fit import Axis, Fit, FitSubject, ParameterEstimate

LAW, FIGURE = "saturating", "kept"
FEEDBACK = "+feedback"
# Without compression all of the gain is kept; a family needs as many codecs beside it as the law has parameters.
CODECS_NEEDED = 3
# Shares of a gain lie about 0 to 1: a loss of many gains is read off no point.
_MAX_LOSS, _MAX_LIMIT = 10.0, 1.5


def family_of_codec(codec: str) -> str:
    """The family of a codec by its name: "dense" of "dense:4"."""
    return codec.partition(":")[0]


def codec_figure(rate: float, share: float, stderr: float | None, seeds: int, subject: FitSubject) -> Fit:
    """The share of the gain that the codec of `subject` kept, as it was measured, over that many seeds."""
    # One seed says nothing of how far seeds differ.
    known = stderr is not None and seeds > 1
    half = 0.0 if stderr is None or not known else t_factor(seeds - 1) * stderr
    estimate = ParameterEstimate(
        value=share,
        stderr=stderr if known else None,
        ci95=(share - half, share + half) if known else None,
        unit="1",
    )
    identity = {name: getattr(subject, name) for name in FitSubject.__dataclass_fields__}
    return Fit(
        **{**identity, "quantity": "accuracy"},
        fit_id=new_uid(),
        law=FIGURE,
        n_points=seeds,
        x=Axis(name="compression", unit="1", min=rate, max=rate),
        parameters={"share": estimate},
        covariance=None if stderr is None or not known else ((stderr**2,),),
        degrees_of_freedom=seeds - 1,
        interval_factor=t_factor(seeds - 1) if known else None,
        mape=0.0,
        data_hash=content_hash([rate, share, stderr, seeds]),
    )


def fit_accuracy(points: Sequence[tuple[float, float, float | None]], subject: FitSubject) -> tuple[Fit, list[str]]:
    """The curve of one family through (rate, accuracy, standard error) and what was left out, in words.

    A standard error is None where it is unknown: one seed says nothing of how far seeds differ.
    Shares that are not positive (training got worse) have no place on the curve, and neither has what lies at lower
    rates. Raises TooFewPointsError with fewer than four rates, CalibrationError where the points determine no curve.
    """
    broken = max((r for r, a, _ in points if not a > 0.0), default=0.0)
    used = [p for p in points if p[0] > broken]
    left_out = [f"rate {r:.4g} with an accuracy of {a:.3g}" for r, a, _ in points if not r > broken]
    if len({r for r, _, _ in used}) <= CODECS_NEEDED:
        raise TooFewPointsError(
            f"{len(used)} rates are no curve of accuracy", remedy=f"measure {CODECS_NEEDED} codecs of the family"
        )
    errors = [e for _, _, e in used if e is not None]
    data = prepare(
        [r for r, _, _ in used],
        [a for _, a, _ in used],
        y_name="accuracy",
        stderr=[max(e, 1e-3) for e in errors] if len(errors) == len(used) and all(e > 0.0 for e in errors) else None,
    )
    if not law_named("accuracy", LAW).identifiable(data.x):
        raise TooFewPointsError("the rates lie too close for a curve of accuracy", remedy="measure other codecs")
    options = Options(relative=False)
    subject = replace(subject, quantity="accuracy")
    fit = fit_record(data, try_laws("accuracy", data, options, (LAW,))[0], subject, options)
    value = {name: parameter.value for name, parameter in fit.parameters.items()}
    if not (value["loss"] <= _MAX_LOSS and 0.0 < value["limit"] <= _MAX_LIMIT):
        raise CalibrationError(
            f"the points determine no curve: {value['limit']:.3g} - {value['loss']:.3g} exp(-{value['rate']:.3g} rate)",
            remedy="measure codecs that differ more in what they keep",
        )
    return fit, left_out
