"""Memory of both sides of every cut, and which cuts fit a budget; arithmetic only, no torch.

A side holds, at the highest moment of one split step,

    framework + weights + adapters + their gradients + optimizer state + saved activations + transient peak
    + allocator slack

with the embedding on the device and the final norm and LM head on the server; a tied weight is therefore held
by both. Gradients have the size of the adapters, AdamW two moments of that size, SGD nothing. The
transient peak belongs to the costliest piece of the side (backward, or the recomputation of one layer
under checkpointing), when everything saved is still there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cardlab.core.records.task import Task
from cardlab.core.records.workload import EMBEDDING, FIRST_LAYER, HEAD, Analysis, CutCost, SegmentCost
from cardlab.profilers.board.host import memory_bytes

_OPTIMIZER_COPIES = {"sgd": 0, "adamw": 2}

# What glibc's heap loses to holes between saved activations, as a share of them. Measured on real split steps
# of llama-3.2-1b, qwen2.5-0.5b and gpt2: 0.25 to 0.75; with every tensor mapped on its own, nothing.
CPU_ALLOCATOR_SLACK = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class CutFit:
    """Whether each side of a cut fits; None where its memory was not predicted."""

    cut: int
    device: bool | None
    server: bool | None


def adapter_state_bytes(task: Task, adapter_bytes: int) -> int:
    """Adapters, their gradients and the optimizer's moments."""
    return adapter_bytes * (2 + _OPTIMIZER_COPIES[task.optimizer])


def cut_costs(
    task: Task,
    segments: Sequence[SegmentCost],
    *,
    activation_bytes: int,
    device_overhead_bytes: int,
    server_overhead_bytes: int,
    slack: float = 0.0,
) -> tuple[CutCost, ...]:
    """Cost of both sides for every cut 1..L-1.

    Args:
        segments: all of the task, any order.
        activation_bytes: of one hidden state [B, S, h] at the compute dtype.
        device_overhead_bytes, server_overhead_bytes: resident memory before any weight is there.
        slack: what the allocator loses, as a share of the activations that layers save.
    """
    by_name = {s.segment: s for s in segments}
    costs = []
    for cut in range(1, task.architecture.layers):
        device, server = cut_sides(by_name, cut, task.architecture.layer_segments)
        costs.append(
            CutCost(
                cut=cut,
                device_flop=sum(s.forward_flop + s.backward_flop for s in device),
                server_flop=sum(s.forward_flop + s.backward_flop for s in server),
                activation_bytes=activation_bytes,
                gradient_bytes=activation_bytes,
                adapter_bytes=sum(s.adapter_bytes for s in device),
                device_memory_bytes=device_overhead_bytes + side_bytes(task, device, activation_bytes, slack),
                server_memory_bytes=server_overhead_bytes + side_bytes(task, server, activation_bytes, slack),
            )
        )
    return tuple(costs)


def cut_sides(
    by_name: Mapping[str, SegmentCost], cut: int, layers: Sequence[str]
) -> tuple[tuple[SegmentCost, ...], tuple[SegmentCost, ...]]:
    """The pieces of the device and of the server for one cut, in data order; `layers`: the segment of each layer."""
    device = (by_name[EMBEDDING], by_name[FIRST_LAYER], *(by_name[name] for name in layers[1:cut]))
    return device, (*(by_name[name] for name in layers[cut:]), by_name[HEAD])


def side_bytes(task: Task, pieces: Sequence[SegmentCost], activation_bytes: int, slack: float = 0.0) -> int:
    """Highest memory of a process that holds these pieces, without the framework.

    Two hidden states live at the boundary: what came in or went out, and its gradient.
    """
    state = adapter_state_bytes(task, sum(s.adapter_bytes for s in pieces))
    kept = sum(s.resident_bytes + s.saved_bytes for s in pieces)
    # The head's blocks are so large that each is mapped on its own and goes back whole.
    lost = slack * sum(s.saved_bytes for s in pieces if s.segment != HEAD)
    return state + kept + int(lost) + max(s.peak_bytes for s in pieces) + 2 * activation_bytes


def fits(analysis: Analysis, budget_bytes: int, *, server_budget_bytes: int | None = None) -> tuple[CutFit, ...]:
    """Which cuts fit: the device in `budget_bytes`, the server in its own budget (unlimited if None)."""
    return tuple(
        CutFit(
            cut=cut.cut,
            device=None if cut.device_memory_bytes is None else cut.device_memory_bytes <= budget_bytes,
            server=_server_fits(cut, server_budget_bytes),
        )
        for cut in analysis.cuts
    )


def _server_fits(cut: CutCost, budget_bytes: int | None) -> bool | None:
    if cut.server_memory_bytes is None:
        return None
    return budget_bytes is None or cut.server_memory_bytes <= budget_bytes


def available_memory_bytes(root: Path = Path("/")) -> int | None:
    """Memory that this process can still take, as board/host.py has it; None where nothing says."""
    return memory_bytes(root)[1]
