# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a mixture of experts from the Hub cannot be trained, or is trained with experts left out, swapped or
put together otherwise than transformers does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("transformers.conversion_mapping", reason="this transformers has no rules for loading experts")
pytestmark = pytest.mark.torch

import transformers
from safetensors.torch import load_file, save_file

from cardlab.core.errors import CardlabError, ProfileError
from cardlab.core.records.task import Execution
from cardlab.profilers.runtime import resolve_task, selftest
from cardlab.profilers.runtime.configs import load_config
from cardlab.profilers.runtime.families import attention_of, family_of
from cardlab.profilers.runtime.families.generic import types_with_a_plan
from cardlab.split.adapters import initial_adapters
from cardlab.split.halves import Half
from cardlab.split.recipe import Recipe
from cardlab.split.weights import open_weights
from tests.cli.run import command
from tests.profilers.runtime.plans import need_plan

EXPERTS = "model.layers.0.mlp.experts"
LEAST_READ = 70
Tensors = dict[str, Any]


def small_folder(folder: Path, model_type: str, **options: Any) -> Path:
    """A small model of a type as transformers saves it, all its weights random."""
    family = family_of(model_type)
    architecture = family.architecture({"model_type": model_type, **selftest._LEFT_OUT.get(model_type, {})})
    config = family.transformers_config(selftest.shrunk(architecture))
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor), alpha=0.05)
    model.save_pretrained(str(folder), **options)
    return folder


def stored(folder: Path) -> Tensors:
    return dict(load_file(str(folder / "model.safetensors")))


def store(folder: Path, tensors: Tensors) -> None:
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})


def losses(folder: Path) -> tuple[float, float]:
    """Of one mini-batch: of a split step at a cut, and of transformers' own model of that folder."""
    config = load_config(str(folder))
    family = family_of(config["model_type"])
    targets = family.available_targets(family.architecture(config))
    task = resolve_task(str(folder), batch=2, sequence=16, lora_targets=targets)
    attention = attention_of(task.architecture)
    execution = Execution(dtype="float32", attention=attention, torch="x")
    weights = open_weights(task, 0)
    device, server = (Half(task, execution, weights, side, Recipe(learning_rate=0.1)) for side in ("device", "server"))
    for half in (device, server):
        half.set_cut(task.architecture.layers // 2)
        half.load(initial_adapters(task, 0))
    ids = torch.arange(32).reshape(2, 16)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32, attn_implementation=attention
    )
    # With gradients, as a step: without, sdpa may take another kernel.
    expected = float(model.train()(input_ids=ids, labels=ids, use_cache=False).loss.detach())
    return server.train(device.forward(ids).detach(), ids).loss, expected


ONE_BY_ONE = {
    "qwen3_moe": "model.layers.0.mlp.experts.3.gate_proj.weight",
    "mixtral": "model.layers.0.block_sparse_moe.experts.3.w1.weight",
    "deepseek_v3": "model.layers.3.mlp.experts.3.down_proj.weight",
    "ernie4_5_moe": "model.layers.1.mlp.moe_statics.e_score_correction_bias",
    "olmo_hybrid": "model.layers.0.linear_attn.k_conv1d.weight",
    "gpt_oss": "model.layers.0.mlp.experts.gate_up_proj",
}


@pytest.mark.parametrize("model_type", sorted(ONE_BY_ONE))
def test_a_split_step_on_a_stored_mixture_of_experts_has_transformers_own_loss(model_type: str, tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "model", model_type)
    assert ONE_BY_ONE[model_type] in stored(folder)
    split, whole = losses(folder)
    assert split == whole


@pytest.mark.accept
def test_every_type_is_read_as_transformers_saved_it_or_refused_by_the_operation(tmp_path: Path) -> None:
    """Of those that can be cut, and whose config.json is taken as `save_pretrained` writes it."""
    read: list[str] = []
    refused: dict[str, str] = {}
    for model_type in types_with_a_plan():
        try:
            selftest.try_type(model_type)
            folder = small_folder(tmp_path / model_type, model_type)
            family_of(model_type).architecture(load_config(str(folder)))
        except CardlabError:
            continue
        try:
            split, whole = losses(folder)
        except ProfileError as error:
            refused[model_type] = error.message
            continue
        assert split == whole, model_type
        read.append(model_type)
    print(f"{len(read)} types read, refused: {refused}")
    assert len(read) >= LEAST_READ
    assert all("is not done here" in said for said in refused.values())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_folder(tmp_path_factory.mktemp("models") / "qwen3_moe", "qwen3_moe")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: t for n, t in tensors.items() if name not in n}


def copied(name: str, to: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, to: tensors[name].clone()}


def reshaped(name: str, *shape: int) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, **{n: torch.zeros(shape) for n in tensors if n.endswith(name)}}


