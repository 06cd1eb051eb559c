"""The exact shares as a loop, written for numba: see `spectrum` for the problem and its solution."""

from __future__ import annotations

import math
from typing import Any

Array = Any
_LEAST = 1e-9


def air(share: float, width: float, linear: bool, alone: float, gain: float, size: float) -> tuple[float, float]:
    """Seconds that `size` bytes take at a share of the band, and their derivative by the share."""
    if size <= 0.0:
        return 0.0, 0.0
    if linear:
        seconds = 8.0 * size / (alone * share)
        return seconds, -seconds / share
    ratio = gain / share
    log = ratio - 0.5 * ratio * ratio if ratio < 1e-4 else math.log(1.0 + ratio)
    rate = share * width * log / math.log(2.0)
    slope = width * (log - ratio / (1.0 + ratio)) / math.log(2.0)
    return 8.0 * size / rate, -8.0 * size * slope / (rate * rate)


def least_share(
    budget: float,
    width: float,
    linear: bool,
    up: float,
    up_gain: float,
    u: float,
    down: float,
    down_gain: float,
    d: float,
) -> tuple[float, float]:
    """The smallest share that sends within the budget, and the slope there; 2 where the whole band is too little."""
    if u + d <= 0.0:
        return _LEAST, -1e300
    low, high = _LEAST, 2.0
    if air(high, width, linear, up, up_gain, u)[0] + air(high, width, linear, down, down_gain, d)[0] >= budget:
        return high, -1e300
    at = 0.2
    slope = -1.0
    for _ in range(200):
        first, first_slope = air(at, width, linear, up, up_gain, u)
        second, second_slope = air(at, width, linear, down, down_gain, d)
        excess, slope = first + second - budget, first_slope + second_slope
        if excess > 0.0:
            low = at
        else:
            high = at
        # In 1/share the time is nearly straight.
        tried = 1.0 / at + excess / (slope * at * at)
        following = 1.0 / tried if tried > 0.0 else 2.0
        if not low < following < high:
            following = 0.5 * (low + high)
        if abs(following - at) <= 1e-14 * at:
            break
        at = following
    return at, slope


def solve_shares(
    width: float, linear: bool, fixed: Array, up: Array, down: Array, u: Array, d: Array, tau: Array, share: Array
) -> None:
    """Fill tau [N] and share [N,M] of N problems: fixed times, rates alone on the band and bytes, all [N,M]."""
    count = fixed.shape[1]
    for n in range(fixed.shape[0]):
        low, high, sends = 0.0, 0.0, False
        for m in range(count):
            up_gain = math.expm1(math.log(2.0) * up[n, m] / width)
            down_gain = math.expm1(math.log(2.0) * down[n, m] / width)
            for whole in (True, False):
                b = 1.0 if whole else 1.0 / count
                seconds = fixed[n, m] + air(b, width, linear, up[n, m], up_gain, u[n, m])[0]
                seconds += air(b, width, linear, down[n, m], down_gain, d[n, m])[0]
                if whole:
                    low = max(low, seconds)
                else:
                    high = max(high, seconds)
            sends = sends or u[n, m] + d[n, m] > 0.0
        at = high
        for step in range(200):
            total, falls = 0.0, 0.0
            for m in range(count):
                up_gain = math.expm1(math.log(2.0) * up[n, m] / width)
                down_gain = math.expm1(math.log(2.0) * down[n, m] / width)
                b, slope = least_share(
                    at - fixed[n, m], width, linear, up[n, m], up_gain, u[n, m], down[n, m], down_gain, d[n, m]
                )
                share[n, m] = b
                total += b
                falls += 1.0 / slope
            if total <= 1.0 + 1e-13:
                high = at
            else:
                low = at
            if not sends or abs(total - 1.0) <= 1e-13 or high - low <= 1e-14 * high:
                break
            tried = at + (1.0 - total) / falls if falls < 0.0 else low
            at = tried if low < tried < high and step % 3 != 2 else 0.5 * (low + high)
        total = 0.0
        for m in range(count):
            total += share[n, m]
        for m in range(count):
            share[n, m] = share[n, m] / total if sends else 1.0 / count
        tau[n] = high
