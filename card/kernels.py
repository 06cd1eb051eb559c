"""The loops of the batch solver, written for numba and compiled when a batch is first solved.

They are plain functions on arrays: no object, no allocation per device. `compiled` translates one, keeps
the machine code on disk, and releases the interpreter lock so that threads share a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The machine code of a kernel; numba is imported here and nowhere else."""
    from numba import njit
    from numba.extending import register_jitable

    for helper in (hull_vertex, prefix_minimum, admitted_points, energy_interval):
        if helper is not function:
            register_jitable(helper)
    made: Callable[..., Any] = njit(nogil=True, cache=True, error_model="numpy")(function)
    return made


def chains(
    count: Any, server_s: Any, energy_j: Any, below: Any, hull_size: Any, hull: Any, slope: Any
) -> None:
    """Lower hulls of all prefixes (HullTable) of points sorted by server_s."""
    levels, cuts, _ = energy_j.shape
    for k in range(levels):
        for c in range(cuts):
            size = 0
            for i in range(count[c]):
                x, y = server_s[c, i], energy_j[k, c, i]
                while size > 0:
                    p = hull[k, c, size - 1]
                    if size == 1:
                        # A point straight above a lower one never wins; equal x keeps the lower.
                        if server_s[c, p] == x and energy_j[k, c, p] >= y:
                            size -= 1
                            continue
                        break
                    o = hull[k, c, size - 2]
                    cross = (server_s[c, p] - server_s[c, o]) * (y - energy_j[k, c, o]) - (
                        energy_j[k, c, p] - energy_j[k, c, o]
                    ) * (x - server_s[c, o])
                    if cross > 0.0:
                        break
                    size -= 1
                below[k, c, i] = hull[k, c, size - 1] if size > 0 else -1
                hull[k, c, size] = i
                size += 1
            hull_size[k, c] = size
            for j in range(size - 1):
                i, p = hull[k, c, j], hull[k, c, j + 1]
                dx = server_s[c, p] - server_s[c, i]
                slope[k, c, j] = (energy_j[k, c, p] - energy_j[k, c, i]) / dx if dx > 0.0 else np.inf


def hull_vertex(steepness: float, guess: int, size: int, slope: Any) -> int:
    """Position on a hull where its slope passes -steepness; walks from a guess, as neighbours agree."""
    j = min(guess, size - 1)
    while j < size - 1 and slope[j] < -steepness:
        j += 1
    while j > 0 and slope[j - 1] >= -steepness:
        j -= 1
    return j


def prefix_minimum(a: float, e: float, admitted: int, server_s: Any, energy_j: Any, below: Any) -> int:
    """Index of the point that minimises a S + e Y among the first `admitted` of one cut."""
    i = admitted - 1
    while below[i] >= 0:
        j = below[i]
        if a * (server_s[i] - server_s[j]) + e * (energy_j[i] - energy_j[j]) < 0.0:
            break
        i = j
    return int(i)


def admitted_points(left_s: float, guess: int, count: int, server_s: Any) -> int:
    """How many of the sorted points take at most left_s."""
    n = min(guess, count)
    while n < count and server_s[n] <= left_s:
        n += 1
    while n > 0 and server_s[n - 1] > left_s:
        n -= 1
    return n


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
    device_s: Any, codec_s: Any, epochs: float, up_bits: Any, down_bits: Any, adapter_bits: Any, switch_s: float,
    uplink: Any, downlink: Any, work: Any, model: Any, weights: Any, admitted: Any, need: Any, room: Any, device_w: Any,
    limits: Any, extents: Any, out_cut: Any, out_clock: Any, out_cost: Any,
) -> None:  # fmt: skip
    """Closed form with clipping for each device; see `cardlab.card.batch` for the arrays."""
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


