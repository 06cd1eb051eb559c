"""Time as a device sees it: the wall, or virtual time that a simulated device advances; and what one lap took.

Nothing in a session asks the operating system for the time; it asks the device's `timer`. How one lap of work is
timed is a matter of the device too: a `LapTimer` says how long it took and whether anything disturbed it, and how
often to measure is decided in series.py.
"""

import time
from contextlib import contextmanager
from typing import ContextManager, Iterator, NamedTuple, Optional

from .protocol import Protocol
from .rules import is_clean
from .work import Lap, Work, code_of


class Timer(Protocol):
    """Monotonic time in seconds."""

    def now(self) -> float:
        """Seconds since an arbitrary start."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let at least `seconds` pass."""
        ...


class WallTimer:
    """The machine's own monotonic time."""

    def now(self) -> float:
        """Seconds of `time.perf_counter`."""
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """Block the calling thread."""
        time.sleep(seconds)


class VirtualTimer:
    """Time that passes only when told to; a sweep of hours takes milliseconds."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now(self) -> float:
        """Seconds since the start given to the constructor."""
        return self._now_s

    def sleep(self, seconds: float) -> None:
        """Let the time pass; negative values do not turn it back."""
        self._now_s += max(0.0, seconds)


class LapSample(NamedTuple):
    """One timing of one lap.

    Attributes:
        wall_s: elapsed time.
        cpu_s: CPU time of the computing threads, divided by their number; None if it has no meaning.
        involuntary_switches: how often the thread was pushed off its core; None if not counted.
    """

    wall_s: float
    cpu_s: Optional[float] = None
    involuntary_switches: Optional[int] = None

    @property
    def clean(self) -> bool:
        """Whether nothing is known to have disturbed it."""
        return is_clean(self.wall_s, self.cpu_s, self.involuntary_switches)


class LapTimer(Protocol):
    """Times laps on one device.

    One of virtual time may have a method `ahead(work, seconds)` too, which window.py asks for: the seconds of each of
    many short iterations made at once, an empty list where they are to be timed lap by lap.
    """

    def held(self) -> ContextManager[None]:
        """Conditions for a series of timings (a pinned thread); put back at the end."""
        ...

    def time(self, lap: Lap, work: Work) -> LapSample:
        """Run the lap once, wait until it has finished, and say how long it took."""
        ...


class ElapsedTimer:
    """Laps by a device's time, wall or virtual; for work that is not this process's own."""

    def __init__(self, timer: Timer) -> None:
        self._timer = timer

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing to hold."""
        yield

    def time(self, lap: Lap, work: Work) -> LapSample:
        """Time from the start of the lap until everything queued has finished."""
        run = code_of(lap, work)
        start_s = self._timer.now()
        run()
        work.synchronize()
        return LapSample(wall_s=self._timer.now() - start_s)
