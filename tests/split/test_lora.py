# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a variant of LoRA trains something else when the model is cut, or PEFT cannot read its adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from cardlab.core.errors import ProfileError, RunError, UsageError
from cardlab.core.records.task import Execution
from cardlab.profilers.runtime import analyse, resolve_task
from cardlab.split.adapters import initial_adapters, size_bytes
from cardlab.split.peft_files import load_peft, read_lora, save_peft
from cardlab.workflows.targets import split_pattern
from tests.split.models import SMALL, Unsplit, batches, largest_difference, loaded_by_peft, model_file, small_task
from tests.split.test_halves import split_steps

VARIANTS: dict[str, dict[str, Any]] = {
    "all-linear": {"lora_targets": ["all-linear"]},
    "ranks": {"lora_targets": ["q_proj", "down_proj"], "lora_rank_pattern": {"down_proj": 3, "q_proj": 5}},
    "rslora": {"rslora": True, "lora_alpha": 4.0},
    "dora": {"dora": True, "lora_targets": ["q_proj", "v_proj", "down_proj"]},
    "dropout": {"lora_dropout": 0.3},
    "all of them": {
        "lora_targets": ["all-linear"],
        "lora_rank_pattern": {"up_proj": 2},
        "rslora": True,
        "dora": True,
        "lora_dropout": 0.1,
    },
}


@pytest.mark.parametrize("variant", sorted(VARIANTS))
@pytest.mark.parametrize("cuts", [(1, 3, 2)], ids=str)
def test_a_split_run_equals_the_unsplit_one_to_the_last_bit(
    tmp_path: Path, variant: str, cuts: tuple[int, ...]
) -> None:
    task = small_task(tmp_path, optimizer="adamw", **VARIANTS[variant])
    losses, adapters = split_steps(task, cuts, 12)
    whole, data = Unsplit(task), batches(task)
    assert [whole.step(data.batch(k)) for k in range(12)] == losses
    assert largest_difference(adapters, whole.adapters()) == 0.0


def test_each_variant_trains_something_of_its_own(tmp_path: Path) -> None:
    """A switch that PEFT never got would leave the losses of plain LoRA."""
    seen = {name: tuple(split_steps(small_task(tmp_path, **v), (2,), 6)[0]) for name, v in VARIANTS.items()}
    seen["plain"] = tuple(split_steps(small_task(tmp_path), (2,), 6)[0])
    assert len(set(seen.values())) == len(seen)


def test_dropout_is_another_at_each_step_and_with_each_seed_and_none_outside_training(tmp_path: Path) -> None:
    from cardlab.split.halves import Half
    from cardlab.split.recipe import Recipe
    from cardlab.split.weights import open_weights

    task = small_task(tmp_path, lora_dropout=0.5)
    ids = batches(task).batch(0)
    adapters = initial_adapters(task, 0)
    for state in adapters.values():
        for tensor in state.parameters.values():
            tensor.add_(0.1)

    def sent(seed: int, step: int | None) -> Any:
        half = Half(
            task, Execution(dtype="float32"), open_weights(task, 0), "device", Recipe(learning_rate=0.1, seed=seed)
        )
        half.set_cut(2)
        half.load(adapters)
        half.clock.step = step
        return half.forward(ids).detach()

    one = sent(0, 0)
    assert torch.equal(one, sent(0, 0))
    assert not torch.equal(one, sent(0, 1)) and not torch.equal(one, sent(1, 0))
    assert torch.equal(sent(0, None), sent(1, None)) and not torch.equal(one, sent(0, None))


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_peft_loads_what_was_trained(tmp_path: Path, variant: str) -> None:
    task = small_task(tmp_path, **{**VARIANTS[variant], "lora_dropout": 0.0})
    _, adapters = split_steps(task, (2,), 4)
    folder = save_peft(adapters, task, tmp_path / "out")
    whole = Unsplit(task)
    loaded = loaded_by_peft(whole, folder)
    data = batches(task)
    for k in range(4):
        whole.step(data.batch(k))
    ids = data.batch(4)
    with torch.no_grad():
        mine = float(whole.model(input_ids=ids, labels=ids, use_cache=False).loss)
        assert float(loaded(input_ids=ids, labels=ids).loss) == pytest.approx(mine, abs=1e-6)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_bytes_and_flops_of_adapters_are_those_of_the_variant(tmp_path: Path, variant: str) -> None:
    task = small_task(tmp_path, **VARIANTS[variant])
    analysis = analyse(task, Execution(dtype="float32"))
    assert analysis.flop_disagreements == ()
    assert analysis.cuts[0].adapter_bytes * 4 == size_bytes(initial_adapters(task, 0))
    assert ("formula" in analysis.segment("layer").flop_by_method) == (not task.lora.dora)


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"lora_rank_pattern": {"down_proj": 2}}, UsageError, "'down_proj', which has no adapters"),
        ({"lora_rank_pattern": {"q_proj": 0}}, UsageError, "rank of q_proj 0"),
        ({"lora_rank_pattern": {"q_proj": 2, "self_attn.q_proj": 3}}, UsageError, "as q_proj and as self_attn.q_proj"),
        ({"lora_dropout": 1.0}, UsageError, "dropout 1"),
        ({"lora_dropout": float("nan")}, UsageError, "dropout nan"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, options: dict[str, Any], error: type[ProfileError], word: str) -> None:
    with pytest.raises(error, match=word):
        small_task(tmp_path, **options)


