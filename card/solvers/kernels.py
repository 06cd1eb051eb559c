"""The paper's closed form as a loop over devices, and how such loops are compiled.

Kernels are plain functions on the records of `cardlab.card.solvers.records`, written for numba: no object, no
allocation per device. `compiled` translates one, keeps the machine code on disk, and releases the interpreter lock so
that threads share a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import ParamSpec, TypeVar, cast

import numpy as np

from cardlab.card.problem.delay import (
    Link,
    MiniBatch,
    OncePerRound,
    air_s,
    on_air_s,
    round_seconds,
    round_terms,
    s_per_bit,
    there_and_back_s,
)
from cardlab.card.problem.energy import device_energy_j, device_joules, device_round_j
from cardlab.card.solvers.records import Cuts, Fleet, PaperAnswer, PaperModel, Rule

P = ParamSpec("P")
R = TypeVar("R")
Helper = Callable[..., object]
_MADE: dict[Helper, Helper] = {}


def compiled(function: Callable[P, R], *helpers: Helper) -> Callable[P, R]:
    """The machine code of a kernel that calls `helpers`; numba is imported here and nowhere else."""
    if function not in _MADE:
        _MADE[function] = _compiled(function, helpers)
    return cast("Callable[P, R]", _MADE[function])


def _compiled(function: Helper, helpers: tuple[Helper, ...]) -> Helper:
    from numba import njit

    for helper in helpers:
        _jitable(helper)
    stamped = _stamped(function, helpers)
    try:
        return cast("Helper", njit(nogil=True, cache=True, error_model="numpy")(stamped))
    except RuntimeError:
        # No folder to keep machine code in: compile anew in each process.
        return cast("Helper", njit(nogil=True, error_model="numpy")(stamped))


@cache
def _jitable(helper: Helper) -> None:
    """Let kernels call it; once for each, as several kernels share some."""
    from numba.extending import register_jitable

    register_jitable(helper)


def _stamped(function: Helper, helpers: tuple[Helper, ...]) -> Helper:
    """The kernel under a name that changes with the files of its helpers.

    numba looks only at a kernel's own file to see whether the machine code on disk is stale, and would go on using
    code with an old helper inlined.
    """
    files = sorted({helper.__code__.co_filename for helper in helpers if isinstance(helper, FunctionType)})
    digest = hashlib.sha256(b"".join(Path(file).read_bytes() for file in files if Path(file).exists()))
    assert isinstance(function, FunctionType)
    copy = FunctionType(function.__code__, function.__globals__, function.__name__)
    copy.__qualname__ = f"{function.__qualname__}_{digest.hexdigest()[:12]}"
    copy.__module__ = function.__module__
    return copy


def away_s(fleet: Fleet, cuts: Cuts, rule: Rule, m: int, c: int) -> float:
    """Round delay of device m at cut c without the server's compute: what the server waits."""
    each, once, link = round_parts(fleet, cuts, rule, m, c)
    return float(round_seconds(round_terms(rule.epochs, each, once, link)))


def round_parts(fleet: Fleet, cuts: Cuts, rule: Rule, m: int, c: int) -> tuple[MiniBatch, OncePerRound, Link]:
    """What the round of device m at cut c is made of, the server's compute left out."""
    codec_s = fleet.codec_s[m, c] if fleet.codec_s.shape[0] > 0 else 0.0
    handling_s = fleet.handling_s[m, c] if fleet.handling_s.shape[0] > 0 else 0.0
    each = MiniBatch(
        device_s=fleet.device_s[m, c],
        encode_s=codec_s,
        decode_s=0.0,
        server_s=0.0,
        up_bits=cuts.up_bits[c],
        down_bits=cuts.down_bits[c],
    )
    once = OncePerRound(adapter_bits=cuts.adapter_bits[c], handling_s=handling_s, switch_s=rule.switch_s)
    link = Link(uplink_bps=fleet.uplink_bps[m], downlink_bps=fleet.downlink_bps[m], latency_s=fleet.latency_s[m])
    return each, once, link


def air_of(fleet: Fleet, cuts: Cuts, rule: Rule, m: int, c: int) -> tuple[float, float]:
    """Seconds of a round that device m sends and receives at cut c."""
    each, once, link = round_parts(fleet, cuts, rule, m, c)
    up_s, down_s = on_air_s(rule.epochs, each, once, link)
    return float(up_s), float(down_s)


def own_energy_j(fleet: Fleet, rule: Rule, m: int, c: int) -> float:
    """Energy of the device's own compute in a round."""
    return float(device_energy_j(fleet.power_w[m], rule.epochs, fleet.device_s[m, c]))


# What every kernel over devices calls, for `compiled`.
ROUND = (
    away_s,
    round_parts,
    own_energy_j,
    device_energy_j,
    round_seconds,
    round_terms,
    air_s,
    s_per_bit,
    there_and_back_s,
)
# And what one calls where devices choose their frequency.
OWN_ROUND = (*ROUND, air_of, on_air_s, device_joules, device_round_j)


