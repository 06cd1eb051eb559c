"""Whether a process that is timed may keep the memory that it frees (board/heap.py)."""

from __future__ import annotations

from cardlab.core.records.task import Execution
from cardlab.profilers.runtime.budget import available_memory_bytes

# A heap without mapped blocks is fragmented: a whole step of llama-3.2-1b took up to 1.4 x its live bytes.
HELD_MEMORY_FACTOR = 1.5


def gains_by_holding(execution: Execution) -> bool:
    """Whether kept memory is worth its room: on a CPU, with dense weights.

    Each pass over quantised weights takes one apart and drops it. Kept, such blocks are split by activations that stay:
    a device's half of llama-3.2-1b in nf4 rose to 1,006 MiB instead of 676. Fresh pages cost little beside a product.
    """
    return execution.accelerator is None and execution.quantization is None


def room_to_hold(needed_bytes: int, execution: Execution) -> bool:
    """Whether a process gains by keeping what it frees, and may when its live bytes reach `needed_bytes`.

    A model too large for that is measured in as little memory as possible instead.
    """
    if not gains_by_holding(execution):
        return False
    free_bytes = available_memory_bytes()
    return free_bytes is not None and HELD_MEMORY_FACTOR * needed_bytes < 0.9 * free_bytes
