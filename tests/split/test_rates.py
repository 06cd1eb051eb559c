# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a run trains with another learning rate or decay than the same options mean to transformers."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

import torch
from transformers import get_scheduler

from cardlab.split.adapters import initial_adapters
from cardlab.split.halves import Half
from cardlab.split.journal import Journal
from cardlab.split.rates import rate_of
from cardlab.split.recipe import recipe_of
from cardlab.split.settings import RunSettings
from cardlab.split.weights import open_weights
from tests.cli.run import command
from tests.split.models import EXECUTION, RATE, Unsplit, batches, largest_difference, small_task

NAMES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


def settings_of(task, schedule: str, warmup: int, steps: int) -> RunSettings:
    return RunSettings(
        run="run",
        task=task,
        rounds=steps // 5,
        epochs=5,
        learning_rate=RATE,
        wire_dtype="float32",
        schedule=schedule,
        warmup_steps=warmup,
        weight_decay=0.1,
    )


@pytest.mark.parametrize(
    ("schedule", "warmup", "optimizer"),
    [("constant", 0, "adamw"), ("constant", 7, "sgd"), ("linear", 7, "adamw"), ("cosine", 0, "adamw")],
)
def test_thirty_steps_equal_the_unsplit_loop_with_transformers_schedule(
    tmp_path: Path, schedule: str, warmup: int, optimizer: str
) -> None:
    task = small_task(tmp_path, optimizer=optimizer)
    settings, steps = settings_of(task, schedule, warmup, 30), 30
    whole, data = Unsplit(task), batches(task)
    kind = torch.optim.AdamW if optimizer == "adamw" else torch.optim.SGD
    whole.optimizer = kind([p for p in whole.model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.1)
    theirs = get_scheduler(NAMES[schedule], whole.optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    expected = []
    for step in range(steps):
        assert rate_of(settings)(step) == theirs.get_last_lr()[0]
        expected.append(whole.step(data.batch(step)))
        theirs.step()
    weights = open_weights(task, 0)
    device, server = (
        Half(
            task,
            EXECUTION,
            weights,
            side,
            recipe_of(settings),
        )
        for side in ("device", "server")
    )
    for half in (device, server):
        half.set_cut(2)
        half.load(initial_adapters(task, 0))
    losses = []
    for step in range(steps):
        device.clock.step = server.clock.step = step
        ids = data.batch(step)
        activation = device.forward(ids)
        result = server.train(activation.detach().clone(), ids)
        device.backward(activation, result.gradient)
        losses.append(result.loss)
    assert losses == expected
    assert largest_difference({**device.export(), **server.export()}, whole.adapters()) == 0.0


def test_a_run_over_the_command_line_keeps_and_says_its_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = ("card", "run", "--local", "--model", "tiny-llama", "--cut", "2", "--seq", "16", "--rounds", "2")
    asked = ("--lr-schedule", "cosine", "--warmup-steps", "1", "--weight-decay", "0.01", "--optimizer", "adamw")
    done = command(*run, *asked, "--out", "a")
    assert done.code == 0, done.err
    assert "rises over 1 step(s) of a device, then falls to 0 by the end (cosine)" in done.err
    assert "weight decay 0.01" in done.err and "without weight decay" not in done.err
    kept = Journal.resume(tmp_path / "a").progress.settings
    assert (kept.schedule, kept.warmup_steps, kept.weight_decay) == ("cosine", 1, 0.01)
    command("card", "run", "--local", "--resume", "--out", "a", "--lr-schedule", "linear").failed_in_one_line(2)
    for words, said in (
        (("--lr-schedule", "polynomial"), "use one of: constant, linear, cosine"),
        (("--warmup-steps", "2"), "a device takes 2 step(s) in the whole run"),
        (("--weight-decay", "-1"), "--weight-decay is -1"),
    ):
        command(*run, *words, "--out", "b").failed_in_one_line(2, said)
    assert not (tmp_path / "b").exists()
