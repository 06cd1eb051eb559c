# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, `cuts` promises that a cut fits which then dies, or refuses one that would run."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from cardlab.core.records.task import DTYPE_BYTES, Execution
from cardlab.profilers.runtime import analyse, fits, resolve_execution, resolve_task
from cardlab.profilers.runtime.budget import adapter_state_bytes
from cardlab.profilers.runtime.splitstep import real_split_step

MIB = 2**20
BFLOAT16 = Execution(dtype="bfloat16", torch="x")


def repeated_mib(execution: Execution, options: dict[str, object]) -> float:
    """What a layer saves more where transformers (4.46) hands sdpa each key and value head four times."""
    try:
        from transformers.integrations.sdpa_attention import use_gqa_in_sdpa  # noqa: F401
    except ImportError:
        whole = execution.attention == "sdpa" and "gradient_checkpointing" not in options
        return 2 * 24 * 512 * 64 * DTYPE_BYTES[execution.dtype] / MIB if whole else 0.0
    return 0.0


def saved_mib(segment: str, execution: Execution = BFLOAT16, **options: object) -> float:
    task = resolve_task("llama-3.2-1b", sequence=512, **options)  # type: ignore[arg-type]
    return analyse(task, execution).segment(segment).saved_bytes / MIB


@pytest.mark.parametrize(
    ("segment", "execution", "options", "mib"),
    [
        ("layer", BFLOAT16, {}, 45.22),
        ("first_layer", BFLOAT16, {}, 41.22),
        ("layer", Execution(dtype="bfloat16", attention="eager", torch="x"), {}, 94.16),
        ("layer", Execution(dtype="float32", torch="x"), {}, 70.35),
        ("layer", BFLOAT16, {"lora_targets": ["all-linear"]}, 77.30),
        ("layer", BFLOAT16, {"gradient_checkpointing": True}, 2.00),
    ],
)
def test_saved_activations_are_those_measured_on_real_tensors(segment, execution, options, mib) -> None:
    expected = mib + repeated_mib(execution, options)
    assert saved_mib(segment, execution, **options) == pytest.approx(expected, abs=0.01)


def test_checkpointing_moves_the_activations_into_the_transient_peak() -> None:
    task = resolve_task("llama-3.2-1b", gradient_checkpointing=True)
    layer = analyse(task, BFLOAT16).segment("layer")
    assert layer.peak_bytes > 45 * MIB


def test_a_tied_weight_is_held_by_both_sides() -> None:
    analysis = analyse(resolve_task("llama-3.2-1b", sequence=16), BFLOAT16)
    embedding, head = analysis.segment("embedding"), analysis.segment("head")
    assert embedding.weight_bytes == 501 * MIB
    assert head.weight_bytes == embedding.weight_bytes + 2048 * 2


def test_adamw_costs_two_moments_of_the_adapters_and_sgd_none() -> None:
    sgd, adamw = (resolve_task("llama-3.2-1b", optimizer=name) for name in ("sgd", "adamw"))
    assert adapter_state_bytes(sgd, 100) == 200
    assert adapter_state_bytes(adamw, 100) == 400
    costs = [analyse(task, BFLOAT16).cuts[4] for task in (sgd, adamw)]
    assert costs[1].device_memory_bytes - costs[0].device_memory_bytes == 2 * costs[0].adapter_bytes


def test_overhead_of_context_and_framework_is_part_of_both_sides() -> None:
    task = resolve_task("tiny-llama", sequence=16)
    without = analyse(task, BFLOAT16, overhead_bytes=0).cuts[0]
    with_it = analyse(task, BFLOAT16, overhead_bytes=1000, server_overhead_bytes=300).cuts[0]
    assert with_it.device_memory_bytes - without.device_memory_bytes == 1000
    assert with_it.server_memory_bytes - without.server_memory_bytes == 300


def test_fits_says_which_cuts_a_budget_allows() -> None:
    analysis = analyse(resolve_task("llama-3.2-1b"), BFLOAT16)
    budget = analysis.cuts[6].device_memory_bytes
    assert budget is not None
    answer = fits(analysis, budget, server_budget_bytes=analysis.cuts[3].server_memory_bytes)
    assert [fit.cut for fit in answer if fit.device] == [1, 2, 3, 4, 5, 6, 7]
    assert [fit.cut for fit in answer if fit.server] == list(range(4, 16))
    assert all(fit.server for fit in fits(analysis, 0))
    assert not any(fit.device for fit in fits(analysis, 0))


def compare(model: str, sequence: int, cuts: tuple[int, ...], **options: object) -> list[float]:
    """Relative errors of the predicted against the resident peaks of real split steps."""
    task, execution = resolve_task(model, sequence=sequence, **options), resolve_execution()  # type: ignore[arg-type]
    errors = []
    for cut in cuts:
        real = real_split_step(task, execution, cut)
        analysis = analyse(
            task,
            execution,
            overhead_bytes=real.device_overhead_bytes,
            server_overhead_bytes=real.server_overhead_bytes,
        )
        cost = analysis.cuts[cut - 1]
        for side in ("device", "server"):
            predicted, measured = getattr(cost, f"{side}_memory_bytes"), getattr(real, f"{side}_bytes")
            errors.append(predicted / measured - 1)
            print(
                f"{model} {sequence} {options} cut {cut} {side}: {predicted / MIB:.0f} MiB predicted, "
                f"{measured / MIB:.0f} measured, {errors[-1]:+.1%}"
            )
    return errors


def test_predicted_peak_matches_a_real_split_step() -> None:
    assert max(map(abs, compare("gpt2", 256, (6,)))) <= 0.10


@pytest.mark.accept
def test_predicted_peaks_match_real_split_steps_of_three_models() -> None:
    errors = compare("llama-3.2-1b", 128, (2, 8, 14))
    errors += compare("llama-3.2-1b", 512, (2, 8, 14))
    errors += compare("qwen2.5-0.5b", 512, (2, 12, 22))
    errors += compare("gpt2", 512, (2, 6, 10))
    errors += compare("qwen2.5-0.5b", 512, (12,), gradient_checkpointing=True, optimizer="adamw")
    assert max(map(abs, errors)) <= 0.10


def test_fewer_key_heads_than_query_heads_keep_their_own_gradients() -> None:
    """The fused kernel of torch 2.6 has none for them, so that no model with grouped heads could be analysed there."""
    import torch

    from cardlab.profilers.runtime.metakernels import fused_attention

    query, key, value = (torch.empty((1, n, 8, 4), device="meta", requires_grad=True) for n in (4, 2, 2))
    with fused_attention():
        output = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=0.5, enable_gqa=True
        )
        output.sum().backward()
    assert output.shape == query.shape
    assert [t.grad.shape for t in (query, key, value)] == [query.shape, key.shape, value.shape]
