"""A real training step of the whole model, measured in a process of its own, to hold the segments against."""

from __future__ import annotations

from typing import Any

from cardlab.core.plain import from_plain, to_plain
from cardlab.core.quantity import MEASURED, Estimate
from cardlab.core.records.task import Execution, Task
from cardlab.core.records.workload import Analysis
from cardlab.profilers.board.work import Lap, Work
from cardlab.profilers.measure.timing import TimingPolicy, WorkTiming, measure
from cardlab.profilers.runtime.budget import adapter_state_bytes, available_memory_bytes
from cardlab.profilers.runtime.child import call_in_child
from cardlab.profilers.runtime.heap import hold_freed_memory, room_to_hold

WHOLE_STEP_POLICY = TimingPolicy(warmups=2, min_samples=5, max_samples=12, patience_s=30.0)


def whole_step_bytes(task: Task, analysis: Analysis) -> int:
    """Memory of a real step of the unsplit model, without the framework."""
    kept = sum(s.count * (s.weight_bytes + s.saved_bytes) for s in analysis.segments)
    if task.architecture.tied_embeddings:
        kept -= analysis.segment("embedding").weight_bytes
    state = adapter_state_bytes(task, sum(s.count * s.adapter_bytes for s in analysis.segments))
    return kept + state + max(s.peak_bytes for s in analysis.segments)


def measure_whole_step(
    task: Task,
    execution: Execution,
    analysis: Analysis,
    *,
    device: str = "cpu",
    policy: TimingPolicy = WHOLE_STEP_POLICY,
) -> WorkTiming | None:
    """Forward and backward time of a real step; None where it does not fit in the free memory.

    Raises OutOfMemoryError or ProfileError when the child process fails.
    """
    free = available_memory_bytes() if device == "cpu" else None
    needed = whole_step_bytes(task, analysis)
    if free is not None and needed > 0.9 * free:
        return None
    plain = call_in_child(
        "wholestep:run_whole_step",
        {
            "task": to_plain(task),
            "execution": to_plain(execution),
            "device": device,
            "policy": to_plain(policy),
            "hold": device == "cpu" and room_to_hold(needed),
        },
    )
    return from_plain(WorkTiming, plain)


def run_whole_step(
    task: dict[str, Any], execution: dict[str, Any], device: str, policy: dict[str, Any], hold: bool
) -> Any:
    """The child's part: build the model for real, time its steps, return a plain WorkTiming.

    `hold` keeps freed memory as the timing of segments does; not where that would take more than there is.
    """
    import torch

    from cardlab.profilers.measure.task import stopwatch_for
    from cardlab.profilers.runtime.segments import reference_work

    if hold:
        hold_freed_memory()
    how = from_plain(Execution, execution)
    torch.set_num_threads(how.threads)
    work = whole_step_work(from_plain(Task, task), how, device)
    timing = measure(
        work,
        stopwatch_for(device, how.threads),
        reference=reference_work(how.dtype, device),
        policy=from_plain(TimingPolicy, policy),
    )
    return to_plain(timing)


def whole_step_work(task: Task, execution: Execution, device: str) -> Work:
    """The unsplit model's step: embedding to loss, and back; gradients are dropped between steps."""
    from cardlab.profilers.runtime.build import build_meta, materialise_whole
    from cardlab.profilers.runtime.pieces import token_ids
    from cardlab.profilers.runtime.segments import synchronizer

    built = build_meta(task, execution)
    model = materialise_whole(built, device)
    ids = token_ids(built, device)
    loss: list[Any] = []

    def forward() -> None:
        loss.append(model(input_ids=ids, labels=ids, use_cache=False).loss)

    def backward() -> None:
        loss.pop().backward()

    def reset() -> None:
        loss.clear()
        model.zero_grad(set_to_none=True)

    laps = (Lap(phase="forward", run=forward), Lap(phase="backward", run=backward))
    return Work(segment="whole_step", laps=laps, synchronize=synchronizer(device), reset=reset)


def total_s(timing: WorkTiming) -> Estimate | None:
    """Forward plus backward, None if one of them has no value."""
    estimates = [lap.estimate for lap in timing.laps]
    values = [e.value for e in estimates if e is not None]
    return Estimate(sum(values), provenance=MEASURED) if len(values) == len(estimates) else None