@pytest.mark.parametrize("text", ["q_proj", "q_proj=x", "=3", "", "q_proj=2,q_proj=3", "q_proj=-1"])
def test_a_pattern_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--lora-rank-pattern"):
        split_pattern(text)


@pytest.mark.parametrize("whole", [True, False])
def test_modules_that_peft_names_layer_by_layer_are_found(tmp_path: Path, whole: bool) -> None:
    """As it does for "all-linear" in models of few layers; some layers only are refused by what is missing."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {k: v for k, v in SMALL["llama"].items() if k != "model_type"} | {"num_hidden_layers": 2}
    names: Any = "all-linear" if whole else ["model.layers.0.mlp.up_proj"]
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(**sizes)), LoraConfig(r=4, target_modules=names))
    model.save_pretrained(str(tmp_path / "peft"))
    lora = read_lora(tmp_path / "peft")
    assert not any("layers" in target for target in lora.targets)
    shape: dict[str, Any] = {"lora_rank": 4, "lora_alpha": lora.alpha, "lora_targets": list(lora.targets)}
    task = resolve_task(model_file(tmp_path, num_hidden_layers=2), sequence=24, **shape)
    if whole:
        assert len(load_peft(tmp_path / "peft", task)[1].parameters) == 14
    else:
        with pytest.raises(RunError, match=r"lack mlp.up_proj.lora_A.weight of layer 2"):
            load_peft(tmp_path / "peft", task)


def test_adapters_of_peft_are_taken_as_they_are(tmp_path: Path) -> None:
    """Written by PEFT itself, so that its names and its dtype are those that people bring."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    task = small_task(tmp_path, lora_rank=4, lora_targets=["q_proj", "down_proj"], rslora=True, dora=True)
    sizes = {k: v for k, v in SMALL["llama"].items() if k != "model_type"}
    config = LoraConfig(r=4, lora_alpha=16.0, target_modules=["q_proj", "down_proj"], use_rslora=True, use_dora=True)
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(**sizes)), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(str(tmp_path / "peft"))
    found = load_peft(tmp_path / "peft", task)
    named = dict(model.named_parameters())
    for layer, state in found.items():
        for name, tensor in state.parameters.items():
            assert torch.equal(tensor, named[f"base_model.model.model.layers.{layer}.{name}"])
    back = load_peft(save_peft(found, task, tmp_path / "back"), task)
    assert largest_difference(back, found) == 0.0


def test_adapters_that_do_not_fit_are_refused_by_what_is_wrong(tmp_path: Path) -> None:
    task = small_task(tmp_path)
    folder = save_peft(initial_adapters(task, 0), task, tmp_path / "a")
    for other, word in (
        (small_task(tmp_path, lora_rank=4), "rank 8, the run 4"),
        (small_task(tmp_path, lora_targets=["q_proj"]), "targets"),
    ):
        with pytest.raises(RunError, match=word):
            load_peft(folder, other)
    with pytest.raises(RunError, match="cannot read"):
        load_peft(tmp_path / "nothing", task)
    config = json.loads((folder / "adapter_config.json").read_text())
    for key, value, word in (
        ("peft_type", "IA3", "no configuration of LoRA"),
        ("modules_to_save", ["lm_head"], "'modules_to_save'"),
        ("target_modules", ".*q_proj", "no configuration of LoRA"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(RunError, match=word):
            load_peft(folder, task)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(RunError, match="may run code"):
        load_peft(folder, task)
