# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, accumulation, clipping or autocast train something else over a cut than in one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

from cardlab.core.records.task import Task
from cardlab.split.adapters import initial_adapters
from cardlab.split.batches import MiniBatch
from cardlab.split.halves import Half
from cardlab.split.recipe import Recipe
from cardlab.split.refusals import NotFiniteError
from cardlab.split.weights import open_weights
from tests.cli.run import command
from tests.split.models import EXECUTION, RATE, Unsplit, batches, largest_difference, small_task
from tests.split.processes import Trial
from tests.split.test_sample_batches import SEQUENCE, collated, data_of

# Above every norm of these runs, in their midst, and below them all.
NORMS = (1e3, 0.3, 1e-3)


@pytest.fixture
def trials() -> Iterator[list[Trial]]:
    started: list[Trial] = []
    yield started
    for trial in started:
        trial.end()


def ready(task: Task, cut: int, recipe: Recipe) -> tuple[Half, Half]:
    weights = open_weights(task, 0)
    device, server = (Half(task, EXECUTION, weights, side, recipe) for side in ("device", "server"))
    for half in (device, server):
        half.set_cut(cut)
        half.load(initial_adapters(task, 0, server.magnitudes))
    return device, server


def shares(window: list[MiniBatch]) -> list[float]:
    """Of each mini-batch's tokens with a loss, as transformers counts them."""
    counts = [int(batch.labels[:, 1:].ne(-100).sum()) for batch in window]
    return [count / sum(counts) for count in counts]


def trained(task: Task, data: Any, recipe: Recipe, steps: int, cut: int = 2) -> tuple[list[float], list[float], Any]:
    """Losses, norms and adapters of that many steps over the cut."""
    device, server = ready(task, cut, recipe)
    losses, norms = [], []
    for step in range(steps):
        numbers = range(step * recipe.accumulate, (step + 1) * recipe.accumulate)
        window = [data.mini_batch(number) for number in numbers]
        for number, batch, share in zip(numbers, window, shares(window), strict=True):
            device.clock.step = server.clock.step = number
            activation = device.forward(batch.ids, batch.rows)
            result = server.train(activation.detach().clone(), batch.labels, batch.rows, share)
            own = device.backward(activation, result.gradient, result.norms)
            losses.append(result.loss)
            if own is not None:
                norms.append(server.finish_step(number, own))
    return losses, norms, {**device.export(), **server.export()}


def unsplit(task: Task, data: Any, recipe: Recipe, steps: int) -> tuple[list[float], list[float], Any]:
    """The same in one process: transformers' loss, torch's clip_grad_norm_."""
    whole = Unsplit(task)
    whole.max_norm = recipe.max_norm
    losses = []
    for step in range(steps):
        window = [data.mini_batch(step * recipe.accumulate + place) for place in range(recipe.accumulate)]
        for place, (batch, share) in enumerate(zip(window, shares(window), strict=True)):
            ends = place == recipe.accumulate - 1
            losses.append(whole.step(batch.ids, batch.labels, share, ends, **collated(batch)))
    return losses, whole.norms, whole.adapters()


@pytest.mark.parametrize(
    ("family", "accumulate", "packing", "max_norm"),
    [
        *(("llama", 3, packing, norm) for packing in (False, True) for norm in (None, *NORMS)),
        ("llama", 1, False, 0.3),
        ("gpt2", 3, True, 0.3),
        ("qwen3_moe", 2, False, 1e-3),
    ],
)
def test_twenty_steps_equal_the_unsplit_loop_to_the_last_bit(
    tmp_path: Path, family: str, accumulate: int, packing: bool, max_norm: float | None
) -> None:
    task = small_task(tmp_path, family, optimizer="adamw", sequence=SEQUENCE, lora_dropout=0.1)
    data = data_of(tmp_path, "completion", packing)
    recipe = Recipe(learning_rate=RATE, accumulate=accumulate, max_norm=max_norm)
    losses, norms, adapters = trained(task, data, recipe, 20)
    expected, whole_norms, whole = unsplit(task, data, recipe, 20)
    assert losses == expected
    assert norms == whole_norms
    assert largest_difference(adapters, whole) == 0.0
    if max_norm is not None:
        assert len(norms) == 20
        assert any(norm > max_norm for norm in norms) == (max_norm < 1e3)


@pytest.mark.parametrize("cut", [1, 3])
def test_the_norm_is_of_the_whole_model_wherever_it_is_cut(tmp_path: Path, cut: int) -> None:
    task = small_task(tmp_path, optimizer="adamw")
    recipe = Recipe(learning_rate=RATE, max_norm=0.05)
    assert trained(task, batches(task), recipe, 5, cut)[:2] == unsplit(task, batches(task), recipe, 5)[:2]


