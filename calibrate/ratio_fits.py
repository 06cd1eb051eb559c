"""What a run taught, as fits: one number each, with its draws, the run it is from and the rounds it rests on.

A ratio multiplies what was measured and never replaces it. It names what it multiplies; a plan of newer profiles, fits
or links has no use for it. Where the run's plan rested on a ratio itself, both are multiplied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from cardlab.calibrate.learning import Array
from cardlab.calibrate.learnt import LearntTerm
from cardlab.core.identity import content_hash, new_uid
from cardlab.core.quantity import Provenance
from cardlab.core.records.fit import RATIO, Axis, Fit, FitSubject, ParameterEstimate

# Draws that a fit keeps.
DRAWS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """What a ratio is about: the run, what it multiplies (uids), and the ratio that its plan had already."""

    run: str
    base: tuple[str, ...]
    provenance: Provenance
    before: Fit | None = None


def ratio_subject(device: str, name: str, task: str | None, term: str) -> FitSubject:
    """The subject of the ratio of a term; of a direction of a link, the device at its end."""
    return FitSubject(device=device, device_name=name, task=task, quantity=RATIO, segment=term)


def ratio_fit(subject: FitSubject, learnt: LearntTerm, draws: Array, taught: Taught) -> Fit:
    """The ratio as a fit; `draws` of it [N]."""
    factor = 1.0 if taught.before is None else float(taught.before.values[0])
    value, low, high = (factor * v for v in (learnt.level.ratio, *learnt.level.ci95))
    stderr = (high - low) / (2.0 * 1.96)
    first, last = learnt.window
    return replace(
        _plain(subject, value, learnt.level.noise),
        n_points=last - first + 1,
        parameters={"ratio": ParameterEstimate(value=value, stderr=stderr, ci95=(low, high), unit="1")},
        covariance=((stderr**2,),),
        degrees_of_freedom=max(last - first, 0),
        interval_factor=1.96,
        provenance=taught.provenance,
        data_hash=content_hash(
            {"run": taught.run, "term": learnt.term, "party": learnt.party, "window": [first, last]}
        ),
        learnt_from=taught.run,
        window=(first, last),
        base=taught.base,
        packed_draws=(factor * draws).astype("<f8").tobytes(),
    )


def _plain(subject: FitSubject, value: float, noise: float) -> Fit:
    return Fit(
        **{name: getattr(subject, name) for name in FitSubject.__dataclass_fields__},
        fit_id=new_uid(),
        law="multiple",
        n_points=1,
        x=Axis(min=None, max=None),
        parameters={"ratio": ParameterEstimate(value=value, stderr=None, ci95=None, unit="1")},
        degrees_of_freedom=0,
        # The mean of a normal deviation.
        mape=noise * math.sqrt(2.0 / math.pi),
        noise=noise,
        runs=1,
        data_hash="",
    )
