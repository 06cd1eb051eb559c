"""Resident memory of the framework itself: what a process holds before any weight is there."""

from __future__ import annotations

from pathlib import Path

from cardlab.core.plain import from_plain, to_plain
from cardlab.core.records.task import Execution
from cardlab.profilers.runtime.child import call_in_child


def measure_overhead(execution: Execution, device: str = "cpu") -> int:
    """Bytes held by a fresh process that imported everything and computed once.

    On a CPU its resident set; on CUDA the device memory of its context.
    """
    plain = call_in_child("runtime.overhead:run_overhead", {"execution": to_plain(execution), "device": device})
    return int(plain["overhead_bytes"])


def run_overhead(execution: object, device: str) -> dict[str, int]:
    """The child's part: imports, one small step on the device, and a look at the memory."""
    return {"overhead_bytes": warm_framework(from_plain(Execution, execution), device)}


def warm_framework(execution: Execution, device: str) -> int:
    """Import and initialise everything a step needs; bytes held after it."""
    import torch

    from cardlab.profilers.runtime.tasks import resolve_task
    from cardlab.profilers.runtime.wholestep import whole_step_work

    torch.set_num_threads(execution.threads)
    if device.startswith("cuda"):
        free_before, _ = torch.cuda.mem_get_info(device)
    # A whole step loads every library; the model is too small to matter.
    whole_step_work(resolve_task("tiny-llama", sequence=32), execution, device).run_once()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        # What the step left in the allocator is no part of the context.
        torch.cuda.empty_cache()
        return int(free_before - torch.cuda.mem_get_info(device)[0])
    return resident_bytes()


def resident_bytes() -> int:
    """Resident set of this process now (VmRSS)."""
    return _status_bytes("VmRSS")


def peak_resident_bytes() -> int:
    """Highest resident set of this process so far (VmHWM)."""
    return _status_bytes("VmHWM")


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")
