# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a split run trains something else than the model it split, or its adapters are lost on the way."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from cardlab.core.errors import RunError, UsageError
from cardlab.split.adapters import (
    averaged,
    flat,
    initial_adapters,
    pack_adapters,
    unflat,
    unpack_adapters,
)
from cardlab.split.halves import Half
from cardlab.split.peft_files import save_peft
from cardlab.split.recipe import Recipe
from cardlab.split.refusals import FrameError
from cardlab.split.weights import FileWeights, open_weights
from tests.split.models import (
    EXECUTION,
    RATE,
    SMALL,
    Unsplit,
    batches,
    halves,
    largest_difference,
    loaded_by_peft,
    small_task,
)


def split_steps(task, cuts, steps, every=5):
    """Losses and adapters of a split run whose cut moves every few steps; adapters pass through messages."""
    device, server = halves(task)
    data, adapters, losses = batches(task), initial_adapters(task, 0, server.magnitudes), []
    for step in range(steps):
        if step % every == 0:
            cut = cuts[step // every % len(cuts)]
            if step:
                adapters = {**unpack_adapters(pack_adapters(device.export()), task, device.numbers), **server.export()}
            device.set_cut(cut)
            server.set_cut(cut)
            device.load(adapters)
            server.load(adapters)
        device.clock.step = server.clock.step = step
        ids = data.batch(step)
        activation = device.forward(ids)
        result = server.train(activation.detach().clone(), ids)
        device.backward(activation, result.gradient)
        losses.append(result.loss)
    return losses, {**device.export(), **server.export()}


@pytest.mark.parametrize(
    ("family", "optimizer", "cuts"),
    [
        # Of the generic adapter one each: every type's cuts are held to the bit in tests/profilers/runtime.
        *(("gemma3_text", "adamw", (1, 3, 2)), ("qwen3_moe", "sgd", (1, 3, 2))),
        *product(("llama", "gpt2"), ("sgd", "adamw"), ((1,), (2,), (3,), (1, 3, 2))),
    ],
    ids=str,
)
def test_thirty_steps_equal_the_unsplit_run_to_the_last_bit(tmp_path: Path, family, optimizer, cuts) -> None:
    task = small_task(tmp_path, family, optimizer=optimizer)
    losses, adapters = split_steps(task, cuts, 30)
    whole, data = Unsplit(task), batches(task)
    assert [whole.step(data.batch(k)) for k in range(30)] == losses
    assert largest_difference(adapters, whole.adapters()) == 0.0
    assert losses[-1] < losses[0]


def test_moments_of_adamw_travel_with_their_layers(tmp_path: Path) -> None:
    task = small_task(tmp_path, optimizer="adamw")
    _, adapters = split_steps(task, (1, 3), 10)
    back = unpack_adapters(pack_adapters(adapters), task, range(4))
    assert {k for k in flat(back) if k.endswith("#exp_avg")}
    assert all(torch.equal(tensor, flat(adapters)[name]) for name, tensor in flat(back).items())


@pytest.mark.parametrize("family", sorted(SMALL))
def test_peft_loads_the_adapters_without_cardlab(tmp_path: Path, family) -> None:
    task = small_task(tmp_path, family)
    losses, adapters = split_steps(task, (2,), 5)
    folder = save_peft(adapters, task, tmp_path / "out")
    whole = Unsplit(task)
    loaded = loaded_by_peft(whole, folder)
    ids = batches(task).batch(5)
    for k in range(5):
        whole.step(batches(task).batch(k))
    with torch.no_grad():
        theirs = float(loaded(input_ids=ids, labels=ids).loss)
        mine = float(whole.model(input_ids=ids, labels=ids, use_cache=False).loss)
    assert theirs == pytest.approx(mine, abs=1e-6)
    assert len(losses) == 5


def test_weights_of_a_local_folder_are_used_and_known_by_their_fingerprint(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    task = small_task(tmp_path)
    folder = tmp_path / "model"
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(Unsplit(task).model.config)
    model.save_pretrained(str(folder))
    local = small_task(folder)
    weights = open_weights(local, 0)
    assert isinstance(weights, FileWeights)
    device, server = halves(local, weights)
    adapters = initial_adapters(local, 0)
    for half in (device, server):
        half.set_cut(2)
        half.load(adapters)
    ids = batches(local).batch(0)
    with torch.no_grad():
        expected = float(model(input_ids=ids, labels=ids, use_cache=False).loss)
    assert server.train(device.forward(ids).detach(), ids).loss == expected  # B is zero before the first step
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(str(file))
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1e-3
    save_file(tensors, str(file), metadata={"format": "pt"})
    assert open_weights(local, 0).fingerprint != weights.fingerprint


def test_a_side_holds_only_its_layers_and_a_move_of_the_cut_fetches_only_what_comes(tmp_path: Path) -> None:
    task = small_task(tmp_path)
    weights = open_weights(task, 0)
    read = []

    class Watched(type(weights)):  # type: ignore[misc]
        def each(self, group, shapes, dtype):
            read.append(group)
            return super().each(group, shapes, dtype)

    weights.__class__ = Watched
    half = Half(task, EXECUTION, weights, "device", Recipe(learning_rate=RATE))
    half.set_cut(1)
    half.set_cut(3)
    half.set_cut(2)
    assert read == ["embedding", "layer-0", "layer-1", "layer-2"]
    assert [next(layer.parameters()).device.type for layer in half.layers] == ["cpu", "cpu", "meta", "meta"]


@pytest.mark.parametrize("cut", [0, 4, -1, 99])
def test_a_cut_without_layers_on_one_side_is_refused(tmp_path: Path, cut) -> None:
    task = small_task(tmp_path)
    with pytest.raises(UsageError, match="use 1 to 3"):
        halves(task)[0].set_cut(cut)


def test_a_loss_that_is_not_finite_ends_the_step_and_trains_nothing(tmp_path: Path) -> None:
    task = small_task(tmp_path)
    _, server = halves(task)
    server.set_cut(2)
    server.load(initial_adapters(task, 0))
    before = server.export()
    with pytest.raises(RunError, match="not finite"):
        server.train(torch.full((2, 24, 48), float("nan")), batches(task).batch(0))
    assert largest_difference(before, server.export()) == 0.0


def test_adapters_of_the_wrong_layers_shapes_or_values_are_refused(tmp_path: Path) -> None:
    task = small_task(tmp_path)
    good = initial_adapters(task, 0)
    with pytest.raises(FrameError, match="without"):
        unpack_adapters(pack_adapters({0: good[0]}), task, range(2))
    with pytest.raises(FrameError, match="unexpected"):
        unpack_adapters(pack_adapters(good), task, range(2))
    name = next(iter(good[0].parameters))
    good[0].parameters[name] = good[0].parameters[name] * float("nan")
    with pytest.raises(FrameError, match="finite"):
        unpack_adapters(pack_adapters(good), task, range(4))
    good[0].parameters[name] = torch.zeros(3, 3)
    with pytest.raises(FrameError, match="shape"):
        unpack_adapters(pack_adapters(good), task, range(4))


def test_averaging_is_the_mean_of_every_tensor(tmp_path: Path) -> None:
    task = small_task(tmp_path)
    sets = [initial_adapters(task, seed) for seed in (1, 2, 3)]
    mean = flat(averaged(sets))
    for name, tensor in mean.items():
        stacked = torch.stack([flat(s)[name] for s in sets])
        torch.testing.assert_close(tensor, stacked.mean(0))
    assert flat(unflat(mean)).keys() == mean.keys()
