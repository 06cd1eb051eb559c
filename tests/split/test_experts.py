# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a mixture of experts from the Hub cannot be trained, or is trained with experts left out, swapped or put
together otherwise than transformers does."""

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
from cardlab.profilers.runtime import resolve_task, selftest
from cardlab.profilers.runtime.families import family_of
from cardlab.profilers.runtime.families.generic import types_with_a_plan
from cardlab.split.adapters import initial_adapters
from cardlab.split.weights import open_weights
from tests.cli.run import command
from tests.profilers.runtime.plans import OWN
from tests.split.models import halves

EXPERTS = "model.layers.0.mlp.experts"
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
    task = resolve_task(str(folder), batch=2, sequence=16)
    device, server = halves(task)
    for half in (device, server):
        half.set_cut(task.architecture.layers // 2)
        half.load(initial_adapters(task, 0))
    ids = torch.arange(32).reshape(2, 16)
    model = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).train()
    with torch.no_grad():
        expected = float(model(input_ids=ids, labels=ids, use_cache=False).loss)
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
    """Of those that can be cut."""
    read: list[str] = []
    refused: dict[str, str] = {}
    for model_type in types_with_a_plan():
        try:
            if model_type in OWN:
                continue
            selftest.try_type(model_type)
        except CardlabError:
            continue
        folder = small_folder(tmp_path / model_type, model_type)
        try:
            split, whole = losses(folder)
        except ProfileError as error:
            refused[model_type] = error.message
            continue
        assert split == whole, model_type
        read.append(model_type)
    print(f"{len(read)} types read, refused: {refused}")
    assert all("is not done here" in said for said in refused.values())
