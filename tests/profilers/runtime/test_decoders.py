# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a model of a type that nobody here has seen is cut into something else than it was, or refused without
a word that says why."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

import transformers
from torch.utils.flop_counter import FlopCounterMode

from cardlab.core.errors import CardlabError, ProfileError, UnknownModelError, UnsupportedFamilyError
from cardlab.core.records.task import Execution
from cardlab.profilers.runtime import analyse, resolve_task, selftest
from cardlab.profilers.runtime.build import build_meta, materialise_whole
from cardlab.profilers.runtime.families import family_of
from cardlab.profilers.runtime.families.generic import Generic, types_with_a_plan
from cardlab.profilers.runtime.pieces import token_ids
from cardlab.profilers.runtime.skeleton import no_layers
from cardlab.workflows.models import supported_models
from tests.profilers.runtime.plans import need_plan


@pytest.fixture(autouse=True)
def recent() -> None:
    need_plan("qwen3")


# Of transformers 5.24; a test below holds that they are all there is.
REFUSED = {
    "cohere_compass_text": "takes no such configuration",
    "deepseek_v4": "belongs to no layer",
    "dots3_note_text": "a small one of its configuration fails",
    "gemma3n_text": "belongs to no layer",
    "gemma4_text": "belongs to no layer",
    "glm_moe_dsa": "a small one of its configuration fails",
    "hrm_text": "no list of layers",
    "hy_v4": "belongs to no layer",
    "longcat_flash": "a small one of its configuration fails",
    "phi4_multimodal": "belongs to no layer",
}
FEW = ("gemma2", "gpt_oss", "mistral", "mixtral", "phi3", "qwen3", "qwen3_next", "smollm3")
LEAST_SUPPORTED = 75
KNOWN_RELEASE = "5.24."


@pytest.mark.parametrize("model_type", FEW)
def test_a_type_of_today_is_cut_bit_by_bit(model_type: str) -> None:
    """Those that people bring; the whole list is the next test."""
    need_plan(model_type)
    _, words = selftest.try_type(model_type)
    assert "last bit" in words


@pytest.mark.accept
def test_every_type_of_this_transformers_is_cut_bit_by_bit_or_refused_by_name() -> None:
    if not transformers.__version__.startswith(KNOWN_RELEASE):
        pytest.skip(f"transformers {transformers.__version__} runs here, the list is of {KNOWN_RELEASE}x")
    found = supported_models()
    refused = {t.model_type: t.words for t in found.types if not t.supported}
    supported = [t.model_type for t in found.types if t.supported]
    print(f"{len(supported)} types supported, {len(refused)} refused: {', '.join(sorted(refused))}")
    assert len(supported) >= LEAST_SUPPORTED
    assert {"llama", "qwen2", "gpt2"} <= set(supported)
    assert set(refused) == set(REFUSED)
    for model_type, words in refused.items():
        assert model_type in words and REFUSED[model_type] in words
        assert "differ" not in words


def config_file(folder: Path, **keys: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps(keys))
    return str(path)


SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 128,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("model_type", "keys"),
    [
        ("granite", {"embedding_multiplier": 12.0, "logits_scaling": 8.0, "residual_multiplier": 0.22}),
        ("gemma2", {"sliding_window": 8, "final_logit_softcapping": 20.0}),
        ("cohere", {"logit_scale": 0.25, "head_dim": None}),
        ("minicpm", {"scale_emb": 12, "scale_depth": 1.4}),
    ],
)
def test_scales_on_the_way_in_are_applied_once_or_the_model_is_refused(
    model_type: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    """Embeddings that are scaled inside the forward pass would be scaled on both sides of a cut."""
    given = {k: v for k, v in {**SIZES, **keys}.items() if v is not None}
    try:
        task = resolve_task(config_file(tmp_path, model_type=model_type, **given), batch=2, sequence=20)
    except UnsupportedFamilyError as error:
        assert model_type in error.message and error.remedy
    else:
        assert selftest.differences(task.architecture) == ()


def test_a_cut_that_changes_the_model_is_found_and_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The fault that the self-test is there for: a type whose forward pass scales what comes in, on both sides."""

    def scaling(self: Generic, model: Any) -> Any:
        inner = model.get_submodule(self.inner_path)
        forward = inner.forward
        inner.forward = lambda *a, inputs_embeds=None, **k: forward(*a, inputs_embeds=2.0 * inputs_embeds, **k)
        return model

    monkeypatch.setattr(Generic, "without_embedding", scaling)
    selftest._check.cache_clear()
    try:
        with pytest.raises(UnsupportedFamilyError, match="a qwen3 model cannot be cut: logits, loss, gradients"):
            resolve_task(config_file(tmp_path, model_type="qwen3", **SIZES), sequence=20)
    finally:
        selftest._check.cache_clear()


@pytest.mark.parametrize(
    ("keys", "kinds"),
    [
        ({"model_type": "gemma3_text", "sliding_window": 8, "sliding_window_pattern": 4}, ["sliding"] * 3 + ["full"]),
        ({"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "mlp_only_layers": [0, 2]}, None),
        ({"model_type": "qwen3"}, None),
    ],
)
def test_layers_of_several_kinds_are_several_segments(
    keys: dict[str, Any], kinds: list[str] | None, tmp_path: Path
) -> None:
    task = resolve_task(config_file(tmp_path, **SIZES, **keys), sequence=20)
    found = task.architecture.kinds
    if keys["model_type"] == "qwen3":
        assert found is None
    elif kinds is None:
        assert found is not None and found[0] == found[2] != found[1] == found[3]
    else:
        assert list(found or ()) == kinds
    analysis = analyse(task, Execution(dtype="float32"))
    counts = {s.segment: s.count for s in analysis.segments}
    assert sum(n for name, n in counts.items() if name.startswith("layer")) == task.architecture.layers - 1
    assert analysis.flop_disagreements == ()
    for cut in analysis.cuts:
        assert cut.device_flop + cut.server_flop == pytest.approx(
            analysis.forward_flop + analysis.backward_flop, rel=1e-12
        )


def rows_times_matrices(rows: Any, matrices: Any, *_rest: Any, **_options: Any) -> int:
    """Of a product grouped by experts: each row meets one matrix."""
    return 2 * rows[0] * rows[1] * matrices[2]


MAPPING = {torch.ops.aten._grouped_mm: rows_times_matrices} if hasattr(torch.ops.aten, "_grouped_mm") else {}


def difference_of_flop(model_type: str, sequence: int = 40) -> float:
    """Between the sum of segments and torch's counter on a real step of the whole model (small, spelt-out attention).

    What a pass does around its layers (rotary tables) is in no segment and counted apart.
    """
    architecture = family_of(model_type).architecture(
        {"model_type": model_type, **selftest._LEFT_OUT.get(model_type, {})}
    )
    small = family_of(model_type).architecture({"model_type": model_type, **selftest.shrunk(architecture)})
    task, execution = (
        replace(selftest._task_of(small), sequence=sequence),
        Execution(dtype="float32", attention="eager"),
    )
    analysis = analyse(task, execution)
    built = build_meta(task, execution)
    model = materialise_whole(built, "cpu")
    ids = token_ids(built, "cpu")
    with FlopCounterMode(display=False, custom_mapping=MAPPING) as forward:
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    with FlopCounterMode(display=False, custom_mapping=MAPPING) as backward:
        loss.backward()
    with FlopCounterMode(display=False) as around, no_layers(built):
        built.inner(input_ids=ids, use_cache=False)
    truth = (forward.get_total_flops() - around.get_total_flops(), backward.get_total_flops())
    sums = (analysis.forward_flop, analysis.backward_flop)
    return max(abs(a / b - 1.0) for a, b in zip(sums, truth, strict=True))


@pytest.mark.parametrize("model_type", ["gemma3_text", "qwen3", "qwen3_moe", "smollm3"])
def test_flops_of_the_segments_are_those_of_the_whole_model(model_type: str) -> None:
    assert difference_of_flop(model_type) < 5e-7


COUNTED = 30


@pytest.mark.accept
def test_flops_of_thirty_types_are_those_of_the_whole_model() -> None:
    errors: dict[str, float] = {}
    for model_type in types_with_a_plan():
        if model_type in (*REFUSED, "llama", "qwen2"):
            continue
        try:
            errors[model_type] = difference_of_flop(model_type)
        except CardlabError as error:
            print(f"{model_type}: not counted ({error.message[:100]})")
    off = {name: error for name, error in errors.items() if not error < 5e-7}
    print(f"{len(errors) - len(off)} types within 0.0000 %; others: {off}")
    assert len(errors) - len(off) >= COUNTED


def test_a_hub_id_is_found_in_the_local_cache_and_nothing_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    folder = tmp_path / "hub" / "models--someone--small"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("a" * 40)
    config_file(folder / "snapshots" / ("a" * 40), model_type="qwen3", **SIZES)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert resolve_task("someone/small", sequence=20).architecture.family == "qwen3"
    with pytest.raises(UnknownModelError) as caught:
        resolve_task("someone/else", sequence=20)
    assert "hf download someone/else" in str(caught.value.remedy)


def test_what_is_in_the_configuration_is_in_the_identity(tmp_path: Path) -> None:
    def uid(name: str, **keys: Any) -> str:
        return resolve_task(config_file(tmp_path / name, model_type="qwen3", **{**SIZES, **keys}), sequence=20).uid

    plain = uid("plain")
    assert uid("same", rms_norm_eps=1e-6, architectures=["Qwen3ForCausalLM"], torch_dtype="bfloat16") == plain
    assert uid("eps", rms_norm_eps=1e-5) != plain
    assert uid("rope", rope_theta=5e5) != plain
    assert uid("window", use_sliding_window=True, sliding_window=8, max_window_layers=2) != plain


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"model_type": "qwen3", "mystery_gate": 3}, ["'mystery_gate'", "does not compute"]),
        ({"model_type": "qwen3", "hidden_act": "nonsense"}, ["qwen3"]),
        ({"model_type": "nobody_knows"}, ["'nobody_knows'", "models --supported"]),
        ({"model_type": "bert"}, ["'bert'", "models --supported"]),
        ({"model_type": "qwen3", "quantization_config": {"quant_method": "awq", "bits": 4}}, ["awq", "4 bit"]),
    ],
)
def test_what_is_not_understood_is_refused_in_one_line(keys: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    with pytest.raises(ProfileError) as caught:
        resolve_task(config_file(tmp_path, **{**SIZES, **keys}), sequence=20)
    text = str(caught.value)
    assert "\n" not in text and caught.value.remedy
    for word in words:
        assert word in text


def test_folders_that_hold_no_model_say_what_they_hold(tmp_path: Path) -> None:
    for name, files, word in (
        ("adapters", {"adapter_config.json": '{"base_model_name_or_path": "Qwen/Qwen3-0.6B"}'}, "of Qwen/Qwen3-0.6B"),
        ("gguf", {"model-q4.gguf": "GGUF"}, "llama.cpp"),
        ("empty-but-for-notes", {"README.md": "hello"}, "no config.json"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        for file, text in files.items():
            (folder / file).write_text(text)
        with pytest.raises(UnknownModelError, match=word):
            resolve_task(str(folder), sequence=20)