def energy_interval(kappa: float, static_w: float, q: float) -> tuple[float, float]:
    """Frequencies with kappa f^2 + P0/f <= q; an empty interval (1, 0) if there are none."""
    if q <= 0.0:
        return 1.0, 0.0
    u, r = q / kappa, static_w / kappa
    if r == 0.0:
        return 0.0, np.sqrt(u) * (1.0 - 1e-12)
    if 4.0 * u * u * u < 27.0 * r * r:
        return 1.0, 0.0
    angle = np.arccos(max(-1.5 * r / u * np.sqrt(3.0 / u), -1.0)) / 3.0
    radius = 2.0 * np.sqrt(u / 3.0)
    lowest, highest = radius * np.cos(angle - 2.0943951023931953), radius * np.cos(angle)
    # Newton from inside the interval takes away the error of the cosines.
    for _ in range(2):
        lowest -= (lowest * lowest * lowest - u * lowest + r) / (3.0 * lowest * lowest - u)
        highest -= (highest * highest * highest - u * highest + r) / (3.0 * highest * highest - u)
    # A hair inside, so that rounding does not break the cap.
    return lowest * (1.0 + 1e-12), highest * (1.0 - 1e-12)


def paper_batch(fleet: Fleet, cuts: Cuts, rule: Rule, server: PaperModel, out: PaperAnswer) -> None:
    """Closed form with clipping for each device."""
    devices, count = fleet.device_s.shape
    kappa, static_w, wait_w = server.kappa_w_per_hz3, server.static_w, server.wait_w
    low_hz, high_hz, spans = server.low_hz, server.high_hz, fleet.spans
    deadline, cap_j, own_cap_j = rule.deadline_s, rule.server_energy_j, rule.device_energy_j
    fixed = np.empty(count)
    # Energy per cycle g(f) = P0/f + kappa f^2 is convex: least at `bottom`, largest at an end.
    bottom = min(max(np.cbrt(static_w / (2.0 * kappa)), low_hz), high_hz) if kappa > 0.0 else low_hz
    per_low, per_high = 1.0 / low_hz, 1.0 / high_hz
    g_low = static_w / low_hz + kappa * low_hz * low_hz
    g_high = static_w / high_hz + kappa * high_hz * high_hz
    g_min, g_max = static_w / bottom + kappa * bottom * bottom, max(g_low, g_high)
    for m in range(devices):
        d_min, d_max, e_min, e_max, o_min, o_max = np.inf, -np.inf, np.inf, -np.inf, np.inf, -np.inf
        for c in range(count):
            a = away_s(fleet, cuts, rule, m, c)
            fixed[c] = a
            w = server.work[c]
            d_min = min(d_min, a + w * per_high)
            d_max = max(d_max, a + w * per_low)
            e_min = min(e_min, w * g_min + wait_w * a)
            e_max = max(e_max, w * g_max + wait_w * a)
            if rule.device_weight > 0.0:
                own = own_energy_j(fleet, rule, m, c)
                o_min, o_max = min(o_min, own), max(o_max, own)
        if spans.delay_min_s.shape[0] > 0:
            d_min, d_max = spans.delay_min_s[m], spans.delay_max_s[m]
            e_min, e_max = spans.energy_min_j[m], spans.energy_max_j[m]
            o_min, o_max = spans.device_energy_min_j[m], spans.device_energy_max_j[m]
        # Cost of a second and of a joule; a range of no width weighs nothing.
        a_d = rule.delay_weight / (d_max - d_min) if d_max > d_min else 0.0
        a_e = rule.energy_weight / (e_max - e_min) if e_max > e_min else 0.0
        a_o = rule.device_weight / (o_max - o_min) if rule.device_weight > 0.0 and o_max > o_min else 0.0
        offset = a_d * d_min + a_e * e_min + (a_o * o_min if a_o > 0.0 else 0.0)
        best_hz = high_hz
        if a_e > 0.0 and kappa > 0.0:
            best_hz = min(max(np.cbrt((a_d + a_e * static_w) / (2.0 * kappa * a_e)), low_hz), high_hz)
        one = a_d / best_hz + a_e * (static_w / best_hz + kappa * best_hz * best_hz)
        best, best_cut, best_frequency = np.inf, -1, best_hz
        for c in range(count):
            if not cuts.admitted[c] or c == fleet.excluded[m] or not fleet.fits[m, c]:
                continue
            a, w = fixed[c], server.work[c]
            if own_cap_j < np.inf and own_energy_j(fleet, rule, m, c) > own_cap_j:
                continue
            frequency, value = best_hz, w * one
            if deadline < np.inf or cap_j < np.inf or rule.highest_hz < high_hz:
                # Each limit leaves an interval of frequencies, and the cost is convex: clip the free optimum.
                low, high = low_hz, min(high_hz, rule.highest_hz)
                if deadline < np.inf:
                    if a >= deadline:
                        continue
                    needed = w / (deadline - a)
                    if needed > low:
                        low = needed * (1.0 + 1e-12)
                if cap_j < np.inf:
                    first, last = energy_interval(kappa, static_w, (cap_j - wait_w * a) / w)
                    low, high = max(low, first), min(high, last)
                if low > high:
                    continue
                frequency = min(max(best_hz, low), high)
                value = w * (a_d / frequency + a_e * (static_w / frequency + kappa * frequency * frequency))
            value += (a_d + a_e * wait_w) * a
            if a_o > 0.0:
                value += a_o * own_energy_j(fleet, rule, m, c)
            if value < best:
                best, best_cut, best_frequency = value, c, frequency
        out.cut[m], out.frequency_hz[m], out.cost[m] = best_cut, best_frequency, best - offset
