"""The large timescale: compression rate and block allocation by augmented Lagrangian, relaxed, rounded, re-checked.

    min F(l, r) + 1/(2 rho) sum_i { max(0, mu_i + rho g_i)^2 - mu_i^2 }        1 <= l <= L-1,  r_min <= r <= r_max
    mu_i <- max(0, mu_i + rho g_i),  rho rising

F is the mean over channel states of the delay with the best shares, g the limits: device memory, accuracy, deadline.
How F follows l and r comes from the shares' prices (envelope theorem), so no difference is taken. Rounding starts at
the nearest choices that are allowed and goes from device to device, each time to its best choice with the others
held, then by pairs of neighbours, until nothing improves: that keeps every limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from cardlab.card.problem.arrays import Array, Index, Mask
from cardlab.card.problem.delay import MiniBatch, OncePerRound, no_air, round_bytes, round_seconds, round_terms
from cardlab.card.schemes.sft.enumeration import Chosen, best_of
from cardlab.card.schemes.sft.problem import SftProblem
from cardlab.card.schemes.sft.spectrum import Band, prices, share_exactly

_OUTER = 8
_RISE = 4.0
_KEPT = 1e-4
_PASSES = 6


@dataclass(frozen=True, slots=True)
class Relaxed:
    """Answer of the relaxed problem: blocks and rates [M] that need not be whole or on offer; delay, seconds.

    `violation`: the largest g left over, as a fraction of its limit.
    """

    blocks: Array
    rates: Array
    delay_s: float
    violation: float


class _Lagrangian:
    """F, g and their slopes over x = (block indices, rates), scaled."""

    def __init__(self, problem: SftProblem, band: Band) -> None:
        self.problem, self.band = problem, band
        base = problem.base
        self._steps = np.arange(base.cuts.size, dtype=float)
        count = problem.devices
        start = problem.delays_s(band, np.zeros(count, int), np.full(count, len(problem.options) - 1))
        # Delays of seconds beside limits of order one: without a scale the penalty would rule the search.
        self.scale = float(start.mean())
        # No bound where the need at some cut is not known, as `allowed` has it.
        self.memory = ~np.isnan(base.device_memory_limit_bytes) & ~np.isnan(base.device_memory_bytes).any(axis=1)
        self.mu = np.zeros(2 * count + 1)
        self.rho = 1.0

    def _interpolated(self, table: Array, at: Array) -> tuple[Array, Array]:
        """A table [.., C] by device at real indices [M], and its slope."""
        low = np.clip(np.floor(at).astype(int), 0, max(self._steps.size - 2, 0))
        each = np.arange(at.size)
        table = np.broadcast_to(table, (at.size, self._steps.size))
        if self._steps.size == 1:
            return table[:, 0], np.zeros(at.size)
        slope = table[each, low + 1] - table[each, low]
        return table[each, low] + slope * (at - low), slope

    def delay(self, x: Array) -> tuple[Array, Array]:
        """tau by channel state [S] and its slope [S, 2M]."""
        problem, base = self.problem, self.problem.base
        count = problem.devices
        blocks, rates = x[:count], x[count:]
        epochs = base.objective.local_epochs
        device, device_slope = self._interpolated(base.device_s, blocks)
        codec, codec_slope, codec_by_rate = self._codec(blocks, rates)
        server, server_slope = self._server(blocks)
        handling, handling_slope = self._interpolated(base.handling, blocks)
        batch = MiniBatch(device_s=device, encode_s=codec, decode_s=0.0, server_s=server, up_bits=0.0, down_bits=0.0)
        once = OncePerRound(adapter_bits=0.0, handling_s=handling, switch_s=base.switch_s)
        fixed = np.asarray(round_seconds(round_terms(epochs, batch, once, no_air(base.latency))))
        sizes = [self._interpolated(size[None, :], blocks) for size in (base.up_bytes, base.down_bytes)]
        adapters, adapters_slope = self._interpolated(base.adapter_bytes[None, :], blocks)
        up, down = round_bytes(epochs, rates * sizes[0][0] + problem.label_bytes, rates * sizes[1][0], adapters)
        sent = [np.asarray(up), np.asarray(down)]
        states = self.band.uplink_bps.shape[0]
        shape = (states, count)
        tau, share = share_exactly(self.band, np.broadcast_to(fixed, shape), sent[0], sent[1])
        slope = np.zeros((states, 2 * count))
        for s in range(states):
            here = replace(self.band, uplink_bps=self.band.uplink_bps[s], downlink_bps=self.band.downlink_bps[s])
            price = prices(here, sent[0], sent[1], share[s])
            per_byte = here.s_per_byte(share[s])
            slope[s, :count] = price * (epochs * (device_slope + codec_slope) + handling_slope) + epochs * server_slope
            for (size, size_slope), seconds in zip(sizes, per_byte, strict=True):
                slope[s, :count] += price * seconds * (epochs * rates * size_slope + adapters_slope)
                slope[s, count:] += price * seconds * epochs * size
            slope[s, count:] += price * epochs * codec_by_rate
        return tau, slope

    def _server(self, blocks: Array) -> tuple[float, Array]:
        """Server's time by real block indices and its slope [M]; with whole ones that of the problem."""
        problem = self.problem
        layer_s = problem.server_s[:-1] - problem.server_s[1:]
        # How far each device uses each layer: 1 for layers above its cut, a fraction of the one it cuts.
        use = np.clip(np.arange(layer_s.size)[None, :] + 1.0 - blocks[:, None], 0.0, 1.0)
        users = use.sum(axis=0)
        low = np.clip(np.floor(users).astype(int), 0, problem.devices - 1)
        rise = problem.times[low + 1] - problem.times[low]
        total = problem.last_times[problem.devices] * problem.server_s[-1] + float(
            (layer_s * (problem.times[low] + rise * (users - low))).sum()
        )
        # The layer in which the cut lies; at a whole index the one that would be given up next.
        partly = np.arange(layer_s.size)[None, :] == np.floor(blocks)[:, None]
        return total, -(partly * (layer_s * rise)[None, :]).sum(axis=1)

    def _codec(self, blocks: Array, rates: Array) -> tuple[Array, Array, Array]:
        """Codec time at real blocks and rates [M], and its slopes by both."""
        problem = self.problem
        offered = problem.rates
        if offered.size == 1:
            value, slope = self._interpolated(problem.codec_s[:, :, 0], blocks)
            return value, slope, np.zeros(blocks.size)
        low = np.clip(np.searchsorted(offered, rates, side="right") - 1, 0, offered.size - 2)
        each = np.arange(blocks.size)
        below, below_slope = self._interpolated(problem.codec_s[each, :, low], blocks)
        above, above_slope = self._interpolated(problem.codec_s[each, :, low + 1], blocks)
        width = offered[low + 1] - offered[low]
        part = (rates - offered[low]) / width
        return (
            below + part * (above - below),
            below_slope + part * (above_slope - below_slope),
            (above - below) / width,
        )

    def limits(self, x: Array, tau: Array, tau_slope: Array) -> tuple[Array, Array]:
        """g <= 0 [2M + 1] as fractions of the limits, and its slopes [2M + 1, 2M]."""
        problem, base = self.problem, self.problem.base
        count = problem.devices
        g, slope = np.full(2 * count + 1, -1.0), np.zeros((2 * count + 1, 2 * count))
        memory, memory_slope = self._interpolated(base.device_memory_bytes, x[:count])
        bound = np.where(self.memory, base.device_memory_limit_bytes, 1.0)
        each = np.arange(count)
        g[:count] = np.where(self.memory, memory / bound - 1.0, -1.0)
        slope[each, each] = np.where(self.memory, memory_slope / bound, 0.0)
        if problem.target is not None and problem.curve is not None:
            size = max(abs(problem.target), 1e-9)
            g[count : 2 * count] = [(problem.target - problem.curve.at(r)) / size for r in x[count:]]
            slope[count + each, count + each] = [-problem.curve.slope(r) / size for r in x[count:]]
        deadline = base.constraints.deadline_s
        if deadline is not None:
            worst = int(np.argmax(tau))
            g[-1] = tau[worst] / deadline - 1.0
            slope[-1] = tau_slope[worst] / deadline
        return g, slope

    def __call__(self, x: Array) -> tuple[float, Array]:
        """The augmented Lagrangian and its slope."""
        tau, tau_slope = self.delay(x)
        g, g_slope = self.limits(x, tau, tau_slope)
        push = np.maximum(0.0, self.mu + self.rho * g)
        value = float(tau.mean()) / self.scale + float((push**2 - self.mu**2).sum()) / (2.0 * self.rho)
        return value, tau_slope.mean(axis=0) / self.scale + push @ g_slope


