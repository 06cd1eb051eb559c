"""If these fail, a mistyped option starts a profile of something else, or a public model has wrong dimensions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cardlab.core.errors import CardlabError, ProfileError, UnknownModelError, UnsupportedFamilyError, UsageError
from cardlab.profilers.runtime.configs import bundled_models, config_of, load_architecture, load_config
from cardlab.profilers.runtime.families.rotary import rope_arguments
from cardlab.profilers.runtime.tasks import resolve_task


def test_bundled_models_are_the_promised_ones() -> None:
    assert bundled_models() == (
        "gemma-3-1b",
        "gpt2",
        "llama-3.1-8b",
        "llama-3.2-1b",
        "llama-3.2-3b",
        "mistral-7b",
        "phi-4-mini",
        "qwen2.5-0.5b",
        "qwen2.5-1.5b",
        "qwen3-0.6b",
        "qwen3-1.7b",
        "qwen3-4b",
        "smollm3-3b",
        "tiny-llama",
    )


def test_defaults_are_resolved_and_hash_like_the_same_values_typed_by_hand() -> None:
    typed = resolve_task(
        "llama-3.2-1b", batch=1, sequence=512, lora_rank=8, lora_alpha=16, lora_targets=["v_proj", "q_proj"]
    )
    assert resolve_task("llama-3.2-1b").uid == typed.uid
    assert typed.lora.targets == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"lora_rank": 0}, UsageError, ["rank 0", ">= 1"]),
        ({"batch": -1}, UsageError, ["batch -1", ">= 1"]),
        ({"sequence": 0}, UsageError, ["sequence 0"]),
        ({"batch": 2.5}, UsageError, ["batch 2.5"]),
        ({"lora_alpha": -1}, UsageError, ["alpha -1"]),
        ({"lora_alpha": float("nan")}, UsageError, ["alpha nan"]),
        ({"optimizer": "adam"}, UsageError, ["'adam'", "sgd, adamw"]),
        ({"adapter_dtype": "int8"}, UsageError, ["'int8'", "bfloat16"]),
        ({"lora_targets": []}, UsageError, ["no LoRA target", "q_proj"]),
        ({"sequence": 131073}, ProfileError, ["131072 positions"]),
        ({"lora_targets": ["c_attn"]}, ProfileError, ["'c_attn'", "q_proj", "down_proj"]),
        ({"lora_targets": ["q_proj", "proj"]}, ProfileError, ["'proj'"]),
    ],
)
def test_nonsense_is_refused_in_one_line_with_a_remedy(options, error, words) -> None:
    with pytest.raises(error) as caught:
        resolve_task("llama-3.2-1b", **options)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    for word in words:
        assert word in str(caught.value)
    assert caught.value.exit_code == (2 if error is UsageError else 1)


def test_unknown_model_lists_the_known_ones() -> None:
    with pytest.raises(UnknownModelError, match="llama-3.2-1b.*tiny-llama"):
        resolve_task("lama-3.2-1b")


@pytest.mark.torch
def test_other_family_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(UnsupportedFamilyError, match="'mamba'.*models --supported"):
        resolve_task(str(tmp_path))


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"model_type": "llama"}', '{"model_type": "gpt2", "n_embd": "x"}'])
def test_broken_configuration_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CardlabError) as caught:
        resolve_task(str(path))
    assert "\n" not in str(caught.value)


def test_local_configuration_of_the_same_dimensions_is_the_same_task(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(load_config("llama-3.2-1b")))
    assert resolve_task(str(tmp_path)).uid == resolve_task("llama-3.2-1b").uid


def test_all_linear_names_every_linear_map() -> None:
    llama = resolve_task("tiny-llama", lora_targets=["all-linear"])
    assert llama.lora.targets == ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    assert resolve_task("gpt2", lora_targets=["all-linear"]).lora.targets == ("c_attn", "c_fc", "c_proj")


def test_task_from_another_machine_is_built_from_its_dimensions() -> None:
    task = resolve_task("llama-3.2-1b")
    from dataclasses import replace

    elsewhere = replace(task, model="/somewhere/else")
    config = config_of(elsewhere)
    assert config["num_hidden_layers"] == 16
    assert config_of(task)["rope_scaling"]["factor"] == 32.0


OWN = ("llama", "qwen2", "gpt2")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if load_config(name)["model_type"] in OWN else [pytest.mark.torch])
        for name in bundled_models()
    ],
)
def test_a_configuration_made_from_dimensions_has_these_dimensions(name: str) -> None:
    from cardlab.profilers.runtime.families import family_named

    if load_config(name)["model_type"] not in OWN:
        from tests.profilers.runtime.plans import need_plan

        need_plan(load_config(name)["model_type"])
    architecture = load_architecture(name)
    family = family_named(architecture.family)
    assert family.architecture(family.config_from(architecture)) == architecture


def test_rotary_keys_of_both_transformers_generations_mean_the_same() -> None:
    old = {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}
    new = {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0}}
    assert rope_arguments(old, 5) == rope_arguments(new, 5) == new
    assert rope_arguments(old, 4) == rope_arguments(new, 4) == old
    assert rope_arguments({"rope_theta": 1e4}, 4) == {"rope_theta": 1e4, "rope_scaling": None}


def test_naming_models_and_tasks_needs_no_torch() -> None:
    code = "import sys\nfrom cardlab.profilers.runtime import resolve_task, bundled_models, fits\n"
    code += "resolve_task('gpt2'); sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
