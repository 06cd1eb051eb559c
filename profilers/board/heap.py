"""What the C library does with freed memory while something is timed on a CPU.

glibc hands large freed blocks back to the system, and the next iteration pays for fresh pages again. What a
fresh page costs depends on the machine's past (on a virtual machine that reports free pages to its host,
160,000 of them cost 0.26 s or 0.67 s), so the same step differed by 6 % from run to run, and segments that
were timed one by one came out 3-4 % short of the whole. Kept memory makes both the same steady state, as the
caching allocator does on a GPU; the price is a larger resident size of the process that measures.
"""

import ctypes
from typing import Optional

# mallopt(3) of glibc: no block is handed back to the system, and none is mapped on its own.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1
# From this size on a block is mapped on its own, and no longer from sizes that follow what was freed.
_M_MMAP_THRESHOLD, _MAPPED_BYTES = -3, 2**20


def hold_freed_memory() -> bool:
    """Keep freed memory in this process from now on; False where the C library has no such switch."""
    libc = _glibc()
    if libc is None:
        return False
    return bool(libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)) and bool(libc.mallopt(_M_MMAP_MAX, 0))


def map_large_blocks() -> bool:
    """Let large blocks go back to the system as soon as they are freed; False where there is no such switch.

    For work that takes large blocks between small ones that stay: in one heap those would hold the pages of both.
    """
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES))


def give_back_freed_memory() -> None:
    """Return what is free now to the system, so that the next piece of work has room."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> Optional[ctypes.CDLL]:
    """The running C library if it is glibc, else None."""
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt") else None