def table_batch(
    device_s: Any, codec_s: Any, epochs: float, up_bits: Any, down_bits: Any, adapter_bits: Any, switch_s: float,
    uplink: Any, downlink: Any, count: Any, server_s: Any, busy_j: Any, wait_w: Any, level_s: Any, energy_j: Any, below: Any,
    hull_size: Any, hull: Any, slope: Any, lines: Any, envelopes: Any, span_s: Any, weights: Any, admitted: Any, need: Any, room: Any,
    device_w: Any, limits: Any, extents: Any, out_cut: Any, out_clock: Any, out_cost: Any,
) -> None:  # fmt: skip
    """Bound every cut by its hull, then settle cuts in the order of their bounds until none can win."""
    devices, cuts = device_s.shape
    levels = level_s.size
    wd, we, wo = weights[0], weights[1], weights[2]
    deadline, cap_j, own_cap_j = limits[0], limits[1], limits[2]
    fixed, extra, bound = np.empty(cuts), np.empty(cuts), np.empty(cuts)
    vertex, prefix = np.empty(cuts, np.int64), np.empty(cuts, np.int64)
    for m in range(devices):
        iu, id_ = 1.0 / uplink[m], 1.0 / downlink[m]
        d_min, d_max, e_min, e_max, o_min, o_max = np.inf, -np.inf, np.inf, -np.inf, np.inf, -np.inf
        ranged = extents.shape[0] == 0
        for c in range(cuts):
            a = epochs * (device_s[m, c] + up_bits[c] * iu + down_bits[c] * id_) + adapter_bits[c] * (iu + id_)
            a += switch_s
            if codec_s.shape[0] > 0:
                a += epochs * codec_s[m, c]
            fixed[c] = a
            own = device_w[m] * epochs * device_s[m, c] if wo > 0.0 or own_cap_j < np.inf else 0.0
            extra[c] = own
            if ranged:
                d_min, d_max = min(d_min, a + span_s[c, 0]), max(d_max, a + span_s[c, 1])
                if wo > 0.0:
                    o_min, o_max = min(o_min, own), max(o_max, own)
                if we > 0.0:
                    least, most = np.inf, -np.inf
                    for j in range(lines[0, c]):
                        least = min(least, envelopes[0, c, j, 0] + a * envelopes[0, c, j, 1])
                    for j in range(lines[1, c]):
                        most = max(most, envelopes[1, c, j, 0] + a * envelopes[1, c, j, 1])
                    e_min, e_max = min(e_min, least), max(e_max, most)
        if not ranged:
            d_min, d_max, e_min, e_max = extents[m, 0], extents[m, 1], extents[m, 2], extents[m, 3]
            o_min, o_max = extents[m, 4], extents[m, 5]
        a_d = wd / (d_max - d_min) if d_max > d_min else 0.0
        a_e = we / (e_max - e_min) if e_max > e_min else 0.0
        a_o = wo / (o_max - o_min) if wo > 0.0 and o_max > o_min else 0.0
        steep = a_d / a_e if a_e > 0.0 else np.inf
        near, last_n, k = 0, server_s.shape[1], 0
        best, best_cut, best_point = np.inf, -1, -1
        for c in range(cuts):
            bound[c] = np.inf
            n = count[c]
            if not admitted[c] or need[c] > room[m] or n == 0 or extra[c] > own_cap_j:
                continue
            a = fixed[c]
            if a + server_s[c, n - 1] > deadline:
                n = admitted_points(deadline - a, last_n, n, server_s[c])
                last_n = n
                if n == 0:
                    continue
            prefix[c] = n
            whole = n == count[c]
            if levels == 1:
                if whole:
                    near = hull_vertex(steep, near, hull_size[0, c], slope[0, c])
                    i = hull[0, c, near]
                else:
                    i = prefix_minimum(a_d, a_e, n, server_s[c], energy_j[0, c], below[0, c])
                vertex[c] = i
                value = a_d * server_s[c, i] + a_e * (busy_j[c, i] + a * wait_w[c, i])
            else:
                while k < levels - 2 and level_s[k + 1] < a:
                    k += 1
                while k > 0 and level_s[k] > a:
                    k -= 1
                if whole:
                    near = hull_vertex(steep, near, hull_size[k, c], slope[k, c])
                    i = hull[k, c, near]
                    j = hull[k + 1, c, hull_vertex(steep, near, hull_size[k + 1, c], slope[k + 1, c])]
                else:
                    i = prefix_minimum(a_d, a_e, n, server_s[c], energy_j[k, c], below[k, c])
                    j = prefix_minimum(a_d, a_e, n, server_s[c], energy_j[k + 1, c], below[k + 1, c])
                share = (a - level_s[k]) / (level_s[k + 1] - level_s[k])
                here = a_d * server_s[c, i] + a_e * energy_j[k, c, i]
                there = a_d * server_s[c, j] + a_e * energy_j[k + 1, c, j]
                value = (1.0 - share) * here + share * there
                # The chord is exact where both levels agree on the clock; else either is a first answer.
                vertex[c] = i if i == j else -1
                real = a_d * server_s[c, i] + a_e * (busy_j[c, i] + a * wait_w[c, i])
                if i == j:
                    value = real
                elif busy_j[c, i] + a * wait_w[c, i] <= cap_j and real + a_d * a + a_o * extra[c] < best:
                    best, best_cut, best_point = real + a_d * a + a_o * extra[c], c, i
            bound[c] = value + a_d * a + a_o * extra[c]
        for _ in range(cuts):
            c = 0
            for other in range(1, cuts):
                if bound[other] < bound[c]:
                    c = other
            if bound[c] >= best:
                break
            a, i = fixed[c], vertex[c]
            if i >= 0 and busy_j[c, i] + a * wait_w[c, i] <= cap_j:
                best, best_cut, best_point = bound[c], c, i
            else:
                base = a_d * a + a_o * extra[c]
                for p in range(prefix[c]):
                    energy = busy_j[c, p] + a * wait_w[c, p]
                    value = base + a_d * server_s[c, p] + a_e * energy
                    if value < best and energy <= cap_j:
                        best, best_cut, best_point = value, c, p
            bound[c] = np.inf
        offset = a_d * d_min + (a_e * e_min if a_e > 0.0 else 0.0) + (a_o * o_min if a_o > 0.0 else 0.0)
        out_cut[m], out_clock[m], out_cost[m] = best_cut, best_point, best - offset
