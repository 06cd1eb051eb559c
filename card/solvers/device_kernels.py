"""The hull search where devices choose their own frequency too, as loops for numba.

A device at cut c and frequency g is away from the server for A(c,g) and takes the server S seconds:

    U = a_d (A + S) + a_e (Q(f) + A V(f)) + a_o (k(c,g) + p(g) (A + S))

with p the power that its waiting costs it (0 where only its compute counts) and k what the server's time does not
change. For one (c,g) that is a line over (S, energy), as in `hull_kernels`, only steeper by a_o p(g). A server's
frequencies are not gone through: every pair (c,g) is bounded by one hull of its cut, at the least time any g leaves,

    U(c,g) >= a_d A + a_o k + a_o (p(g) - p_min) S_min + a_e V_min (A - A_min) + min over f at (A_min, p_min)

since what is left out only grows with A and p. Cuts are settled in the order of their bounds, pair by pair, until none
can win. A deadline, and a cap on the energy of a device's whole round, admit a prefix of the points sorted by S.
"""

from __future__ import annotations

import numpy as np

from cardlab.card.problem.energy import DevicePowers, DeviceTimes, device_energy_j, device_joules, device_round_j
from cardlab.card.solvers.hull_kernels import hull_vertex, prefix_minimum
from cardlab.card.solvers.kernels import air_of, away_s
from cardlab.card.solvers.records import Cuts, DeviceAnswer, Envelopes, HullTable, OfferedFleet, Rule


def kept_points(m_a: float, fixed_j: float, waiting_w: float, rule: Rule, hulls: HullTable, c: int) -> int:
    """How many of a cut's sorted points keep the deadline and the cap on the device's energy."""
    server_s = hulls.points.server_s
    low, high = 0, int(hulls.points.size[c])
    while low < high:
        middle = (low + high) // 2
        s = server_s[c, middle]
        if m_a + s <= rule.deadline_s and fixed_j + waiting_w * s <= rule.device_energy_j:
            low = middle + 1
        else:
            high = middle
    return low