def relax(problem: SftProblem, band: Band) -> Relaxed:
    """The relaxed problem by augmented Lagrangian; `band` has rates [S,M]."""
    from scipy.optimize import minimize

    lagrangian, count = _Lagrangian(problem, band), problem.devices
    last = problem.base.cuts.size - 1
    rates = problem.rates
    bounds = [(0.0, float(last))] * count + [(float(rates[0]), float(rates[-1]))] * count
    x = np.concatenate([np.full(count, 0.5 * last), np.full(count, rates.mean())])
    for _ in range(_OUTER):
        x = minimize(lagrangian, x, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 40}).x
        tau, slope = lagrangian.delay(x)
        g, _ = lagrangian.limits(x, tau, slope)
        lagrangian.mu = np.maximum(0.0, lagrangian.mu + lagrangian.rho * g)
        if float(g.max()) <= _KEPT and bool((np.abs(lagrangian.mu * g) <= _KEPT).all()):
            break
        lagrangian.rho *= _RISE
    tau, slope = lagrangian.delay(x)
    g, _ = lagrangian.limits(x, tau, slope)
    return Relaxed(x[:count], x[count:], float(tau.mean()), float(max(g.max(), 0.0)))


def by_lagrangian(problem: SftProblem, band: Band) -> Chosen | None:
    """Blocks and compressions by augmented Lagrangian and rounding; None if none that keeps all limits is found."""
    return rounded(problem, band, relax(problem, band))


