"""How long power is read, and when it has settled: windows of whole sensor updates.

A window holds many updates of the slowest rail. Before it, work runs until the frequency reads what was asked and
power is steady. What runs, and how it is read, is said by whoever calls.
"""

import math
from typing import Callable, List, NamedTuple, Optional, Sequence

from .power import mean, variance
from .rules import on_request
from .timer import LapTimer, Timer
from .work import Work, as_work

# Blocks of updates show their correlation only from 16 on.
WINDOW_UPDATES = 20
SETTLE_TIMEOUT_S = 120.0
# Power is compared over 8 s: with a cooler's time constant of 10-20 s a change of 0.1 % in 8 s leaves 0.1-0.2 %
# to come, where 0.25 % in 4 s left 0.6-1 %.
SETTLE_HALF_S = 8.0
SETTLE_SHARE = 0.001
SETTLE_WINDOW_S = 1.0
SETTLE_MOST_WINDOWS = 15
STATE_INTERVAL_S = 0.05
# Long against waking up, so that waiting really is rest.
WAIT_S = 0.25
# A card needs seconds to let its clocks fall once the load has gone.
IDLE_S = 10.0


class WindowReading(NamedTuple):
    """What one window said: mean frequency and mean power of the whole, None where they cannot be read."""

    frequency_hz: Optional[float]
    power_w: Optional[float]


def window_s(update_s: Optional[float], least_s: float) -> float:
    """Length of a power window: many whole updates of the slowest rail; 0 without a meter (update_s None)."""
    if update_s is None:
        return 0.0
    # Two more, because a window begins and ends in the middle of an update.
    return max(least_s, (WINDOW_UPDATES + 2) * update_s)


def idle_window_s(update_s: Optional[float], least_s: float) -> float:
    """Length of the window in which nothing runs and no frequency is held."""
    return max(IDLE_S, window_s(update_s, least_s))


def settle_window_s(update_s: Optional[float]) -> float:
    """Length of one window while waiting for power to settle: two updates of a slow rail; 0 without a meter."""
    return 0.0 if update_s is None else max(SETTLE_WINDOW_S, 2.0 * update_s)


def half_windows(window_s: float) -> int:
    """Windows in each of the two stretches that are compared while power settles."""
    return max(2, math.ceil(SETTLE_HALF_S / window_s)) if window_s > 0 else 2


def power_steady(powers_w: Sequence[float], half: int) -> bool:
    """Whether the last `half` windows agree with those before them, to 0.1 % or to their own scatter."""
    if len(powers_w) < 2 * half:
        return False
    late, early = powers_w[-half:], powers_w[-2 * half : -half]
    scatter_w = math.sqrt((variance(late) + variance(early)) / half)
    return abs(mean(late) - mean(early)) <= max(SETTLE_SHARE * mean(early), 1.5 * scatter_w)


def settle(
    read: Callable[[float], WindowReading], timer: Timer, update_s: Optional[float], requested_hz: Optional[float]
) -> None:
    """Run work until the frequency under load is the requested one and power is steady.

    Power is steady when the mean of the last 8 s (two windows at least) is within 0.1 % of the 8 s before,
    or within what the windows' own scatter allows: heat approaches its balance so slowly (tens of seconds)
    that one window never differs much from the next. Gives up silently after 120 s of the device's time, or
    15 windows of a slow sensor: the operating point says what was reached.

    Args:
        read: runs the work for a window of so many seconds and says what it read.
        update_s: updates of the slowest rail, None without a meter.
    """
    length_s = settle_window_s(update_s)
    deadline_s = timer.now() + max(SETTLE_TIMEOUT_S, SETTLE_MOST_WINDOWS * length_s)
    steady = 0
    powers_w: List[float] = []
    # Three windows in a row: a frequency that is only passed on the way counts once.
    while timer.now() < deadline_s and (steady < 3 or not power_steady(powers_w, half_windows(length_s))):
        reading = read(length_s)
        steady = steady + 1 if on_request(reading.frequency_hz, requested_hz) else 0
        if steady == 0:
            # Powers at another frequency are no evidence.
            powers_w.clear()
        elif reading.power_w is not None:
            powers_w.append(reading.power_w)
        elif steady >= 3:
            return


def iterate(
    work: Work, lap_timer: LapTimer, timer: Timer, until_s: float, look: Optional[Callable[[], object]] = None
) -> List[float]:
    """Iterations (at least one) until the device's time passes `until_s`; seconds of each.

    Args:
        look: reads the device's state now and then while the work runs, and at the end.
    """
    times_s = []  # type: List[float]
    look_s = timer.now()
    # In virtual time many short iterations can be had at once.
    ahead = getattr(lap_timer, "ahead", None)
    while True:
        many_s = [] if ahead is None else ahead(work, until_s - timer.now())
        times_s.extend(many_s or [sum([lap_timer.time(lap, work).wall_s for lap in work.laps])])
        work.reset()
        now_s = timer.now()
        if look is not None and (now_s >= look_s or now_s >= until_s):
            # Reading the sensors takes time itself: not after every short iteration.
            look()
            look_s = now_s + STATE_INTERVAL_S
        if now_s >= until_s:
            return times_s


def waiting(timer: Timer) -> Work:
    """Work that is none: the device rests."""
    return as_work(lambda: timer.sleep(WAIT_S))