ONE = f"{EXPERTS}.3.gate_proj.weight"
FEW = f"{EXPERTS}.1.down_proj.weight"
DAMAGED: dict[str, tuple[Callable[[Tensors], Tensors], list[str]]] = {
    "one map missing": (without(ONE), [f"lacks {ONE}"]),
    "one expert missing": (without(f"{EXPERTS}.3."), ["lacks", ONE, f"{EXPERTS}.3.up_proj.weight"]),
    "a first expert missing": (without(f"{EXPERTS}.0."), ["lacks", f"{EXPERTS}.0.down_proj.weight"]),
    "all maps of one kind missing": (without(".up_proj"), [f"lacks {EXPERTS}.0.up_proj.weight", "and 13 more"]),
    "all experts missing": (without(f"{EXPERTS}."), ["lacks", f"{EXPERTS}.down_proj", f"{EXPERTS}.gate_up_proj"]),
    "one expert too many": (copied(ONE, f"{EXPERTS}.4.gate_proj.weight"), [f"{EXPERTS}.4.gate_proj.weight", "not use"]),
    "an expert twice": (copied(ONE, f"{EXPERTS}.03.gate_proj.weight"), [ONE, f"{EXPERTS}.03.gate_proj.weight", "both"]),
    "one of another shape": (reshaped(FEW, 64, 31), [FEW, "(64, 31)", f"{EXPERTS}.down_proj", "(4, 64, 32)"]),
    "one of another height": (reshaped(ONE, 31, 64), [ONE, "(31, 64)", f"{EXPERTS}.gate_up_proj", "(4, 64, 64)"]),
    "one turned over": (reshaped(FEW, 32, 64), [FEW, "(32, 64)"]),
    "one of another rank": (reshaped(FEW, 2048), [FEW, "(2048,)"]),
    "all of another height": (
        reshaped("gate_proj.weight", 16, 64),
        ["(16, 64)", f"{EXPERTS}.gate_up_proj", "do not make"],
    ),
    "whole and in parts": (
        lambda t: {**t, f"{EXPERTS}.down_proj": torch.zeros(4, 64, 32)},
        [f"{EXPERTS}.down_proj", "whole and in parts"],
    ),
    "something else in an expert": (copied(ONE, f"{EXPERTS}.3.scale"), [f"{EXPERTS}.3.scale", "not use"]),
    "an expert without a number": (copied(ONE, f"{EXPERTS}.x.gate_proj.weight"), [f"{EXPERTS}.x.gate_proj", "not use"]),
}


@pytest.mark.parametrize("damage", sorted(DAMAGED))
def test_an_expert_that_is_missing_too_many_or_of_another_shape_is_named(damage: str, folder: Path) -> None:
    spoil, words = DAMAGED[damage]
    store(folder, spoil(stored(folder)))
    with pytest.raises(CardlabError) as caught:
        open_weights(resolve_task(str(folder), sequence=16), 0)
    said = str(caught.value)
    assert "\n" not in said and all(word in said for word in words), said


def test_another_number_of_experts_is_named(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_experts": 3, "num_local_experts": 3}))
    with pytest.raises(CardlabError, match=r"experts\.3\..*does not use"):
        open_weights(resolve_task(str(folder), sequence=16), 0)


def test_experts_that_changed_places_or_values_are_another_model(folder: Path) -> None:
    def fingerprint() -> str:
        return open_weights(resolve_task(str(folder), sequence=16), 0).fingerprint

    plain, tensors = fingerprint(), stored(folder)
    other = f"{EXPERTS}.2.gate_proj.weight"
    store(folder, {**tensors, ONE: tensors[other], other: tensors[ONE]})
    assert fingerprint() != plain
    store(folder, {**tensors, FEW: tensors[FEW] + 1e-3})
    assert fingerprint() != plain
    store(folder, tensors)
    assert fingerprint() == plain


def test_fused_experts_and_names_without_the_inner_models_are_read_too(folder: Path, tmp_path: Path) -> None:
    fused = small_folder(tmp_path / "fused", "qwen3_moe", save_original_format=False)
    assert f"{EXPERTS}.gate_up_proj" in stored(fused)
    expected = losses(folder)[0]
    assert losses(fused) == (expected, expected)
    store(fused, {**stored(fused), f"{EXPERTS}.9.gate_proj.weight": torch.zeros(32, 64)})
    with pytest.raises(CardlabError, match=r"experts\.9\.gate_proj\.weight, which a qwen3_moe model .* does not use"):
        open_weights(resolve_task(str(fused), sequence=16), 0)
    store(folder, {n.removeprefix("model."): t for n, t in stored(folder).items()})
    assert losses(folder) == (expected, expected)


def test_more_than_ten_experts_keep_their_order(tmp_path: Path) -> None:
    """In the order of letters, 10 comes before 2."""
    config = transformers.AutoConfig.for_model(
        "qwen3_moe",
        **{**selftest._LLAMA_LIKE, "num_experts": 12, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    )
    torch.manual_seed(5)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(str(tmp_path / "model"))
    split, whole = losses(tmp_path / "model")
    assert split == whole


def test_an_expert_that_is_not_finite_is_named_itself(folder: Path) -> None:
    store(folder, {**stored(folder), ONE: torch.full((32, 64), float("nan"))})
    with pytest.raises(CardlabError, match=f"{ONE} holds values that are NaN"):
        losses(folder)


def test_a_type_whose_tensors_are_split_on_loading_is_refused_by_the_operation(tmp_path: Path) -> None:
    need_plan("sarvam_moe")
    folder = small_folder(tmp_path / "model", "sarvam_moe")
    with pytest.raises(CardlabError, match=r"q_proj.*query_key_value.*by Split.*save_original_format=False"):
        losses(folder)
    split, whole = losses(small_folder(tmp_path / "own", "sarvam_moe", save_original_format=False))
    assert split == whole


def test_a_run_on_a_folder_of_single_experts_trains(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = str(tmp_path / "out")
    said = command(
        *("card", "run", "--local", "--cut", "1", "--seq", "16", "--rounds", "1"),
        *("--model", str(folder), "--tokenizer", "bytes", "--out", out),
    )
    assert said.code == 0, said.err
