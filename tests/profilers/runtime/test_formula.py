"""If these fail, a plan made without torch (simulated devices) rests on wrong FLOPs. Figures typed in by hand."""

from __future__ import annotations

import pytest

from cardlab.profilers.runtime.formula import segment_flop
from cardlab.profilers.runtime.tasks import resolve_task

GIGA = 1e9


def flop(segment: str, phase: str, **options: object) -> float:
    counts = segment_flop(resolve_task("llama-3.2-1b", **options), segment)  # type: ignore[arg-type]
    return getattr(counts, f"{phase}_flop") / GIGA


@pytest.mark.parametrize(
    ("segment", "phase", "sequence", "giga"),
    [
        ("layer", "forward", 128, 15.717),
        ("layer", "forward", 512, 64.479),
        ("layer", "backward", 128, 15.865),
        ("layer", "backward", 512, 66.681),
        ("first_layer", "backward", 128, 14.179),
        ("first_layer", "backward", 512, 59.131),
        ("head", "forward", 128, 67.243),
        ("head", "backward", 512, 268.972),
        ("embedding", "forward", 512, 0.0),
    ],
)
def test_published_figures_of_llama_3_2_1b(segment: str, phase: str, sequence: int, giga: float) -> None:
    assert flop(segment, phase, sequence=sequence) == pytest.approx(giga, rel=1e-4, abs=1e-9)


def test_batch_multiplies_everything() -> None:
    for segment in ("layer", "first_layer", "head"):
        for phase in ("forward", "backward"):
            assert flop(segment, phase, batch=4, sequence=256) == pytest.approx(
                4 * flop(segment, phase, batch=1, sequence=256)
            )


def test_checkpointing_recomputes_all_but_the_last_map() -> None:
    plain = flop("layer", "backward", sequence=512)
    recomputed = flop("layer", "backward", sequence=512, gradient_checkpointing=True) - plain
    down = 2 * 512 * 8192 * 2048 / GIGA
    assert recomputed == pytest.approx(flop("layer", "forward", sequence=512) - down)


def test_lora_after_attention_only_spares_the_first_layer_its_attention_backward() -> None:
    mlp_only = {"lora_targets": ["down_proj"], "sequence": 512}
    first, other = flop("first_layer", "backward", **mlp_only), flop("layer", "backward", **mlp_only)
    lora = 2 * 512 * 8 * (8192 + 2 * 2048) / GIGA
    assert first == pytest.approx(lora), "only the adapters' own gradients are left"
    assert other > 60