def rounded(problem: SftProblem, band: Band, relaxed: Relaxed) -> Chosen | None:
    """Whole blocks and offered rates from a relaxed answer, every limit kept."""
    allowed = problem.allowed()
    if problem.common:
        return _common(problem, band, relaxed, allowed)
    steps = np.arange(problem.base.cuts.size)
    starts = []
    # Three starts: rounding to the nearest can end in a corner that rounding down or up avoids.
    for direction in (0.0, -0.49, 0.49):
        picked = []
        for m in range(problem.devices):
            places = np.argwhere(allowed[m])
            away = np.abs(steps[places[:, 0]] - (relaxed.blocks[m] + direction))
            dear = np.abs(problem.rates[places[:, 1]] - relaxed.rates[m]) / problem.rates[-1]
            picked.append(places[int(np.argmin(away + dear))])
        starts.append(np.array(picked))
    best: Chosen | None = None
    for start in starts:
        found = _improved(problem, band, start, allowed)
        if found is not None and (best is None or found.delay_s < best.delay_s):
            best = found
    return best


def _improved(problem: SftProblem, band: Band, start: Index, allowed: Mask) -> Chosen | None:
    """Device by device to its best choice, then neighbours in pairs, until nothing improves."""
    at = start.copy()
    score = _score(problem, band, at[None])[0]
    for _ in range(_PASSES):
        before = score
        for m in range(problem.devices):
            places = np.argwhere(allowed[m])
            tried = np.repeat(at[None], len(places), axis=0)
            tried[:, m] = places
            at, score = _better(problem, band, at, score, tried)
        at, score = _better(problem, band, at, score, _pairs(at, allowed))
        if not score < before:
            break
    return best_of(problem, band, at[None, :, 0], at[None, :, 1])


def _score(problem: SftProblem, band: Band, tried: Index) -> Array:
    """Mean delay, and beyond the deadline ten times what is too much [B]."""
    delays = problem.delays_s(band, tried[..., 0], tried[..., 1])
    deadline = problem.base.constraints.deadline_s
    # So that a start that misses the deadline can walk towards it; the answer itself must keep it.
    late = 0.0 if deadline is None else 10.0 * np.maximum(0.0, delays.max(axis=-1) - deadline * (1.0 + 1e-12))
    return np.asarray(delays.mean(axis=-1) + late)


def _better(problem: SftProblem, band: Band, at: Index, score: float, tried: Index) -> tuple[Index, float]:
    if not len(tried):
        return at, score
    scores = _score(problem, band, tried)
    best = int(np.argmin(scores))
    return (tried[best], float(scores[best])) if scores[best] < score else (at, score)


def _pairs(at: Index, allowed: Mask) -> Index:
    """Every two devices one block or one rate away at the same time."""
    moves = ((1, 0), (-1, 0), (0, 1), (0, -1))
    found = []
    for one in range(len(at)):
        for other in range(one):
            for first, second in product(moves, moves):
                moved = at.copy()
                moved[one] += first
                moved[other] += second
                if all(_inside(allowed[m], moved[m]) for m in (one, other)):
                    found.append(moved)
    return np.array(found)


def _inside(allowed: Mask, place: Index) -> bool:
    c, k = int(place[0]), int(place[1])
    return 0 <= c < allowed.shape[0] and 0 <= k < allowed.shape[1] and bool(allowed[c, k])


def _common(problem: SftProblem, band: Band, relaxed: Relaxed, allowed: Mask) -> Chosen | None:
    """One cut for all: every cut, rates device by device."""
    best: Chosen | None = None
    for cut in np.flatnonzero(allowed.any(axis=2).all(axis=0)):
        only = np.zeros_like(allowed)
        only[:, cut] = allowed[:, cut]
        start = []
        for m in range(problem.devices):
            offered = np.flatnonzero(only[m, cut])
            start.append((int(cut), int(offered[np.argmin(np.abs(problem.rates[offered] - relaxed.rates[m]))])))
        found = _improved(problem, band, np.array(start), only)
        if found is not None and (best is None or found.delay_s < best.delay_s):
            best = found
    return best
