"""Whether a process that is timed may keep the memory that it frees (board/heap.py)."""

from __future__ import annotations

from cardlab.profilers.runtime.budget import available_memory_bytes

# A heap without mapped blocks is fragmented: a whole step of llama-3.2-1b took up to 1.4 x its live bytes.
HELD_MEMORY_FACTOR = 1.5


def room_to_hold(needed_bytes: int) -> bool:
    """Whether a process may keep what it frees when its live bytes reach `needed_bytes`.

    A model too large for that is measured in as little memory as possible instead.
    """
    free_bytes = available_memory_bytes()
    return free_bytes is not None and HELD_MEMORY_FACTOR * needed_bytes < 0.9 * free_bytes
