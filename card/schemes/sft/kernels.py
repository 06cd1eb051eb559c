"""The exact shares as a loop, written for numba: see `spectrum` for the problem and its solution."""

from __future__ import annotations

import math
from typing import NamedTuple

from cardlab.card.problem.arrays import Array

_LEAST = 1e-9


class Spectrum(NamedTuple):
    """What a share of the band is worth: its width, and whether rates follow shares in a straight line."""

    width_hz: float
    linear: bool


class Way(NamedTuple):
    """One direction of one device: rate alone on the whole band, its gain g (see `spectrum`), bytes of a round."""

    alone_bps: float
    gain: float
    size_bytes: float


class Problems(NamedTuple):
    """N problems of M devices, all [N,M]: time that is not on the air, rates alone on the band, bytes of a round."""

    fixed_s: Array
    uplink_bps: Array
    downlink_bps: Array
    up_bytes: Array
    down_bytes: Array


class Shares(NamedTuple):
    """To be filled: delay of the slowest device [N], shares of the band [N,M]."""

    tau_s: Array
    share: Array


def air(share: float, spectrum: Spectrum, way: Way) -> tuple[float, float]:
    """Seconds on the air at a share of the band, and their derivative by the share."""
    if way.size_bytes <= 0.0:
        return 0.0, 0.0
    if spectrum.linear:
        seconds = 8.0 * way.size_bytes / (way.alone_bps * share)
        return seconds, -seconds / share
    ratio = way.gain / share
    # The series where 1 + ratio would lose the digits of a small ratio.
    log = ratio - 0.5 * ratio * ratio if ratio < 1e-4 else math.log(1.0 + ratio)
    rate = share * spectrum.width_hz * log / math.log(2.0)
    slope = spectrum.width_hz * (log - ratio / (1.0 + ratio)) / math.log(2.0)
    return 8.0 * way.size_bytes / rate, -8.0 * way.size_bytes * slope / (rate * rate)


def least_share(budget_s: float, spectrum: Spectrum, up: Way, down: Way) -> tuple[float, float]:
    """The smallest share that sends within the budget, and the slope there; 2 where the whole band is too little."""
    if up.size_bytes + down.size_bytes <= 0.0:
        return _LEAST, -1e300
    low, high = _LEAST, 2.0
    if air(high, spectrum, up)[0] + air(high, spectrum, down)[0] >= budget_s:
        return high, -1e300
    at = 0.2
    slope = -1.0
    for _ in range(200):
        first, first_slope = air(at, spectrum, up)
        second, second_slope = air(at, spectrum, down)
        excess, slope = first + second - budget_s, first_slope + second_slope
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


def ways(spectrum: Spectrum, problems: Problems, n: int, m: int) -> tuple[Way, Way]:
    """Up and down of device m in problem n."""
    up_bps, down_bps = problems.uplink_bps[n, m], problems.downlink_bps[n, m]
    up = Way(
        alone_bps=up_bps,
        gain=math.expm1(math.log(2.0) * up_bps / spectrum.width_hz),
        size_bytes=problems.up_bytes[n, m],
    )
    down = Way(
        alone_bps=down_bps,
        gain=math.expm1(math.log(2.0) * down_bps / spectrum.width_hz),
        size_bytes=problems.down_bytes[n, m],
    )
    return up, down


def solve_shares(spectrum: Spectrum, problems: Problems, out: Shares) -> None:
    """Fill the shares of every problem: bisection on tau, with Newton steps inside the bracket."""
    count = problems.fixed_s.shape[1]
    for n in range(problems.fixed_s.shape[0]):
        low, high, sends = 0.0, 0.0, False
        for m in range(count):
            up, down = ways(spectrum, problems, n, m)
            # Nothing is quicker than the whole band for each; equal shares are always possible.
            whole, equal = 1.0, 1.0 / count
            fixed_s = problems.fixed_s[n, m]
            low = max(low, fixed_s + air(whole, spectrum, up)[0] + air(whole, spectrum, down)[0])
            high = max(high, fixed_s + air(equal, spectrum, up)[0] + air(equal, spectrum, down)[0])
            sends = sends or up.size_bytes + down.size_bytes > 0.0
        at = high
        for step in range(200):
            total, falls = 0.0, 0.0
            for m in range(count):
                up, down = ways(spectrum, problems, n, m)
                b, slope = least_share(at - problems.fixed_s[n, m], spectrum, up, down)
                out.share[n, m] = b
                total += b
                falls += 1.0 / slope
            if total <= 1.0 + 1e-13:
                high = at
            else:
                low = at
            if not sends or abs(total - 1.0) <= 1e-13 or high - low <= 1e-14 * high:
                break
            tried = at + (1.0 - total) / falls if falls < 0.0 else low
            # Every third step halves, so that a Newton step that creeps costs no more than bisection.
            at = tried if low < tried < high and step % 3 != 2 else 0.5 * (low + high)
        total = 0.0
        for m in range(count):
            total += out.share[n, m]
        for m in range(count):
            out.share[n, m] = out.share[n, m] / total if sends else 1.0 / count
        out.tau_s[n] = high
