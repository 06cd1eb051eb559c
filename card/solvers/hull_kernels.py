"""The hull search of the batch solver as loops for numba; `cardlab.card.solvers.hulls` says what they rest on."""

from __future__ import annotations

import numpy as np

from cardlab.card.problem.arrays import Array, Index
from cardlab.card.solvers.kernels import away_s, own_energy_j
from cardlab.card.solvers.records import Chains, Cuts, Envelopes, Fleet, HullTable, Rule, SortedPoints, TableAnswer


def fill_chains(points: SortedPoints, out: Chains) -> None:
    """Lower hulls of all prefixes of points sorted by server_s."""
    server_s, energy_j, hull = points.server_s, points.energy_j, out.hull
    levels, cuts, _ = energy_j.shape
    for k in range(levels):
        for c in range(cuts):
            size = 0
            for i in range(points.size[c]):
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
                out.below[k, c, i] = hull[k, c, size - 1] if size > 0 else -1
                hull[k, c, size] = i
                size += 1
            out.size[k, c] = size
            for j in range(size - 1):
                i, p = hull[k, c, j], hull[k, c, j + 1]
                dx = server_s[c, p] - server_s[c, i]
                out.slope[k, c, j] = (energy_j[k, c, p] - energy_j[k, c, i]) / dx if dx > 0.0 else np.inf


def hull_vertex(steepness: float, guess: int, size: int, slope: Array) -> int:
    """Position on a hull where its slope passes -steepness; walks from a guess, as neighbours agree."""
    j = min(guess, size - 1)
    while j < size - 1 and slope[j] < -steepness:
        j += 1
    while j > 0 and slope[j - 1] >= -steepness:
        j -= 1
    return j


def prefix_minimum(a: float, e: float, admitted: int, server_s: Array, energy_j: Array, below: Index) -> int:
    """Index of the point that minimises a S + e Y among the first `admitted` of one cut."""
    i = admitted - 1
    while below[i] >= 0:
        j = below[i]
        if a * (server_s[i] - server_s[j]) + e * (energy_j[i] - energy_j[j]) < 0.0:
            break
        i = j
    return int(i)


def admitted_points(left_s: float, guess: int, count: int, server_s: Array) -> int:
    """How many of the sorted points take at most left_s."""
    n = min(guess, count)
    while n < count and server_s[n] <= left_s:
        n += 1
    while n > 0 and server_s[n - 1] > left_s:
        n -= 1
    return n


def table_batch(fleet: Fleet, cuts: Cuts, rule: Rule, hulls: HullTable, envelopes: Envelopes, out: TableAnswer) -> None:
    """Bound every cut by its hull, then settle cuts in the order of their bounds until none can win."""
    devices, cut_count = fleet.device_s.shape
    count, server_s, energy_j = hulls.points.size, hulls.points.server_s, hulls.points.energy_j
    busy_j, wait_w, level_s, chains, spans = hulls.busy_j, hulls.wait_w, hulls.level_s, hulls.chains, fleet.spans
    below, hull_size, hull, slope = chains.below, chains.size, chains.hull, chains.slope
    levels = level_s.size
    we, wo = rule.energy_weight, rule.device_weight
    deadline, cap_j, own_cap_j = rule.deadline_s, rule.server_energy_j, rule.device_energy_j
    fixed, extra, bound = np.empty(cut_count), np.empty(cut_count), np.empty(cut_count)
    vertex, prefix = np.empty(cut_count, np.int64), np.empty(cut_count, np.int64)
    for m in range(devices):
        d_min, d_max, e_min, e_max, o_min, o_max = np.inf, -np.inf, np.inf, -np.inf, np.inf, -np.inf
        ranged = spans.delay_min_s.shape[0] == 0
        for c in range(cut_count):
            a = away_s(fleet, cuts, rule, m, c)
            fixed[c] = a
            own = own_energy_j(fleet, rule, m, c) if wo > 0.0 or own_cap_j < np.inf else 0.0
            extra[c] = own
            if ranged:
                d_min, d_max = min(d_min, a + envelopes.busy_min_s[c]), max(d_max, a + envelopes.busy_max_s[c])
                if wo > 0.0:
                    o_min, o_max = min(o_min, own), max(o_max, own)
                if we > 0.0:
                    least, most = np.inf, -np.inf
                    for j in range(envelopes.size[0, c]):
                        least = min(least, envelopes.base_j[0, c, j] + a * envelopes.slope_w[0, c, j])
                    for j in range(envelopes.size[1, c]):
                        most = max(most, envelopes.base_j[1, c, j] + a * envelopes.slope_w[1, c, j])
                    e_min, e_max = min(e_min, least), max(e_max, most)
        if not ranged:
            d_min, d_max = spans.delay_min_s[m], spans.delay_max_s[m]
            e_min, e_max = spans.energy_min_j[m], spans.energy_max_j[m]
            o_min, o_max = spans.device_energy_min_j[m], spans.device_energy_max_j[m]
        # Cost of a second and of a joule; a range of no width weighs nothing.
        a_d = rule.delay_weight / (d_max - d_min) if d_max > d_min else 0.0
        a_e = we / (e_max - e_min) if e_max > e_min else 0.0
        a_o = wo / (o_max - o_min) if wo > 0.0 and o_max > o_min else 0.0
        steep = a_d / a_e if a_e > 0.0 else np.inf
        near, last_n, k = 0, server_s.shape[1], 0
        best, best_cut, best_point = np.inf, -1, -1
        for c in range(cut_count):
            bound[c] = np.inf
            n = count[c]
            if not cuts.admitted[c] or c == fleet.excluded[m] or not fleet.fits[m, c]:
                continue
            if n == 0 or extra[c] > own_cap_j:
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
                # The chord is exact where both levels agree on the frequency; else either is a first answer.
                vertex[c] = i if i == j else -1
                real = a_d * server_s[c, i] + a_e * (busy_j[c, i] + a * wait_w[c, i])
                if i == j:
                    value = real
                elif busy_j[c, i] + a * wait_w[c, i] <= cap_j and real + a_d * a + a_o * extra[c] < best:
                    best, best_cut, best_point = real + a_d * a + a_o * extra[c], c, i
            bound[c] = value + a_d * a + a_o * extra[c]
        for _ in range(cut_count):
            c = 0
            for other in range(1, cut_count):
                if bound[other] < bound[c]:
                    c = other
            if bound[c] >= best:
                break
            a, i = fixed[c], vertex[c]
            if i >= 0 and busy_j[c, i] + a * wait_w[c, i] <= cap_j:
                best, best_cut, best_point = bound[c], c, i
            else:
                # The bound is not a choice that keeps the energy cap: look at every point of this cut.
                base = a_d * a + a_o * extra[c]
                for p in range(prefix[c]):
                    energy = busy_j[c, p] + a * wait_w[c, p]
                    value = base + a_d * server_s[c, p] + a_e * energy
                    if value < best and energy <= cap_j:
                        best, best_cut, best_point = value, c, p
            bound[c] = np.inf
        offset = a_d * d_min + (a_e * e_min if a_e > 0.0 else 0.0) + (a_o * o_min if a_o > 0.0 else 0.0)
        out.cut[m], out.point[m], out.cost[m] = best_cut, best_point, best - offset
