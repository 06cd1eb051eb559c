"""What the C library does with freed memory while something is timed on a CPU.

glibc hands large freed blocks back to the system, and the next iteration pays for fresh pages again. What a
fresh page costs depends on the machine's past (on a virtual machine that reports free pages to its host,
160,000 of them cost 0.26 s or 0.67 s), so the same step differed by 6 % from run to run, and segments that
were timed one by one came out 3-4 % short of the whole. Kept memory makes both the same steady state, as the
caching allocator does on a GPU; the price is a larger resident size of the process that measures.
"""

from __future__ import annotations

import ctypes
from functools import cache

from cardlab.profilers.runtime.budget import available_memory_bytes

# mallopt(3) of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1

# A heap without mapped blocks is fragmented: a whole step of llama-3.2-1b took up to 1.4 x its live bytes.
HELD_MEMORY_FACTOR = 1.5


def room_to_hold(needed_bytes: int) -> bool:
    """Whether a process may keep what it frees when its live bytes reach `needed_bytes`.

    A model too large for that is measured in as little memory as possible instead.
    """
    free_bytes = available_memory_bytes()
    return free_bytes is not None and HELD_MEMORY_FACTOR * needed_bytes < 0.9 * free_bytes


def hold_freed_memory() -> bool:
    """Keep freed memory in this process from now on; False where the C library has no such switch."""
    libc = _glibc()
    if libc is None:
        return False
    return bool(libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)) and bool(libc.mallopt(_M_MMAP_MAX, 0))


def give_back_freed_memory() -> None:
    """Return what is free now to the system, so that the next piece of work has room."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    """The running C library if it is glibc, else None."""
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt") else None