def device_batch(
    offered: OfferedFleet, cuts: Cuts, rule: Rule, hulls: HullTable, envelopes: Envelopes, out: DeviceAnswer
) -> None:
    """The best cut, point and device frequency of every device."""
    fleet = offered.fleet
    device_s, power_w, waiting_w = offered.device_s, offered.power_w, offered.waiting_w
    devices, cut_count, choices = device_s.shape
    count, server_s = hulls.points.size, hulls.points.server_s
    busy_j, wait_w, level_s, chains, spans = hulls.busy_j, hulls.wait_w, hulls.level_s, hulls.chains, fleet.spans
    below, hull_size, hull, slope = chains.below, chains.size, chains.hull, chains.slope
    energy_j, levels = hulls.points.energy_j, level_s.size
    we, wo, cap_j, own_cap_j = rule.energy_weight, rule.device_weight, rule.server_energy_j, rule.device_energy_j
    lines, base_j, slope_w = envelopes.size, envelopes.base_j, envelopes.slope_w
    near_s, bound = np.empty(cut_count), np.empty(cut_count)
    away, fixed_j = np.empty((cut_count, choices)), np.zeros((cut_count, choices))
    relaxed = np.empty((cut_count, choices))
    least_wait_w = np.inf
    for c in range(cut_count):
        for i in range(count[c]):
            least_wait_w = min(least_wait_w, wait_w[c, i])
    for m in range(devices):
        d_min, d_max, e_min, e_max, o_min, o_max = np.inf, -np.inf, np.inf, -np.inf, np.inf, -np.inf
        ranged = spans.delay_min_s.shape[0] == 0
        price = offered.price_per_j[m] if offered.price_per_j.shape[0] > 0 else 0.0
        own = wo > 0.0 or own_cap_j < np.inf or price > 0.0
        transmit_w, receive_w = offered.transmit_w[m], offered.receive_w[m]
        least_at, most_at = 0, 0
        p_min = np.inf
        for g in range(choices):
            p_min = min(p_min, waiting_w[m, g])
        for c in range(cut_count):
            b = away_s(fleet, cuts, rule, m, c)
            low, high = np.inf, -np.inf
            for g in range(choices):
                a = b + rule.epochs * device_s[m, c, g]
                away[c, g] = a
                if a < low:
                    low = a
                if a > high:
                    high = a
            near_s[c] = low
            if own and offered.whole_round:
                up_s, down_s = air_of(fleet, cuts, rule, m, c)
                for g in range(choices):
                    powers = DevicePowers(
                        compute_w=power_w[m, g], waiting_w=waiting_w[m, g], transmit_w=transmit_w, receive_w=receive_w
                    )
                    times = DeviceTimes(
                        compute_s=rule.epochs * device_s[m, c, g], up_s=up_s, down_s=down_s, round_s=away[c, g]
                    )
                    fixed_j[c, g] = device_round_j(device_joules(powers, times))
            elif own:
                for g in range(choices):
                    fixed_j[c, g] = device_energy_j(power_w[m, g], rule.epochs, device_s[m, c, g])
            if ranged:
                shortest_s, longest_s = envelopes.busy_min_s[c], envelopes.busy_max_s[c]
                d_min, d_max = min(d_min, low + shortest_s), max(d_max, high + longest_s)
                if wo > 0.0:
                    for g in range(choices):
                        p, joules = waiting_w[m, g], fixed_j[c, g]
                        if joules + p * shortest_s < o_min:
                            o_min = joules + p * shortest_s
                        if joules + p * longest_s > o_max:
                            o_max = joules + p * longest_s
                if we > 0.0:
                    # An envelope's lines stand in the order in which they take over: heights fall and then rise.
                    j = min(least_at, lines[0, c] - 1)
                    energy = base_j[0, c, j] + low * slope_w[0, c, j]
                    while j + 1 < lines[0, c] and base_j[0, c, j + 1] + low * slope_w[0, c, j + 1] < energy:
                        j += 1
                        energy = base_j[0, c, j] + low * slope_w[0, c, j]
                    while j > 0 and base_j[0, c, j - 1] + low * slope_w[0, c, j - 1] < energy:
                        j -= 1
                        energy = base_j[0, c, j] + low * slope_w[0, c, j]
                    least_at, e_min = j, min(e_min, energy)
                    j = min(most_at, lines[1, c] - 1)
                    energy = base_j[1, c, j] + high * slope_w[1, c, j]
                    while j + 1 < lines[1, c] and base_j[1, c, j + 1] + high * slope_w[1, c, j + 1] > energy:
                        j += 1
                        energy = base_j[1, c, j] + high * slope_w[1, c, j]
                    while j > 0 and base_j[1, c, j - 1] + high * slope_w[1, c, j - 1] > energy:
                        j -= 1
                        energy = base_j[1, c, j] + high * slope_w[1, c, j]
                    most_at, e_max = j, max(e_max, energy)
        if not ranged:
            d_min, d_max = spans.delay_min_s[m], spans.delay_max_s[m]
            e_min, e_max = spans.energy_min_j[m], spans.energy_max_j[m]
            o_min, o_max = spans.device_energy_min_j[m], spans.device_energy_max_j[m]
        # Cost of a second and of a joule; a range of no width weighs nothing.
        a_d = rule.delay_weight / (d_max - d_min) if d_max > d_min else 0.0
        a_e = we / (e_max - e_min) if e_max > e_min else 0.0
        a_r = wo / (o_max - o_min) if wo > 0.0 and o_max > o_min else 0.0
        a_o = a_r + price
        steep_s = a_d + a_o * p_min
        steep, near, k = steep_s / a_e if a_e > 0.0 else np.inf, 0, 0
        best, best_cut, best_point, best_g = np.inf, -1, -1, -1
        for c in range(cut_count):
            bound[c] = np.inf
            if not cuts.admitted[c] or c == fleet.excluded[m] or not fleet.fits[m, c] or count[c] == 0:
                continue
            a = near_s[c]
            quickest_s = server_s[c, 0]
            if a + quickest_s > rule.deadline_s:
                continue
            # The least that server seconds and joules can cost at this cut.
            if levels == 1:
                near = hull_vertex(steep, near, hull_size[0, c], slope[0, c])
                i = hull[0, c, near]
                server = steep_s * server_s[c, i] + a_e * (busy_j[c, i] + a * wait_w[c, i])
            else:
                while k < levels - 2 and level_s[k + 1] < a:
                    k += 1
                while k > 0 and level_s[k] > a:
                    k -= 1
                near = hull_vertex(steep, near, hull_size[k, c], slope[k, c])
                i = hull[k, c, near]
                j = hull[k + 1, c, hull_vertex(steep, near, hull_size[k + 1, c], slope[k + 1, c])]
                share = (a - level_s[k]) / (level_s[k + 1] - level_s[k])
                server = (1.0 - share) * (steep_s * server_s[c, i] + a_e * energy_j[k, c, i]) + share * (
                    steep_s * server_s[c, j] + a_e * energy_j[k + 1, c, j]
                )
            per_s, per_w, least = a_d + a_e * least_wait_w, a_o * quickest_s, np.inf
            offset = server - a_e * least_wait_w * a - per_w * p_min
            for g in range(choices):
                value = offset + per_s * away[c, g] + a_o * fixed_j[c, g] + per_w * waiting_w[m, g]
                relaxed[c, g] = value
                if value < least:
                    least = value
            bound[c] = least
        for _ in range(cut_count):
            c = 0
            for other in range(1, cut_count):
                if bound[other] < bound[c]:
                    c = other
            if bound[c] >= best:
                break
            bound[c] = np.inf
            # The most promising frequency first: most others then need no look.
            first = 0
            for g in range(1, choices):
                if relaxed[c, g] < relaxed[c, first]:
                    first = g
            for step in range(choices):
                g = first if step == 0 else step - 1 if step <= first else step
                # A hair of room: the bound is the same sum in another order.
                if relaxed[c, g] > best + 1e-12 * (1.0 + abs(best)):
                    continue
                a, p, spent_j = away[c, g], waiting_w[m, g], fixed_j[c, g]
                n = count[c]
                last_s = server_s[c, n - 1]
                if a + last_s > rule.deadline_s or (own and spent_j + p * last_s > own_cap_j):
                    n = kept_points(a, spent_j if own else 0.0, p if own else 0.0, rule, hulls, c)
                    if n == 0:
                        continue
                whole = n == count[c]
                a_s = a_d + a_o * p
                offset = a_d * a + a_o * spent_j
                if levels == 1:
                    if whole:
                        near = hull_vertex(a_s / a_e if a_e > 0.0 else np.inf, near, hull_size[0, c], slope[0, c])
                        i = hull[0, c, near]
                    else:
                        i = prefix_minimum(a_s, a_e, n, server_s[c], energy_j[0, c], below[0, c])
                    energy = busy_j[c, i] + a * wait_w[c, i]
                    value = offset + a_s * server_s[c, i] + a_e * energy
                    if value >= best:
                        continue
                    if energy <= cap_j:
                        best, best_cut, best_point, best_g = value, c, i, g
                        continue
                elif whole:
                    # Between two levels the chord through their hulls is below every choice.
                    while k < levels - 2 and level_s[k + 1] < a:
                        k += 1
                    while k > 0 and level_s[k] > a:
                        k -= 1
                    steep_g = a_s / a_e if a_e > 0.0 else np.inf
                    near = hull_vertex(steep_g, near, hull_size[k, c], slope[k, c])
                    i = hull[k, c, near]
                    j = hull[k + 1, c, hull_vertex(steep_g, near, hull_size[k + 1, c], slope[k + 1, c])]
                    share = (a - level_s[k]) / (level_s[k + 1] - level_s[k])
                    value = (1.0 - share) * (a_s * server_s[c, i] + a_e * energy_j[k, c, i]) + share * (
                        a_s * server_s[c, j] + a_e * energy_j[k + 1, c, j]
                    )
                    if offset + value > best + 1e-12 * (1.0 + abs(best)):
                        continue
                    energy = busy_j[c, i] + a * wait_w[c, i]
                    if i == j and energy <= cap_j:
                        value = offset + a_s * server_s[c, i] + a_e * energy
                        if value < best:
                            best, best_cut, best_point, best_g = value, c, i, g
                        continue
                # What the hull names is no choice that keeps the energy cap, or no hull is exact at this waiting time.
                for i in range(n):
                    energy = busy_j[c, i] + a * wait_w[c, i]
                    value = offset + a_s * server_s[c, i] + a_e * energy
                    if value < best and energy <= cap_j:
                        best, best_cut, best_point, best_g = value, c, i, g
        offset = a_d * d_min + (a_e * e_min if a_e > 0.0 else 0.0) + (a_r * o_min if a_r > 0.0 else 0.0)
        out.cut[m], out.point[m], out.offered[m], out.cost[m] = best_cut, best_point, best_g, best - offset
