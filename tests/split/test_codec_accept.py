# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""What compression costs in loss."""

from __future__ import annotations

from statistics import median

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from cardlab.calibrate.accuracy import fit_accuracy
from cardlab.core.records.fit import FitSubject
from cardlab.profilers.runtime import resolve_task
from cardlab.split.accuracy import TrainingSubject, TrialOptions, english, kept_of, pretrain, programs, run_trials
from cardlab.split.codec_profile import profile_codecs
from tests.split.models import EXECUTION

CODECS = ("dense:8", "dense:4", "dense:2", "topk:0.3:8", "topk:0.2:8", "topk:0.1:8")


def trained(steps: int):
    task = resolve_task("tiny-llama", batch=8, sequence=64, optimizer="adamw")
    return task, pretrain(task, EXECUTION, english(), steps=steps)


def subject(task, weights) -> TrainingSubject:
    return TrainingSubject(task=task, execution=EXECUTION, weights=weights, tokens=programs())


def test_a_curve_of_accuracy_is_fitted_and_predicts() -> None:
    points = [(r, 1.0 - 0.8 * 2.718281828 ** (-12.0 * r), 0.01) for r in (0.02, 0.05, 0.1, 0.25, 1.0)]
    fit, left_out = fit_accuracy([*points, (0.01, -0.3, 0.1)], FitSubject())
    assert fit.law == "saturating" and fit.quantity == "accuracy" and left_out == ["rate 0.01 with an accuracy of -0.3"]
    assert fit.parameters["rate"].value == pytest.approx(12.0, rel=0.02)
    assert float(fit.predict(0.15)) == pytest.approx(1.0 - 0.8 * 2.718281828 ** (-1.8), abs=0.01)


def test_codecs_are_profiled_on_real_activations() -> None:
    task, weights = trained(3)
    cuts = list(profile_codecs(subject(task, weights), codecs=("dense:4", "topk:0.1:8"), cuts=(1, 3)))
    found = [reading for cut in cuts for reading in cut.codecs]
    assert [(r.cut, r.tensor) for r in found[::2]] == [
        (1, "activation"),
        (1, "gradient"),
        (3, "activation"),
        (3, "gradient"),
    ]
    for r in found:
        assert 0.3 < r.bits < 5.0 and 0.0 < r.error < 1.5 and r.encode > 0 and r.decode > 0
    one, three = ({r.side: r for r in cut.handling} for cut in cuts)
    assert three["device"].size_bytes == 3 * one["device"].size_bytes == three["server"].size_bytes
    assert all(seconds > 0 for side in (*one.values(), *three.values()) for seconds in side.seconds)


@pytest.mark.accept
def test_share_of_the_gain_kept_by_each_codec() -> None:
    torch.set_num_threads(1)
    task, weights = trained(400)
    codecs = [*((codec, False) for codec in CODECS), ("topk:0.1:8", True)]
    kept = kept_of(
        run_trials(subject(task, weights), TrialOptions(cut=2, steps=200, learning_rate=1e-3), codecs, seeds=range(3))
    )
    for k in kept:
        more = " + feedback" if k.feedback else ""
        print(
            f"{k.codec}{more}: {1 - k.rate:.1%} fewer bytes than float32, keeps {k.share:.1%} +- {k.stderr:.1%} of the"
            f" gain ({k.compressed:.1%} through the codec)"
        )
    by_name = {k.codec: k for k in kept if not k.feedback}
    assert by_name["none"].share == 1.0
    assert by_name["dense:4"].share >= 0.95
    assert median(k.seeds for k in kept) == 3
