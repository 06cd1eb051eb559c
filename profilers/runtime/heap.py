"""What a process that is timed, or trains, does with the memory that it frees (board/heap.py)."""

from __future__ import annotations

from cardlab.core.records.task import Execution
from cardlab.profilers.board.heap import hold_freed_memory, map_large_blocks
from cardlab.profilers.runtime.budget import available_memory_bytes

# A heap without mapped blocks is fragmented: a whole step of llama-3.2-1b took up to 1.4 x its live bytes.
HELD_MEMORY_FACTOR = 1.5


def settle_heap(execution: Execution, needed_bytes: int, factor: float = HELD_MEMORY_FACTOR) -> None:
    """Let this process do with freed memory what profiles and runs of this execution do, from now on.

    Dense weights on a CPU: it is kept where `factor` times the live bytes have room; a model too large for that is
    computed in as little memory as possible. Quantised ones: each pass takes a weight apart and drops it, and kept,
    those blocks are split by activations that stay (a device's half of llama-3.2-1b in nf4 rose to 1,006 MiB instead of
    624), so large blocks are given back. On a GPU torch has an allocator of its own.
    """
    if execution.accelerator is not None:
        return
    if execution.quantization is not None:
        map_large_blocks()
    elif room_to_hold(needed_bytes, factor):
        hold_freed_memory()


def room_to_hold(needed_bytes: int, factor: float = HELD_MEMORY_FACTOR) -> bool:
    """Whether a process may keep what it frees when its live bytes reach `needed_bytes`."""
    free_bytes = available_memory_bytes()
    return free_bytes is not None and factor * needed_bytes < 0.9 * free_bytes
