# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, adapters are handed on without what they were trained on, or with numbers that are not the run's."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from dataclasses import replace

from cardlab.split.journal import Journal
from cardlab.split.model_card import model_card
from tests.cli.run import command


def test_adapters_say_what_they_were_trained_on_and_what_it_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = ("card", "run", "--local", "--model", "tiny-llama", "--cut", "2", "--seq", "16", "--rounds", "2")
    done = command(*run, "--devices", "2", "--lr-schedule", "linear", "--out", "run")
    assert done.code == 0, done.err
    card = (tmp_path / "run" / "adapters" / "README.md").read_text("utf-8")
    progress = Journal.resume(tmp_path / "run").progress
    assert card.startswith('---\nbase_model: "tiny-llama"\nlibrary_name: "peft"\n')
    assert "made from seed 0 (no trained weights)" in card and "falls to 0 by the end (linear)" in card
    for name in ("device-1", "device-2"):
        own, rows = [turn for turn in progress.turns if turn.device == name], progress.inputs[name].rows
        [line] = [line for line in card.splitlines() if line.startswith(f"| {name} |")]
        assert f"{own[0].loss:.4f} | {own[-1].loss:.4f}" in line and progress.inputs[name].data[:12] in line
        assert f"| {rows} | 0 | 1 | {progress.inputs[name].dtype} | dense | 2 |" in line and rows > 1
    # No meter here, and so no joules; with one of two rounds measured the sum is not known either.
    assert "Server energy: N/A" in card and "devices' energy, together: N/A" in card
    measured = tuple(replace(turn, energy_j=2.0) for turn in progress.turns)
    assert "Server energy: 8 J" in model_card(replace(progress, turns=measured), "x")
    assert "Server energy: N/A" in model_card(replace(progress, turns=(*measured[1:], progress.turns[0])), "x")
    assert "(unfinished: 1 of 2 rounds)" in model_card(replace(progress, done=False, closed=1), "x")
