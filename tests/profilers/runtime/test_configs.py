"""If these fail, a config.json that computes something else than this house builds is profiled or trained as if it did
not, or a broken one ends in another library's error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cardlab.core.errors import CardlabError, ProfileError, UnknownModelError
from cardlab.profilers.runtime import resolve_task
from cardlab.profilers.runtime.configs import dropout_note, load_computing, load_config
from tests.cli.run import command
from tests.profilers.runtime.small import SMALL


def config_file(folder: Path, family: str = "llama", *without: str, **changes: object) -> str:
    kept = {key: value for key, value in SMALL[family].items() if key not in without}
    (folder / "config.json").write_text(json.dumps({**kept, **changes}))
    return str(folder)


BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"pad_token_id": 99}, "'pad_token_id'"),
    ("llama", {"pad_token_id": -100}, "'pad_token_id'"),
    ("llama", {"pad_token_id": "0"}, "'pad_token_id'"),
    ("llama", {"rope_scaling": "linear"}, "'rope_scaling'"),
    ("llama", {"rope_scaling": [4.0]}, "'rope_scaling'"),
    ("llama", {"rope_scaling": {"type": "su", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}}, "rope_type"),
    ("llama", {"rope_scaling": {"type": "linear"}}, "rope_scaling.factor"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": "4"}}, "rope_scaling.factor"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": -1}}, "rope_scaling.factor"),
    ("llama", {"rope_scaling": {"factor": 4.0}}, "rope_scaling.rope_type"),
    ("llama", {"rope_scaling": {"type": "linear", "rope_type": "dynamic", "factor": 2.0}}, "rope_scaling.type"),
    ("llama", {"rope_scaling": {"type": "llama3", "factor": 8.0}}, "low_freq_factor"),
    ("llama", {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}, "short_factor"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0, "more": 1}}, "rope_scaling.more"),
    ("llama", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_type"),
    ("llama", {"rope_parameters": {"rope_theta": 5e5}, "rope_theta": 1e4}, "rope_theta"),
    (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0}, "rope_scaling": {"type": "linear", "factor": 4.0}},
        "'rope_scaling'",
    ),
    ("llama", {"rope_theta": 0}, "'rope_theta'"),
    ("llama", {"rope_theta": "10000"}, "'rope_theta'"),
    ("llama", {"rms_norm_eps": None, "rope_theta": True}, "'rope_theta'"),
    ("llama", {"rms_norm_eps": "1e-5"}, "'rms_norm_eps'"),
    ("llama", {"hidden_act": "silly"}, "'hidden_act'"),
    ("llama", {"tie_word_embeddings": "false"}, "'tie_word_embeddings'"),
    ("llama", {"tie_word_embeddings": 1}, "'tie_word_embeddings'"),
    ("llama", {"attention_bias": "no"}, "'attention_bias'"),
    ("llama", {"num_attention_heads": 5}, "'hidden_size'"),
    ("llama", {"num_key_value_heads": 3}, "'num_attention_heads'"),
    ("llama", {"num_hidden_layers": -3}, "'num_hidden_layers'"),
    ("llama", {"num_hidden_layers": 3.0}, "'num_hidden_layers'"),
    ("llama", {"num_hidden_layers": "3"}, "'num_hidden_layers'"),
    ("llama", {"num_hidden_layers": True}, "'num_hidden_layers'"),
    ("llama", {"vocab_size": 10**30}, "'vocab_size'"),
    ("llama", {"head_dim": 15}, "'head_dim'"),
    ("llama", {"hidden_size": None}, "'hidden_size'"),
    ("llama", {"attention_dropout": 1.5}, "'attention_dropout'"),
    ("llama", {"model_type": None}, "'model_type'"),
    ("llama", {"model_type": ["llama"]}, "'model_type'"),
    ("qwen2", {"max_window_layers": "x", "use_sliding_window": True}, "'max_window_layers'"),
    ("gpt2", {"n_head": 5}, "'n_embd'"),
    ("gpt2", {"activation_function": 3}, "'activation_function'"),
    ("gpt2", {"layer_norm_epsilon": 0}, "'layer_norm_epsilon'"),
    ("gpt2", {"scale_attn_weights": "yes"}, "'scale_attn_weights'"),
]


@pytest.mark.parametrize(("family", "changes", "key"), BROKEN)
def test_a_key_that_makes_no_sense_is_named_in_one_line(tmp_path: Path, family, changes, key) -> None:
    with pytest.raises(ProfileError) as caught:
        resolve_task(config_file(tmp_path, family, **changes), sequence=8)
    assert key in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("family", "key"), [(f, k) for f in SMALL for k in SMALL[f] if k[:2] in ("n_", "nu", "hi")])
def test_a_missing_dimension_is_named(tmp_path: Path, family, key) -> None:
    if key in ("n_inner",) or (family, key) == ("llama", "num_key_value_heads"):
        resolve_task(config_file(tmp_path, family, key), sequence=8)
        return
    with pytest.raises(ProfileError, match=key):
        resolve_task(config_file(tmp_path, family, key), sequence=8)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"sliding_window": 4096}),
        ("llama", {"mlp_bias": True}),
        ("llama", {"attn_logit_softcapping": 50.0}),
        ("llama", {"final_logit_softcapping": 30.0}),
        ("llama", {"logits_scaling": 8.0}),
        ("llama", {"attention_multiplier": 1.0}),
        ("llama", {"embedding_multiplier": 12.0}),
        ("llama", {"partial_rotary_factor": 0.5}),
        ("llama", {"use_qk_norm": True}),
        ("llama", {"no_rope_layers": [1, 0, 1]}),
        ("llama", {"num_local_experts": 8}),
        ("llama", {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}),
        ("qwen2", {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}),
        ("qwen2", {"use_sliding_window": True, "layer_types": ["sliding_attention"] * 3}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 2}),
        ("qwen2", {"attention_bias": False}),
        ("gpt2", {"reorder_and_upcast_attn": True}),
        ("gpt2", {"add_cross_attention": True}),
        ("gpt2", {"n_kv_head": 1}),
        ("gpt2", {"hidden_size": 32}),
    ],
)
def test_what_the_family_does_not_compute_is_refused_by_name(tmp_path: Path, family, changes) -> None:
    with pytest.raises(ProfileError) as caught:
        resolve_task(config_file(tmp_path, family, **changes), sequence=8)
    assert any(f"'{key}'" in caught.value.message for key in changes) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"logits_scaling": 1.0, "sliding_window": None, "rope_interleaved": False, "is_llama_config": True}),
        ("llama", {"unsloth_fixed": True, "_name_or_path": "x", "pretraining_tp": 2, "pad_token_id": -1}),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}}),
        ("llama", {"rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 2}, "rope_parameters": {}}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": None}),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 3}),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 2}),
        ("qwen2", {"layer_types": ["full_attention"] * 3, "use_mrope": False}),
        ("gpt2", {"hidden_size": 64, "n_ctx": 64, "task_specific_params": {"a": {"max_length": 50}}}),
    ],
)
def test_what_changes_nothing_is_let_pass(tmp_path: Path, family, changes) -> None:
    plain = resolve_task(config_file(tmp_path, family), sequence=8)
    assert resolve_task(config_file(tmp_path, family, **changes), sequence=8).uid == plain.uid


QUANTISED: list[tuple[dict[str, Any], list[str]]] = [
    ({"quantization_config": {"bits": 4, "group_size": 128, "quant_method": "awq"}}, ["awq", "4 bit"]),
    ({"quantization_config": {"bits": 8, "quant_method": "gptq"}}, ["gptq", "8 bit"]),
    ({"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}}, ["bitsandbytes fp4", "4 bit"]),
    ({"quantization_config": {"load_in_4bit": True}}, ["bitsandbytes fp4", "4 bit"]),
    (
        {
            "quantization_config": {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_quant_storage": "bfloat16",
            }
        },
        ["nf4 stored as 'bfloat16'"],
    ),
    ({"quantization_config": {"load_in_8bit": True, "llm_int8_threshold": 4.0}}, ["llm_int8_threshold = 4.0", "8 bit"]),
    # What is supported is never taken for dense weights by whoever does not ask.
    ({"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}, ["bitsandbytes nf4"]),
    ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, ["bitsandbytes int8"]),
    ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}, ["fp8", "8 bit"]),
    (
        {
            "quantization_config": {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4}}},
            }
        },
        ["compressed-tensors", "4 bit"],
    ),
    ({"quantization": {"group_size": 64, "bits": 4}}, ["mlx", "4 bit"]),
    ({"compression_config": {"quant_method": "compressed-tensors"}}, ["compressed-tensors"]),
    ({"quantization_config": {"quant_method": "mxfp4"}}, ["mxfp4", "4 bit"]),
    ({"quantization_config": "int4"}, ["quantised checkpoint"]),
    ({"torch_dtype": "float8_e4m3fn"}, ["quantised checkpoint"]),
]


@pytest.mark.parametrize(("changes", "words"), QUANTISED)
def test_a_quantised_configuration_is_never_a_dense_one(tmp_path: Path, changes, words) -> None:
    with pytest.raises(ProfileError, match="quantised checkpoint.*use the unquantised one") as caught:
        resolve_task(config_file(tmp_path, **changes), sequence=8)
    assert all(word in caught.value.message for word in words)


@pytest.mark.parametrize("platform", ["simulated:orin-nx", "cpu"])
def test_no_command_profiles_a_quantised_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config("llama-3.1-8b") | {"quantization_config": {"bits": 4, "quant_method": "awq"}}
    (tmp_path / "awq.json").write_text(json.dumps(config))
    for more in ((), ("--dry-run",)):
        result = command("profile-device", "--platform", platform, "--model", "awq.json", "--seq", "64", *more)
        result.failed_in_one_line(1, "quantised checkpoint (awq, 4 bit)", "unquantised")
    assert not (tmp_path / "cardlab.db").exists()


@pytest.mark.torch
@pytest.mark.parametrize("family", ["bert", "t5", "mamba", "gemma3", "nobody"])
def test_types_without_a_plan_are_refused_by_name(tmp_path: Path, family) -> None:
    with pytest.raises(ProfileError, match=f"'{family}' has no adapter.*models --supported"):
        resolve_task(config_file(tmp_path, model_type=family), sequence=8)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_read_over(tmp_path: Path, encoding) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL["llama"]), encoding=encoding)
    assert resolve_task(str(tmp_path), sequence=8).architecture.layers == 3


@pytest.mark.parametrize("text", ["[1]", "1", "null", "", "{", '{"a": ' * 5000, '{"hidden_size": ' + "9" * 5000 + "}"])
def test_what_is_no_configuration_is_one_line(tmp_path: Path, text) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CardlabError) as caught:
        resolve_task(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_model_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder" / "config.json").mkdir(parents=True)
    for name in ("", "a" * 5000, str(tmp_path), str(tmp_path / "folder"), str(tmp_path / "folder" / "config.json")):
        with pytest.raises(ProfileError) as caught:
            resolve_task(name)
        assert "\n" not in str(caught.value)


def test_a_folder_called_like_a_bundled_model_is_named_by_its_path(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    assert resolve_task("gpt2").architecture.layers == 12
    config_file(tmp_path / "gpt2", "gpt2")
    with pytest.raises(UnknownModelError, match=r"bundled configuration and a model folder here; write \./gpt2"):
        resolve_task("gpt2")
    mine = resolve_task("./gpt2", sequence=8)
    assert mine.model == "./gpt2" and mine.architecture.layers == 3
    assert resolve_task("gpt2/config.json", sequence=8).architecture == mine.architecture


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"rope_theta": 5e5}, "rope_parameters"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_parameters"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}, "rope_parameters"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
    ],
)
def test_everything_that_changes_the_computation_is_compared(tmp_path: Path, changes, key) -> None:
    plain = load_computing(config_file(tmp_path))
    other = load_computing(config_file(tmp_path, **changes))
    assert [k for k in plain if plain[k] != other[k]] == [key]


def test_spellings_of_one_computation_are_equal(tmp_path: Path) -> None:
    plain = load_computing(config_file(tmp_path))
    said: dict[str, Any] = {
        "rope_theta": 10000,
        "rms_norm_eps": 0.000001,
        "hidden_act": "swish",
        "attention_bias": None,
    }
    assert load_computing(config_file(tmp_path, **said)) == plain
    old = load_computing(config_file(tmp_path, rope_scaling={"type": "linear", "factor": 2}, rope_theta=5e5))
    new = {"rope_type": "linear", "factor": 2.0, "rope_theta": 500000.0}
    assert load_computing(config_file(tmp_path, rope_parameters=new)) == old


def test_another_activation_is_another_task_and_the_usual_one_is_not(tmp_path: Path) -> None:
    plain = resolve_task(config_file(tmp_path), sequence=8)
    assert resolve_task(config_file(tmp_path, hidden_act="silu"), sequence=8).uid == plain.uid
    other = resolve_task(config_file(tmp_path, hidden_act="gelu"), sequence=8)
    assert other.uid != plain.uid and other.architecture.activation == "gelu"


def test_hashes_of_tasks_are_those_of_the_release() -> None:
    # As 0.1.0 made them: profiles and plans in old databases are found by these.
    assert resolve_task("llama-3.2-1b").uid == "4fa0abf0cc8bc5bd1a5711abe064f7a4"
    assert resolve_task("qwen2.5-0.5b").uid == "7b62783f87cb09bd52b942902b24ee0d"
    assert resolve_task("gpt2").uid == "ea3e791d86a768cadae450a2a5f3b89b"


@pytest.mark.torch
@pytest.mark.parametrize("family", sorted(SMALL))
def test_labels_that_nothing_computes_with_end_in_no_other_librarys_words(tmp_path: Path, family) -> None:
    pytest.importorskip("transformers")
    from cardlab.core.records.task import Execution
    from cardlab.profilers.runtime.build import build_meta

    said: dict[str, Any] = {
        "id2label": [1],
        "label2id": 5,
        "eos_token_id": {"a": 1},
        "torch_dtype": 7,
        "architectures": "x",
    }
    said |= {"num_labels": "x", "bos_token_id": 10**12, "output_attentions": "yes", "problem_type": 3}
    # Null is what a key says that says nothing.
    said |= dict.fromkeys(("tie_word_embeddings", "rms_norm_eps", "hidden_act", "scale_attn_weights", "rope_scaling"))
    task = resolve_task(config_file(tmp_path, family, **said), sequence=8)
    assert len(build_meta(task, Execution(dtype="float32", torch="x")).layers) == 3


def test_dropout_that_is_switched_off_is_said(tmp_path: Path) -> None:
    assert dropout_note(config_file(tmp_path)) is None
    assert "resid_pdrop = 0.1" in str(dropout_note(config_file(tmp_path, "gpt2")))
