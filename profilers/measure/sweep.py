"""Which operating points, in which order: what was asked for, as planned points.

How a number of frequencies is spread and where the anchor stands is said in board/frequencies.py, which the agent
follows too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from cardlab.core.errors import UsageError
from cardlab.core.records.measurement import PlannedPoint
from cardlab.profilers.board.frequencies import Visit, nearest, spread, with_anchor

DEFAULT_COUNT = 8
_FREQUENCY = re.compile(r"^(\d+(?:\.\d+)?)\s*(GHz|MHz|kHz|Hz)?$", re.ASCII | re.IGNORECASE)
_SCALE = {"ghz": 1e9, "mhz": 1e6, "khz": 1e3, "hz": 1.0}


def choose_frequencies(offered_hz: tuple[float, ...], wanted: str) -> tuple[float, ...]:
    """The frequencies to visit, ascending, in Hz.

    Args:
        offered_hz: what the device offers, ascending; empty without frequency control.
        wanted: "all", "max", a number of frequencies ("8"), or frequencies with units ("600MHz,1.2GHz").

    Raises:
        UsageError: not one of these forms, more frequencies than the device offers, or one that it does not.
    """
    text = wanted.strip().lower()
    if not offered_hz:
        if text in ("all", "max") or _is_count(text):
            return ()
        raise UsageError("this device has no frequency control", remedy="leave --frequencies out")
    if text == "all":
        return offered_hz
    if text == "max":
        return (offered_hz[-1],)
    if _is_count(text):
        if int(text) < 1:
            raise UsageError("a sweep needs at least one frequency", remedy="give --frequencies a number above 0")
        count = int(text)
        # The usual number is nobody's wish: a device with fewer shows all it has.
        if count > len(offered_hz) and count != DEFAULT_COUNT:
            raise UsageError(
                f"--frequencies {text} is a number of frequencies, and this device offers {len(offered_hz)}",
                remedy=f"write {text}MHz for a frequency, or --frequencies all",
            )
        return spread(offered_hz, count)
    return tuple(sorted({_offered(offered_hz, _parse(part)) for part in wanted.split(",")}))


def choose_memory_frequencies(offered_hz: tuple[float, ...], wanted: str | None) -> tuple[float, ...]:
    """The memory frequencies to visit, ascending, in Hz; () where none was asked for.

    Raises UsageError for a device that cannot hold them, and for one that it does not offer.
    """
    if wanted is None:
        return ()
    if not offered_hz:
        raise UsageError(
            "the memory frequency of this device cannot be held",
            remedy="leave --memory-frequencies out, or see what is lacking: profile-device doctor",
        )
    if wanted.strip().lower() == "all":
        return offered_hz
    return tuple(sorted({_offered(offered_hz, _parse(part)) for part in wanted.split(",")}))


def plan_memory_points(frequencies_hz: Mapping[float, tuple[float, ...]], seed: int) -> tuple[PlannedPoint, ...]:
    """A whole sweep, with its anchor, at each memory frequency: both in Hz, compute frequencies by memory frequency."""
    planned: list[PlannedPoint] = []
    for memory_hz, compute_hz in frequencies_hz.items():
        for point in plan_points(compute_hz, seed):
            planned.append(replace(point, index=len(planned), memory_hz=memory_hz))
    return tuple(planned)


def plan_points(frequencies_hz: tuple[float, ...], seed: int, anchor: bool = True) -> tuple[PlannedPoint, ...]:
    """The points in the order of visit; without frequencies one point at the frequency as found.

    From 4 frequencies on, one of them is the anchor: first, in the middle and last.
    """
    if not frequencies_hz:
        return (PlannedPoint(index=0),)
    order = np.random.default_rng(seed).permutation(np.array(frequencies_hz)).tolist()
    visits = with_anchor(order) if anchor else tuple(Visit(hz, False) for hz in order)
    return tuple(PlannedPoint(index=i, requested_hz=v.frequency_hz, anchor=v.anchor) for i, v in enumerate(visits))


def _is_count(text: str) -> bool:
    # Python takes the digits of every script, and a superscript, for digits.
    return text.isascii() and text.isdigit()


def _parse(text: str) -> float:
    match = _FREQUENCY.match(text.strip())
    if match is None:
        raise UsageError(
            f"{text.strip()!r} is not a frequency", remedy="write all, max, a number of frequencies, or 600MHz,1200MHz"
        )
    return float(match[1]) * _SCALE[(match[2] or "MHz").lower()]


def _offered(offered_hz: tuple[float, ...], wanted_hz: float) -> float:
    found_hz = nearest(offered_hz, wanted_hz)
    if abs(found_hz - wanted_hz) > 0.5e6:
        raise UsageError(
            f"this device does not offer {wanted_hz / 1e6:g} MHz",
            remedy=f"the nearest frequency is {found_hz / 1e6:g} MHz",
        )
    return found_hz
