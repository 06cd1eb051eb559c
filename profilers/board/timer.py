"""Time as a platform sees it: the wall, or a virtual clock that a simulated device advances.

Nothing in a session asks the operating system for the time; it asks `platform.clock`.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock in seconds."""

    def now(self) -> float:
        """Seconds since an arbitrary start."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let at least `seconds` pass."""
        ...


class WallClock:
    """The machine's own monotonic clock."""

    def now(self) -> float:
        """Seconds of `time.perf_counter`."""
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """Block the calling thread."""
        time.sleep(seconds)


class VirtualClock:
    """A clock that moves only when told to; a sweep of hours takes milliseconds."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now(self) -> float:
        """Seconds since the start given to the constructor."""
        return self._now_s

    def sleep(self, seconds: float) -> None:
        """Advance the clock; negative values do not turn it back."""
        self._now_s += max(0.0, seconds)
