"""The paper's closed form as a loop over devices, and how such loops are compiled.

Kernels are plain functions on arrays, written for numba: no object, no allocation per device. `compiled`
translates one, keeps the machine code on disk, and releases the interpreter lock so that threads share a
batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np


@cache
def compiled(function: Callable[..., Any], *helpers: Callable[..., Any]) -> Callable[..., Any]:
    """The machine code of a kernel that calls `helpers`; numba is imported here and nowhere else."""
    from numba import njit
    from numba.extending import register_jitable

    for helper in helpers:
        register_jitable(helper)
    made: Callable[..., Any]
    try:
        made = njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:
        # No folder to keep machine code in: compile anew in each process.
        made = njit(nogil=True, error_model="numpy")(function)
    return made


def energy_interval(kappa: float, static_w: float, q: float) -> tuple[float, float]:
    """Clocks with kappa f^2 + P0/f <= q; an empty interval (1, 0) if there are none."""
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
    return lowest * (1.0 + 1e-12), highest * (1.0 - 1e-12)


def paper_batch(
    device_s: Any,
    codec_s: Any,
    epochs: float,
    up_bits: Any,
    down_bits: Any,
    adapter_bits: Any,
    switch_s: float,
    uplink: Any,
    downlink: Any,
    work: Any,
    model: Any,
    weights: Any,
    admitted: Any,
    need: Any,
    room: Any,
    device_w: Any,
    limits: Any,
    extents: Any,
    out_cut: Any,
    out_clock: Any,
    out_cost: Any,
) -> None:
    """Closed form with clipping for each device; see `cardlab.card.solvers.batch` for the arrays."""
    devices, cuts = device_s.shape
    kappa, static_w, wait_w, low_hz, high_hz = model[0], model[1], model[2], model[3], model[4]
    wd, we, wo = weights[0], weights[1], weights[2]
    deadline, cap_j, own_cap_j = limits[0], limits[1], limits[2]
    fixed = np.empty(cuts)
    bottom = min(max(np.cbrt(static_w / (2.0 * kappa)), low_hz), high_hz) if kappa > 0.0 else low_hz
    per_low, per_high = 1.0 / low_hz, 1.0 / high_hz
    g_low = static_w / low_hz + kappa * low_hz * low_hz
    g_high = static_w / high_hz + kappa * high_hz * high_hz
    g_min, g_max = static_w / bottom + kappa * bottom * bottom, max(g_low, g_high)
    for m in range(devices):
        iu, id_ = 1.0 / uplink[m], 1.0 / downlink[m]
        d_min, d_max, e_min, e_max, o_min, o_max = np.inf, -np.inf, np.inf, -np.inf, np.inf, -np.inf
        for c in range(cuts):
            a = epochs * (device_s[m, c] + up_bits[c] * iu + down_bits[c] * id_) + adapter_bits[c] * (iu + id_)
            a += switch_s
            if codec_s.shape[0] > 0:
                a += epochs * codec_s[m, c]
            fixed[c] = a
            w = work[c]
            d_min = min(d_min, a + w * per_high)
            d_max = max(d_max, a + w * per_low)
            e_min = min(e_min, w * g_min + wait_w * a)
            e_max = max(e_max, w * g_max + wait_w * a)
            if wo > 0.0:
                own = device_w[m] * epochs * device_s[m, c]
                o_min, o_max = min(o_min, own), max(o_max, own)
        if extents.shape[0] > 0:
            d_min, d_max, e_min, e_max = extents[m, 0], extents[m, 1], extents[m, 2], extents[m, 3]
            o_min, o_max = extents[m, 4], extents[m, 5]
        a_d = wd / (d_max - d_min) if d_max > d_min else 0.0
        a_e = we / (e_max - e_min) if e_max > e_min else 0.0
        a_o = wo / (o_max - o_min) if wo > 0.0 and o_max > o_min else 0.0
        offset = a_d * d_min + a_e * e_min + (a_o * o_min if a_o > 0.0 else 0.0)
        best_hz = high_hz
        if a_e > 0.0 and kappa > 0.0:
            best_hz = min(max(np.cbrt((a_d + a_e * static_w) / (2.0 * kappa * a_e)), low_hz), high_hz)
        one = a_d / best_hz + a_e * (static_w / best_hz + kappa * best_hz * best_hz)
        best, best_cut, best_clock = np.inf, -1, best_hz
        for c in range(cuts):
            if not admitted[c] or need[c] > room[m]:
                continue
            a, w = fixed[c], work[c]
            if own_cap_j < np.inf and device_w[m] * epochs * device_s[m, c] > own_cap_j:
                continue
            clock, value = best_hz, w * one
            if deadline < np.inf or cap_j < np.inf or limits[3] < high_hz:
                low, high = low_hz, min(high_hz, limits[3])
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
                clock = min(max(best_hz, low), high)
                value = w * (a_d / clock + a_e * (static_w / clock + kappa * clock * clock))
            value += (a_d + a_e * wait_w) * a
            if a_o > 0.0:
                value += a_o * device_w[m] * epochs * device_s[m, c]
            if value < best:
                best, best_cut, best_clock = value, c, clock
        out_cut[m], out_clock[m], out_cost[m] = best_cut, best_clock, best - offset
