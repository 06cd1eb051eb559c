"""When two frequencies are one clock: what is read under load, or typed, is never quite what is offered."""

from __future__ import annotations

from collections.abc import Iterable

# Share by which they may differ. Neighbouring clocks of known devices are at least three times as far apart.
SAME_CLOCK_SHARE = 0.005


def is_same_clock(frequency_hz: float, offered_hz: float) -> bool:
    """Whether a frequency stands for the offered one; NaN stands for none."""
    return abs(frequency_hz - offered_hz) <= SAME_CLOCK_SHARE * offered_hz


def offered_as(frequency_hz: float, offered_hz: Iterable[float]) -> float | None:
    """The offered frequency that it stands for, None if it stands for none."""
    same = [hz for hz in offered_hz if is_same_clock(frequency_hz, hz)]
    return min(same, key=lambda hz: abs(hz - frequency_hz), default=None)
