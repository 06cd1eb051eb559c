# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a device that should hold a cut by its plan runs out of memory, or is kept from one that fits."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from cardlab.profilers.runtime import analyse, resolve_execution, resolve_task
from tests.split.halfpeak import half_peak

MIB = 2**20


def held_against_its_prediction(
    model: str, sequence: int, form: str | None, cut: int, cache: Path
) -> tuple[float, dict[str, int]]:
    if form is not None:
        pytest.importorskip("bitsandbytes")
    task, execution = resolve_task(model, sequence=sequence), resolve_execution(dtype="bfloat16", quantization=form)
    found = half_peak(task, execution, cut, cache)
    predicted = analyse(task, execution, overhead_bytes=found["framework"]).cut(cut).device_memory_bytes
    assert predicted is not None
    print(
        f"{model} {form or 'bfloat16'} cut {cut}: framework {found['framework'] / MIB:.0f}, loading"
        f" {found['loading'] / MIB:.0f}, peak {found['peak'] / MIB:.0f}, predicted {predicted / MIB:.0f} MiB"
    )
    return predicted / found["peak"] - 1.0, found


def test_a_device_half_takes_what_its_plan_says(tmp_path: Path) -> None:
    error, found = held_against_its_prediction("qwen2.5-0.5b", 128, "nf4-double", 6, tmp_path)
    assert abs(error) < 0.1
    # Loading is no higher than training, and the embedding (260 MiB) is not held.
    assert found["loading"] <= found["peak"] and found["peak"] - found["framework"] < 260 * MIB


@pytest.mark.accept
@pytest.mark.parametrize("form", [None, "nf4-double", "nf4", "int8"])
@pytest.mark.parametrize("cut", [1, 4, 8])
def test_device_halves_of_llama_take_what_their_plans_say(tmp_path: Path, form: str | None, cut: int) -> None:
    assert abs(held_against_its_prediction("llama-3.2-1b", 256, form, cut, tmp_path)[0]) < 0.1


@pytest.mark.accept
def test_a_device_half_of_llama_in_four_bits_stays_under_700_mib(tmp_path: Path) -> None:
    error, found = held_against_its_prediction("llama-3.2-1b", 256, "nf4-double", 2, tmp_path)
    assert abs(error) < 0.1 and found["peak"] < 700 * MIB
