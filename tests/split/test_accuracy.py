# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, minutes of training are lost, or what compression costs is measured on tokens that mean nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytestmark = pytest.mark.torch

from cardlab.db import open_store
from cardlab.split import accuracy as trying
from tests.cli.run import command
from tests.split.models import SMALL
from tests.split.test_texts import model, tokenizer_file

WORDS = ("accuracy", "--steps", "20", "--pretrain", "40", "--seeds", "1", "--seq", "16", "--batch", "4")
DENSE = tuple(word for codec in ("dense:8", "dense:4", "dense:2") for word in ("--codec", codec))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shares(monkeypatch: pytest.MonkeyPatch, kept: dict[str, float], stop_at: str | None = None) -> None:
    """Trials that keep these shares of a gain of one, without training."""
    rates = {"none": 1.0, "dense:8": 0.25, "dense:4": 0.12, "dense:2": 0.06, "topk:0.3:8": 0.08, "topk:0.1:8": 0.03}

    def trial(subject: Any, options: Any, *, codec: str, seed: int, feedback: bool = False) -> trying.Trial:
        if codec == stop_at:
            raise KeyboardInterrupt
        final = 4.0 - (1.0 if codec == "none" else kept[codec])
        rate = rates[codec]
        return trying.Trial(
            codec=codec, feedback=feedback, seed=seed, rate=rate, start=4.0, final=final, final_compressed=final
        )

    monkeypatch.setattr(trying, "run_trial", trial)


def stored() -> dict[str | None, str]:
    with open_store("cardlab.db") as store:
        return {s.fit.codec: s.fit.law for s in store.fits.newest(quantity="accuracy")}


@pytest.mark.parametrize(
    "codecs",
    [("dense:4",), ("dense:4", "topk:0.1:8"), ("dense:4", "dense:4", "dense:4"), ("none", "dense:8", "dense:4")],
)
def test_too_few_codecs_for_a_curve_are_refused_before_anything_is_trained(codecs, monkeypatch) -> None:
    monkeypatch.setattr(trying, "run_trial", lambda *_, **__: pytest.fail("it was trained"))
    words = [word for codec in codecs for word in ("--codec", codec)]
    command("card", *WORDS, *words).failed_in_one_line(2, "give no curve", "dense:8 dense:4 dense:2")


def test_each_family_has_a_curve_or_a_reason_and_each_codec_its_figure(monkeypatch) -> None:
    kept = {"dense:8": 0.99, "dense:4": 0.9, "dense:2": 0.5, "topk:0.3:8": -0.11}
    shares(monkeypatch, kept)
    result = command("card", *WORDS, *DENSE, "--codec", "topk:0.3:8")
    assert result.code == 0, result.err
    assert "dense: gain kept = " in result.out and "left out: no curve for topk" in result.out
    found = dict.fromkeys(kept, "kept")
    assert stored() == {**found, "dense": "saturating"}
    listed = command("calibrate", "show").out
    assert "accuracy topk:0.3:8" in listed and "accuracy dense" in listed


def test_points_that_determine_no_curve_lose_no_figure(monkeypatch) -> None:
    shares(monkeypatch, {"dense:8": 1.001, "dense:4": 1.001, "dense:2": 0.75})
    result = command("card", *WORDS, *DENSE)
    assert result.code == 0, result.err
    assert "determine no curve" in result.out
    assert stored() == {"dense:8": "kept", "dense:4": "kept", "dense:2": "kept"}


def test_what_was_trained_before_a_stop_is_kept(monkeypatch) -> None:
    shares(monkeypatch, {"dense:8": 0.99, "dense:4": 0.9}, stop_at="dense:2")
    assert command("card", *WORDS, *DENSE).code == 130
    assert stored() == {"dense:8": "kept", "dense:4": "kept"}


def test_a_model_folder_is_judged_on_its_own_tokens(tmp_path: Path, monkeypatch) -> None:
    folder = model(tmp_path / "model")
    tokenizer_file(folder)
    (tmp_path / "t.txt").write_text("one two two one " * 200)
    seen: list[Any] = []
    shares(monkeypatch, {"dense:8": 0.99, "dense:4": 0.9, "dense:2": 0.5})
    trial = trying.run_trial

    def watched(subject: Any, *rest: Any, **more: Any) -> trying.Trial:
        seen.append(subject.tokens)
        return trial(subject, *rest, **more)

    monkeypatch.setattr(trying, "run_trial", watched)
    words = (*WORDS[:3], "--pretrain", "2", *WORDS[5:], "--model", "model", "--data", "t.txt", *DENSE)
    result = command("card", *words)
    assert result.code == 0, result.err
    assert set(seen[0].tolist()) == {0, 1} and "tokens: model/tokenizer.json" in result.err
    assert SMALL["llama"]["vocab_size"] == 300


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--data", "none.txt"), "cannot be read"),
        (("--data", "short.txt"), "held back"),
        (("--cut", "9"), "cut 9"),
        (("--learning-rate", "0"), "--learning-rate"),
        (("--tokenizer", "none.json"), "no tokenizer"),
    ],
)
def test_what_cannot_be_tried_is_refused_before_anything_is_trained(tmp_path: Path, words, said, monkeypatch) -> None:
    monkeypatch.setattr(trying, "run_trial", lambda *_, **__: pytest.fail("it was trained"))
    (tmp_path / "short.txt").write_text("too short")
    result = command("card", *WORDS, *words)
    assert result.code in (1, 2) and said in result.err and len(result.err.strip().splitlines()) == 1, result.err
