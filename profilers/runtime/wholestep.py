"""A real training step of the whole model, to hold the segments against; it is timed in measure/wholestep.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cardlab.core.records.task import Execution, Task
from cardlab.core.records.workload import Analysis
from cardlab.profilers.board.work import Lap, Work
from cardlab.profilers.runtime.budget import adapter_state_bytes

if TYPE_CHECKING:
    import torch


def whole_step_bytes(task: Task, analysis: Analysis) -> int:
    """Memory of a real step of the unsplit model, without the framework."""
    kept = sum(s.count * (s.weight_bytes + s.saved_bytes) for s in analysis.segments)
    # Counted with the embedding and with the head, and there once.
    if task.architecture.tied_embeddings:
        kept -= analysis.segment("embedding").weight_bytes
    state = adapter_state_bytes(task, sum(s.count * s.adapter_bytes for s in analysis.segments))
    return kept + state + max(s.peak_bytes for s in analysis.segments)


def whole_step_work(task: Task, execution: Execution, device: str) -> Work:
    """The unsplit model's step: embedding to loss, and back; gradients are dropped between steps."""
    from cardlab.profilers.runtime.build import build_meta, materialise_whole
    from cardlab.profilers.runtime.pieces import token_ids
    from cardlab.profilers.runtime.segments import synchronizer

    built = build_meta(task, execution)
    model = materialise_whole(built, device)
    ids = token_ids(built, device)
    loss: list[torch.Tensor] = []

    def forward() -> None:
        loss.append(model(input_ids=ids, labels=ids, use_cache=False).loss)

    def backward() -> None:
        loss.pop().backward()

    def reset() -> None:
        loss.clear()
        model.zero_grad(set_to_none=True)

    laps = (Lap(phase="forward", run=forward), Lap(phase="backward", run=backward))
    return Work(segment="whole_step", laps=laps, synchronize=synchronizer(device), reset=reset)