def test_autocast_equals_the_unsplit_autocast(tmp_path: Path) -> None:
    task = small_task(tmp_path, optimizer="adamw")
    losses, _, adapters = trained(task, batches(task), Recipe(learning_rate=RATE, autocast="bfloat16"), 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole = Unsplit(task)
    expected = []
    for step in range(6):
        batch = batches(task).mini_batch(step)
        # Only the forward pass: torch wants the backward pass outside.
        model = whole.model
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=batch.ids, labels=batch.labels, use_cache=False).loss
        loss.backward()
        whole.optimizer.step()
        whole.optimizer.zero_grad()
        expected.append(float(loss.detach()))
    assert losses == expected
    assert largest_difference(adapters, whole.adapters()) == 0.0
    plain, _, _ = trained(task, batches(task), Recipe(learning_rate=RATE), 6)
    assert plain != losses


def test_a_gradient_that_is_not_finite_ends_the_step(tmp_path: Path) -> None:
    task = small_task(tmp_path)
    device, _ = ready(task, 2, Recipe(learning_rate=RATE, max_norm=1.0))
    activation = device.forward(batches(task).batch(0))
    before = device.export()
    with pytest.raises(NotFiniteError):
        device.backward(activation, torch.full_like(activation, float("inf")), (1.0,))
    assert largest_difference(device.export(), before) == 0.0


def replayed(trial: Trial, names: list[str]) -> tuple[dict[tuple[int, str], tuple[float, ...]], Any]:
    """Losses of each round and device in turn, in one process."""
    whole = Unsplit(trial.task)
    whole.max_norm = trial.max_grad_norm
    losses = {}
    for number in range(1, trial.rounds + 1):
        for name in names:
            own = []
            for epoch in range(trial.epochs):
                ids = trial.data()[name].batch((number - 1) * trial.epochs + epoch)
                ends = (epoch + 1) % trial.accumulate == 0
                own.append(whole.step(ids, share=1.0 / trial.accumulate, ends=ends))
            losses[number, name] = tuple(own)
    return losses, whole.adapters()


def run(trial: Trial) -> Any:
    server, *devices = trial.server(), *(trial.device(name) for name in trial.names)
    assert [trial.wait(child) for child in (server, *devices)] == [0] * (len(devices) + 1), trial.log("server")
    return trial.journal()


@pytest.mark.parametrize("count", [1, 3])
def test_clipped_and_accumulated_rounds_in_turn_equal_the_unsplit_loop(tmp_path: Path, trials, count: int) -> None:
    names = list("abc")[:count]
    task = small_task(tmp_path, optimizer="adamw")
    cuts = {name: [1 + place] * 9 for place, name in enumerate(names)}
    trial = Trial(tmp_path, task, cuts, rounds=2, epochs=4, accumulate=2, max_grad_norm=0.1)
    trials.append(trial)
    journal = run(trial)
    losses, adapters = replayed(trial, names)
    assert {(t.round, t.device): t.losses for t in journal.progress.turns} == losses
    assert largest_difference(journal.adapters(), adapters) == 0.0
    assert all(len(turn.gradient_norms) == 2 for turn in journal.progress.turns)


def test_devices_at_once_keep_their_waiting_gradients_apart(tmp_path: Path, trials) -> None:
    task = small_task(tmp_path, optimizer="adamw")
    # A cut of each, so that the server's half is handed over between any two mini-batches.
    trial = Trial(tmp_path, task, {"a": [1], "b": [3]}, rounds=1, epochs=4, parallel=True)
    trial.accumulate, trial.max_grad_norm = 2, 0.1
    trials.append(trial)
    journal = run(trial)
    for name in trial.names:
        whole = Unsplit(task)
        whole.max_norm = 0.1
        own = [
            whole.step(trial.data()[name].batch(epoch), share=0.5, ends=epoch % 2 == 1) for epoch in range(trial.epochs)
        ]
        (turn,) = (t for t in journal.progress.turns if t.device == name)
        assert turn.losses == tuple(own)
        assert turn.gradient_norms == pytest.approx(whole.norms, rel=0.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--accumulate", "2", "--local-epochs", "3"],
            "a round has 3 mini-batch(es) of a device and --accumulate is 2",
        ),
        (["--max-grad-norm", "0"], "--max-grad-norm is 0"),
        (
            ["--max-grad-norm", "1", "--parallel", "--devices", "2", "--server-sharing", "batched"],
            "--max-grad-norm clips the gradient of one device and its server",
        ),
        (["--autocast", "float16"], "--autocast is 'float16'"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_begins(tmp_path: Path, options: list[str], said: str) -> None:
    done = command("card", "run", "--local", "--cut", "1", "--out", str(tmp_path / "out"), *options)
    done.failed_in_one_line(2, said)
    assert not (tmp_path / "out").exists()
