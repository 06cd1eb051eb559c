"""Which operating points, in which order.

Frequencies are visited in random order with one anchor repeated at the start, middle and end, so that a
drift of the device (heat, ageing of a battery, a fan) shows as a difference between equal points and
does not masquerade as a slope of the power curve.
"""

from __future__ import annotations

import math
import re

import numpy as np

from cardlab.core.errors import UsageError
from cardlab.core.records.measurement import PlannedPoint

DEFAULT_COUNT = 8
_FREQUENCY = re.compile(r"^(\d+(?:\.\d+)?)\s*(GHz|MHz|kHz|Hz)?$", re.IGNORECASE)
_SCALE = {"ghz": 1e9, "mhz": 1e6, "khz": 1e3, "hz": 1.0}


def choose_frequencies(offered_hz: tuple[float, ...], wanted: str) -> tuple[float, ...]:
    """The frequencies to visit, ascending, in Hz.

    Args:
        offered_hz: what the device offers, ascending; empty without frequency control.
        wanted: "all", "max", a number of frequencies ("8"), or frequencies with units ("600MHz,1.2GHz").

    Raises:
        UsageError: not one of these forms, or a frequency the device does not offer.
    """
    text = wanted.strip().lower()
    if not offered_hz:
        if text in ("all", "max") or text.isdigit():
            return ()
        raise UsageError("this device has no frequency control", remedy="leave --frequencies out")
    if text == "all":
        return offered_hz
    if text == "max":
        return (offered_hz[-1],)
    if text.isdigit():
        return spread(offered_hz, int(text))
    return tuple(sorted({_offered(offered_hz, _parse(part)) for part in wanted.split(",")}))


def spread(offered_hz: tuple[float, ...], count: int) -> tuple[float, ...]:
    """`count` frequencies: both ends and an even spread, with at least 3 above 0.6 f_max if it can be.

    The knee of the voltage curve lies at 0.6-0.85 f_max on most devices; a sweep without frequencies above
    it cannot tell one law from another.
    """
    if count < 1:
        raise UsageError("a sweep needs at least one frequency", remedy="give --frequencies a number above 0")
    if count == 1:
        return (offered_hz[-1],)
    targets = np.linspace(offered_hz[0], offered_hz[-1], min(count, len(offered_hz)))
    chosen = {_nearest(offered_hz, float(target)) for target in targets}
    high = [f for f in offered_hz if f > 0.6 * offered_hz[-1]]
    # One of them is left for the low end.
    needed = min(3, len(high), count - 1)
    while sum(f > 0.6 * offered_hz[-1] for f in chosen) < needed:
        chosen.add(next(f for f in reversed(high) if f not in chosen))
    return tuple(sorted(chosen))


def plan_points(frequencies_hz: tuple[float, ...], seed: int, anchor: bool = True) -> tuple[PlannedPoint, ...]:
    """The points in the order of visit; without frequencies one point at the frequency as found.

    From 4 frequencies on, one of them (nearest 0.7 f_max) is the anchor: first, in the middle and last.
    """
    if not frequencies_hz:
        return (PlannedPoint(index=0),)
    order = list(np.random.default_rng(seed).permutation(np.array(frequencies_hz)))
    anchors: dict[int, float] = {}
    # With fewer, three visits of one would be most of the sweep.
    if anchor and len(frequencies_hz) >= 4:
        # Well inside the range: at its ends a power limit or the lowest voltage would hide a drift.
        middle = min(frequencies_hz, key=lambda f: abs(f - 0.7 * frequencies_hz[-1]))
        order.remove(middle)
        half = math.ceil(len(order) / 2)
        order = [middle, *order[:half], middle, *order[half:], middle]
        anchors = {0: middle, half + 1: middle, len(order) - 1: middle}
    return tuple(PlannedPoint(index=i, requested_hz=float(f), anchor=i in anchors) for i, f in enumerate(order))


def _nearest(offered_hz: tuple[float, ...], wanted_hz: float) -> float:
    return min(offered_hz, key=lambda f: abs(f - wanted_hz))


def _parse(text: str) -> float:
    match = _FREQUENCY.match(text.strip())
    if match is None:
        raise UsageError(
            f"{text.strip()!r} is not a frequency", remedy="write all, max, a number of frequencies, or 600MHz,1200MHz"
        )
    return float(match[1]) * _SCALE[(match[2] or "MHz").lower()]


def _offered(offered_hz: tuple[float, ...], wanted_hz: float) -> float:
    nearest = _nearest(offered_hz, wanted_hz)
    if abs(nearest - wanted_hz) > 0.5e6:
        raise UsageError(
            f"this device does not offer {wanted_hz / 1e6:g} MHz",
            remedy=f"the nearest frequency is {nearest / 1e6:g} MHz",
        )
    return nearest
