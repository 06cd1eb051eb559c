# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, every constant downstream is wrong: three independent counts must agree for every model."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from cardlab.core.records.task import Execution
from cardlab.core.records.workload import FlopCount
from cardlab.profilers.runtime import analyse, bundled_models, resolve_task
from cardlab.profilers.runtime.configs import load_config
from tests.profilers.runtime.plans import OWN, need_plan

PARAMETERS = {
    "gemma-3-1b": 999_885_952,
    "gpt2": 124_439_808,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b": 7_248_023_552,
    "phi-4-mini": 3_836_021_760,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "smollm3-3b": 3_075_098_624,
    "tiny-llama": 217_664,
}


def check(model: str, batch: int, sequence: int, attention: str, **options: object) -> float:
    """Largest relative error of torch's counter and fvcore against the formula, or between the two without one."""
    need_plan(load_config(model)["model_type"])
    task = resolve_task(model, batch=batch, sequence=sequence, **options)  # type: ignore[arg-type]
    analysis = analyse(task, Execution(dtype="bfloat16", attention=attention, torch="x"))
    assert analysis.flop_disagreements == ()
    worst = 0.0
    for segment in analysis.segments:
        # Families without a closed form are counted by the two programs.
        methods = [name for name in ("formula", "torch", "fvcore") if name in segment.flop_by_method]
        formula = segment.flop_by_method[methods[0]]
        for method in methods[1:]:
            count = segment.flop_by_method[method]
            for phase in ("forward_flop", "backward_flop"):
                value, truth = getattr(count, phase), getattr(formula, phase)
                if value is not None and truth:
                    worst = max(worst, abs(value / truth - 1))
                elif value is not None:
                    assert value == 0.0
    return worst


@pytest.mark.parametrize(
    ("model", "attention"),
    [
        (model, attention)
        for model in bundled_models()
        for attention in ("sdpa", "eager")
        if attention == "sdpa" or load_config(model)["model_type"] in OWN
    ],
)
def test_three_methods_agree_for_every_bundled_model(model: str, attention: str) -> None:
    assert check(model, 1, 128, attention) <= 1e-3


@pytest.mark.accept
def test_three_methods_agree_at_every_wanted_shape() -> None:
    worst = {}
    for model in bundled_models():
        for batch, sequence in ((1, 128), (1, 512), (4, 256)):
            for attention in ("sdpa", "eager"):
                worst[model, batch, sequence, attention] = check(model, batch, sequence, attention)
    print(f"{len(worst)} combinations, largest difference between methods {max(worst.values()):.5%}")
    assert max(worst.values()) <= 1e-3


@pytest.mark.parametrize(
    ("model", "targets"),
    [
        ("tiny-llama", ["all-linear"]),
        ("tiny-llama", ["k_proj"]),
        ("tiny-llama", ["o_proj"]),
        ("tiny-llama", ["down_proj"]),
        ("tiny-llama", ["gate_proj", "v_proj"]),
        ("gpt2", ["all-linear"]),
        ("gpt2", ["c_proj"]),
        ("gpt2", ["mlp.c_proj"]),
        ("gpt2", ["c_fc"]),
        ("qwen2.5-0.5b", ["q_proj", "up_proj"]),
    ],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_any_lora_targets_and_checkpointing(model: str, targets: list[str], checkpointing: bool) -> None:
    assert check(model, 2, 64, "sdpa", lora_targets=targets, gradient_checkpointing=checkpointing) <= 1e-3


@pytest.mark.parametrize("model", bundled_models())
def test_models_have_exactly_their_public_number_of_parameters(model: str) -> None:
    need_plan(load_config(model)["model_type"])
    analysis = analyse(resolve_task(model, sequence=16), Execution(dtype="bfloat16", torch="x"))
    assert analysis.parameters == PARAMETERS[model]


def test_totals_of_llama_3_2_1b_at_512_tokens() -> None:
    analysis = analyse(resolve_task("llama-3.2-1b", sequence=512), Execution(dtype="bfloat16", torch="x"))
    assert analysis.forward_flop == pytest.approx(1300.637e9, rel=1e-6)
    assert analysis.backward_flop == pytest.approx(1328.319e9, rel=1e-6)
    assert analysis.trainable_parameters == 851_968
    assert [segment.count for segment in analysis.segments] == [1, 1, 15, 1]


def test_the_two_sides_of_every_cut_add_up_to_the_model() -> None:
    analysis = analyse(resolve_task("llama-3.2-1b"), Execution(dtype="bfloat16", torch="x"))
    total = analysis.forward_flop + analysis.backward_flop
    assert [cut.cut for cut in analysis.cuts] == list(range(1, 16))
    for cut in analysis.cuts:
        assert cut.device_flop + cut.server_flop == pytest.approx(total, rel=1e-12)
        assert cut.activation_bytes == cut.gradient_bytes == 512 * 2048 * 2
        assert cut.adapter_bytes == cut.cut * 53_248 * 4


def test_a_disagreement_is_reported_by_segment_method_and_phase() -> None:
    from cardlab.profilers.runtime.flops import disagreements

    counts = {
        "torch": FlopCount(forward_flop=1000.0, backward_flop=1000.0),
        "fvcore": FlopCount(forward_flop=1000.9, backward_flop=None),
        "formula": FlopCount(forward_flop=1000.0, backward_flop=2000.0),
    }
    (line,) = disagreements("layer", counts)
    assert "layer backward: formula differs from torch by +50.00%" in line
