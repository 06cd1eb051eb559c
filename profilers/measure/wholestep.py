"""A real training step of the whole model, timed in a process of its own, to hold the segments against."""

from __future__ import annotations

from typing import Any

from cardlab.core.errors import OutOfMemoryError, ProfileError
from cardlab.core.plain import from_plain, to_plain
from cardlab.core.records.task import Execution, Task
from cardlab.profilers.board.series import TimingPolicy
from cardlab.profilers.measure.deadline import Deadline
from cardlab.profilers.measure.samples import WorkTiming
from cardlab.profilers.measure.timing import TimingTools, time_work
from cardlab.profilers.runtime.budget import available_memory_bytes
from cardlab.profilers.runtime.child import call_in_child
from cardlab.profilers.runtime.heap import settle_heap
from cardlab.profilers.runtime.runtime import TorchRuntime
from cardlab.profilers.runtime.wholestep import whole_step_bytes, whole_step_work
from cardlab.profilers.runtime.workbench import Workload

# A step lasts as long as all segments together, so it gets fewer samples.
WHOLE_STEP_POLICY = TimingPolicy(warmups=2, min_samples=5, max_samples=12, patience_s=30.0)


def time_whole_step(
    workload: Workload,
    torch_device: str | None,
    policy: TimingPolicy = WHOLE_STEP_POLICY,
    deadline: Deadline | None = None,
) -> WorkTiming | None:
    """Forward and backward time of a real step.

    None for a load (it has no parts to be held against), where nothing is really run (the physics would only repeat
    the sum of its segments), and where the model does not fit in the free memory.
    Raises OutOfMemoryError or ProfileError when the child process fails, BudgetSpent where the deadline comes first.
    """
    if workload.task is None or workload.analysis is None or torch_device is None:
        return None
    needed = whole_step_bytes(workload.task, workload.analysis)
    free = available_memory_bytes() if torch_device == "cpu" else None
    # A tenth stays free: short of memory the kernel may end this process instead of the child.
    if free is not None and needed > 0.9 * free:
        return None
    left_s = None if deadline is None else deadline.left_s()
    if deadline is not None:
        deadline.hold(0.0)
    try:
        plain = call_in_child(
            "measure.wholestep:run_whole_step",
            {
                "task": to_plain(workload.task),
                "execution": to_plain(workload.execution),
                "device": torch_device,
                "policy": policy._asdict(),
                "needed_bytes": needed,
            },
            timeout_s=left_s,
        )
    except OutOfMemoryError:
        raise
    except ProfileError:
        if deadline is not None:
            deadline.hold(0.0)
        raise
    return from_plain(WorkTiming, plain)


def run_whole_step(task: object, execution: object, device: str, policy: dict[str, Any], needed_bytes: int) -> object:
    """The child's part: build the model for real, time its steps, return a plain WorkTiming.

    `needed_bytes` are its live ones, by which freed memory is kept or not, as where segments are timed.
    """
    import torch

    from cardlab.profilers.runtime.segments import reference_work

    how = from_plain(Execution, execution)
    settle_heap(how, needed_bytes)
    torch.set_num_threads(how.threads)
    work = whole_step_work(from_plain(Task, task), how, device)
    tools = TimingTools(lap_timer=TorchRuntime(device).lap_timer(how.threads), policy=TimingPolicy(**policy))
    return to_plain(time_work(work, tools, reference=reference_work(how.dtype, device)))
