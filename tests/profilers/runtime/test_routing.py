# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a profile of a mixture of experts says that more or fewer experts compute than do, and a simulated
device reads weights that no token meets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

import torch

from cardlab.core.records.task import Execution, Task
from cardlab.core.records.workload import SegmentCost
from cardlab.profilers.runtime import analyse, resolve_task
from cardlab.profilers.runtime.build import build_meta
from cardlab.profilers.runtime.metakernels import grouped_products
from cardlab.profilers.runtime.pieces import Piece
from cardlab.profilers.runtime.routing import routing_of
from tests.cli.run import command
from tests.profilers.runtime.plans import need_plan

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 128,
    "max_position_embeddings": 64,
}
QWEN: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "mlp_only_layers": [0, 2],
}
# Of one expert: gate, up and down maps in float32.
EXPERT_BYTES = 3 * 64 * 32 * 4


def config(folder: Path, **keys: Any) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps({**SIZES, **keys}))
    return str(path)


def task(folder: Path, sequence: int = 20, **keys: Any) -> Task:
    need_plan(keys["model_type"])
    return resolve_task(config(folder, **keys), sequence=sequence)


def layers(of: Task, dtype: str = "float32", attention: str = "sdpa") -> dict[str, SegmentCost]:
    found = analyse(of, Execution(dtype=dtype, attention=attention)).segments
    return {s.segment: s for s in found}


def test_segments_with_routed_experts_say_how_many_are_active_and_others_nothing(tmp_path: Path) -> None:
    found = {name: (s.active_experts, s.experts) for name, s in layers(task(tmp_path, **QWEN)).items()}
    sparse = [name for name, told in found.items() if told != (None, None)]
    assert len(sparse) == 1 and sparse[0].startswith("layer:")
    assert found[sparse[0]] == (2, 8)
    assert {"embedding", "first_layer", "head"} <= found.keys() and len(found) == 5


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"model_type": "mixtral", "num_local_experts": 6, "num_experts_per_tok": 3}, (3, 6)),
        ({"model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 1}, (1, 4)),
        ({"model_type": "qwen2_moe", "num_experts": 4, "num_experts_per_tok": 4}, (4, 4)),
        ({"model_type": "qwen3"}, (None, None)),
    ],
)
def test_the_active_experts_are_those_of_the_router(
    keys: dict[str, Any], told: tuple[Any, Any], tmp_path: Path
) -> None:
    attention = "eager" if keys["model_type"] == "gpt_oss" else "sdpa"
    found = list(layers(task(tmp_path, **keys), attention=attention).values())
    assert {(s.active_experts, s.experts) for s in found[1:-1]} == {told}


@pytest.mark.parametrize("tokens", [1, 2, 5, 64])
def test_traffic_counts_the_experts_that_tokens_are_expected_to_meet(tokens: int, tmp_path: Path) -> None:
    sparse = next(s for s in layers(task(tmp_path, tokens, **QWEN)).values() if s.experts)
    hidden_bytes = tokens * 64 * 4
    everything = sparse.weight_bytes + sparse.adapter_bytes + 2 * hidden_bytes
    read = 8 - (everything - sparse.traffic_bytes) / EXPERT_BYTES
    # One token meets 2 of 8 for certain, and each further one misses an expert with 6 / 8.
    assert read == pytest.approx(8 * (1 - 0.75**tokens), abs=1e-3)
    assert read <= min(8, 2 * tokens)


def test_memory_and_parameters_are_those_of_all_experts(tmp_path: Path) -> None:
    few, all_of_them = (
        next(s for s in layers(task(tmp_path, **{**QWEN, "num_experts_per_tok": k})).values() if s.experts)
        for k in (2, 8)
    )
    assert (few.weight_bytes, few.parameters) == (all_of_them.weight_bytes, all_of_them.parameters)
    assert few.weight_bytes > 8 * EXPERT_BYTES
    assert few.forward_flop < all_of_them.forward_flop and few.traffic_bytes < all_of_them.traffic_bytes


class Experts(torch.nn.Module):  # type: ignore[misc]
    """Four matrices in one parameter, met by rows in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.matrices = torch.nn.Parameter(torch.empty(4, 8, 8, device="meta"))

    def forward(self, hidden: Any) -> Any:
        if self.way == "all of them":
            return torch.bmm(hidden.expand(4, -1, -1), self.matrices)
        rows = {"two each": 40, "not a whole number": 41, "more than there are": 100}[self.way]
        grouped = torch.nn.functional.grouped_mm if hasattr(torch.nn.functional, "grouped_mm") else torch._grouped_mm
        return grouped(torch.empty(rows, 8, device="meta"), self.matrices)


@pytest.mark.parametrize(
    ("way", "told"),
    [("two each", (2, 4, 1024)), ("all of them", None), ("not a whole number", None), ("more than there are", None)],
)
def test_where_the_active_share_cannot_be_told_nothing_is_said(way: str, told: Any, tmp_path: Path) -> None:
    if not hasattr(torch, "_grouped_mm"):
        pytest.skip(f"torch {torch.__version__} runs here, which has no grouped product")
    built = build_meta(resolve_task("qwen3-0.6b", sequence=20), Execution(dtype="float32"))
    experts = Experts(way)
    piece = Piece(
        segment="layer",
        modules=(experts,),
        make_inputs=lambda device: (torch.empty(1, 20, 8, device=device),),
        forward=experts,
    )
    routing = routing_of(built, piece)
    found = None if routing is None else (routing.active_experts, routing.experts, routing.expert_bytes)
    assert found == told


def test_grouped_products_keep_no_tensor_alive() -> None:
    if not hasattr(torch, "_grouped_mm"):
        pytest.skip(f"torch {torch.__version__} runs here, which has no grouped product")
    with grouped_products() as computed:
        torch._grouped_mm(torch.empty(6, 8, device="meta"), torch.empty(3, 8, 8, device="meta"))
    assert [(c.rows, c.matrices) for c in computed] == [(6, 3)]
    assert not any(isinstance(getattr(c, field), torch.Tensor) for c in computed for field in c.__slots__)


def test_a_profile_says_the_active_share_in_text_and_in_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_plan("qwen3_moe")
    monkeypatch.chdir(tmp_path)
    words = ("--platform", "simulated:orin-nano", "--model", config(tmp_path, **QWEN), "--seq", "20")
    text = command("profile-device", *words)
    assert text.code == 0, text.err
    line = "2 of 8 experts active per token; FLOPs and times are of the active ones, memory of all"
    assert text.out.count(line) == 1
    routed = command("profile-device", *words, "--json").document["task"]["routed_experts"]
    assert [(r["active_experts"], r["experts"]) for r in routed] == [(2, 8)]
    assert f"{routed[0]['segment']}: {line}" in text.out
