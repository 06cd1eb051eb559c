"""What is not known about the constants, sent through the solver.

A `Source` is one independent source of error (the fit of one latency, the gain of one meter, the speed of
one device): what it adds to the arrays of a problem in each of N draws. Draws of all sources together
give the probability of a cut and the intervals of delay and energy; draws of one source alone, what that
source costs the decision; their variance, the guard band of a deadline:

    D(c,f) + z_p sd(D(c,f)) <= deadline        with z_p the normal quantile of the stated confidence
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from cardlab.card.problem.arrays import Array
from cardlab.card.problem.constraints import limits_of
from cardlab.card.problem.delay import round_bytes
from cardlab.card.problem.objective import Table, cost, ranges, table
from cardlab.card.problem.problem import Problem
from cardlab.card.solvers.together import columns_of
from cardlab.core.errors import PlanError
from cardlab.core.records.plan import DelayTerms

ATTRIBUTION_DRAWS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One source: what it adds in each draw; None where it adds nothing.

    Shapes: device_s [N,C], or [N,C,G] where devices choose among G frequencies, of the device with index `device`, and
    server_s [N,C,F] seconds per mini-batch,
    power_w and wait_power_w [N,F], up_s_per_bit and down_s_per_bit [N,M], of each device's link.
    future: what one later round differs by from the mean, which widens intervals and guard bands and decides nothing.
    """

    name: str
    device: int | None = None
    device_s: Array | None = None
    server_s: Array | None = None
    power_w: Array | None = None
    wait_power_w: Array | None = None
    up_s_per_bit: Array | None = None
    down_s_per_bit: Array | None = None
    future: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertainty:
    """All sources, N draws each, independent of each other."""

    sources: tuple[Source, ...]
    draws: int

    @property
    def of_means(self) -> Uncertainty:
        """What is not known of the constants alone."""
        return replace(self, sources=tuple(s for s in self.sources if not s.future))

    def drawn(self, problem: Problem, n: int, only: Source | None = None) -> Problem:
        """The problem as draw n has it; with `only`, that source alone is uncertain."""
        sources = self.sources if only is None else (only,)
        return replace(
            _with_device_times(problem, sources, n),
            server_s=np.maximum(_plus(problem.server_s, [s.server_s for s in sources], n), 1e-12),
            uplink_bps=_rates(problem.uplink_bps, [s.up_s_per_bit for s in sources], n),
            downlink_bps=_rates(problem.downlink_bps, [s.down_s_per_bit for s in sources], n),
            power_w=None if problem.power_w is None else _plus(problem.power_w, [s.power_w for s in sources], n),
            wait_power_w=None
            if problem.wait_power_w is None
            else _plus(problem.wait_power_w, [s.wait_power_w for s in sources], n),
            guard_s=None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Certainty:
    """How sure one decision is: share of draws that choose its cut, 95 % intervals of what it costs.

    `terms_ci95` are those of the device's and the server's compute in a round, and of what crosses the link where the
    spread of its rates is known. They, `delay_ci95` and `server_energy_ci95` are of one round of a later run;
    `terms_mean_ci95` and `delay_mean_ci95` of the means.
    """

    cut_probability: float
    delay_ci95: tuple[float, float]
    server_energy_ci95: tuple[float, float] | None
    terms_ci95: Mapping[str, tuple[float, float]]
    delay_mean_ci95: tuple[float, float]
    terms_mean_ci95: Mapping[str, tuple[float, float]]


def relative_uncertainty(
    problem: Problem,
    *,
    device: float = 0.05,
    server: float = 0.05,
    power: float = 0.05,
    draws: int = 200,
    seed: int = 0,
) -> Uncertainty:
    """The uncertainty of a problem whose constants are each known to a relative standard deviation.

    One log-normal factor for each device's speed, one for the server's, one for its power.
    """
    if problem.continuous is not None:
        raise PlanError("uncertainty needs listed frequencies", remedy="list frequencies_hz in [server]")
    rng = np.random.default_rng(seed)
    sources = []
    for m, name in enumerate(problem.devices):
        times = problem.device_s[m] if problem.offer is None else problem.offer.device_s[m]
        added = (_factor(rng, device, draws).reshape(-1, *(1,) * times.ndim) - 1.0) * times
        sources.append(Source(name=f"speed of {name}", device=m, device_s=added))
    speed = _factor(rng, server, draws)[:, None, None] - 1.0
    sources.append(Source(name="speed of the server", server_s=speed * problem.server_s))
    if problem.power_w is not None:
        gain = _factor(rng, power, draws)[:, None] - 1.0
        wait = None if problem.wait_power_w is None else gain * problem.wait_power_w
        sources.append(Source(name="power of the server", power_w=gain * problem.power_w, wait_power_w=wait))
    return Uncertainty(sources=tuple(sources), draws=draws)


def with_guard(problem: Problem, uncertainty: Uncertainty | None) -> Problem:
    """The problem with the guard band that its `deadline_confidence` asks for.

    Raises PlanError if a confidence is stated and nothing is known about the uncertainty.
    """
    confidence = problem.constraints.deadline_confidence
    if confidence is None or problem.constraints.deadline_s is None:
        return problem
    if uncertainty is None:
        raise PlanError(
            "a confidence is stated for the deadline and the uncertainty of the constants is not known",
            remedy="plan --from-db with fits that have draws, or leave out deadline_confidence",
        )
    epochs = problem.objective.local_epochs
    device = np.zeros((*problem.device_s.shape, problem.offered))
    for source in uncertainty.sources:
        if source.device is not None and source.device_s is not None:
            spread = (source.device_s**2).mean(axis=0)
            device[source.device] += epochs**2 * spread.reshape(problem.cuts.size, -1)
    sent = round_bytes(epochs, problem.up_bytes, problem.down_bytes, problem.adapter_bytes)
    for size, way in zip(sent, ("up_s_per_bit", "down_s_per_bit"), strict=True):
        spread = _variance([getattr(s, way) for s in uncertainty.sources], (len(problem.devices),))
        device += (spread[:, None] * (8.0 * np.asarray(size)) ** 2)[:, :, None]
    # Independent sources: variances add up, and their root is the spread of the delay.
    server = epochs**2 * _variance([s.server_s for s in uncertainty.sources], problem.server_s.shape)
    # Columns as in a table: server frequencies, and at each of them the device's.
    spread_s = np.sqrt(device[:, :, None, :] + server[None, :, :, None]).reshape(*problem.device_s.shape, -1)
    return replace(problem, guard_s=NormalDist().inv_cdf(confidence) * spread_s)


def certainties(problem: Problem, choices: Sequence[tuple[int, int]], uncertainty: Uncertainty) -> list[Certainty]:
    """Certainty of each device's choice (cut index, frequency index)."""
    means = _drawn_at(problem, choices, uncertainty.of_means)
    # What one round differs by does not say which cut is best.
    rounds = means if not any(s.future for s in uncertainty.sources) else _drawn_at(problem, choices, uncertainty)
    return [
        Certainty(
            cut_probability=float(means.same[:, m].mean()),
            delay_ci95=_interval(rounds.delay_s[:, m]),
            server_energy_ci95=None if np.isnan(rounds.energy_j[:, m]).any() else _interval(rounds.energy_j[:, m]),
            terms_ci95=rounds.terms_ci95(m, _uncertain(uncertainty)),
            delay_mean_ci95=_interval(means.delay_s[:, m]),
            terms_mean_ci95=means.terms_ci95(m, _uncertain(uncertainty.of_means)),
        )
        for m in range(len(choices))
    ]


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What some choices [M] come to in each draw: is their cut the best, delay (s), server energy (J) [N,M]; terms."""

    same: Array
    delay_s: Array
    energy_j: Array
    terms: list[list[DelayTerms]]

    def terms_ci95(self, m: int, names: Sequence[str]) -> dict[str, tuple[float, float]]:
        return {name: _interval(np.array([getattr(t, name) for t in self.terms[m]])) for name in names}


def _uncertain(uncertainty: Uncertainty) -> tuple[str, ...]:
    """Terms whose uncertainty is known."""
    linked = any(s.up_s_per_bit is not None or s.down_s_per_bit is not None for s in uncertainty.sources)
    return ("device", "server", *(("uplink", "downlink", "adapters") if linked else ()))


def _drawn_at(problem: Problem, choices: Sequence[tuple[int, int]], uncertainty: Uncertainty) -> _Drawn:
    same = np.zeros((uncertainty.draws, len(choices)))
    delay = np.zeros_like(same)
    energy = np.full_like(same, np.nan)
    terms: list[list[DelayTerms]] = [[] for _ in choices]
    for n in range(uncertainty.draws):
        drawn = uncertainty.drawn(problem, n)
        found = _costs(drawn)
        best = _best_cuts(drawn, found)
        for m, (t, _) in enumerate(found):
            cut, frequency = choices[m]
            # A draw in which nothing is feasible confirms no cut.
            same[n, m] = best[m] == cut
            delay[n, m] = t.delay_s[cut, frequency]
            held = drawn.at_offered(t.device_place(frequency))
            terms[m].append(held.terms(m, cut, float(t.server_s[cut, frequency])))
            if t.energy_j is not None:
                energy[n, m] = t.energy_j[cut, frequency]
    return _Drawn(same, delay, energy, terms)


def contributions(problem: Problem, choices: Sequence[tuple[int, int]], uncertainty: Uncertainty) -> dict[str, float]:
    """By source, the mean cost over devices that its uncertainty alone adds to the choices; largest first.

    In each draw the choice made for the mean constants is held against the best one of that draw, limits
    left aside: what a decision loses by that constant not being known.
    """
    # A mean needs fewer draws than a tail.
    count = min(uncertainty.draws, ATTRIBUTION_DRAWS)
    # With ranges of its own a device is not touched by the uncertainty of another one.
    apart = problem.objective.range != "common"
    known = _regrets(problem, choices) if apart else []
    lost = {}
    for source in uncertainty.of_means.sources:
        total = 0.0
        for n in range(count):
            drawn = uncertainty.drawn(problem, n, source)
            if apart and source.device is not None:
                m = source.device
                total += sum(known) - known[m] + _regrets(drawn, choices, only=m)[0]
            else:
                total += sum(_regrets(drawn, choices))
        lost[source.name] = total / (count * len(choices))
    return dict(sorted(lost.items(), key=lambda item: -item[1]))


def _regrets(problem: Problem, choices: Sequence[tuple[int, int]], only: int | None = None) -> list[float]:
    """What each choice costs above the best one, limits left aside; of one device if `only` is given."""
    wanted = range(len(problem.devices)) if only is None else (only,)
    tables = [table(problem, m) for m in wanted]
    found = []
    for m, t, extent in zip(wanted, tables, ranges(problem, tables), strict=True):
        costs = cost(problem, t, extent)
        found.append(float(costs[choices[m]] - costs.min()))
    return found


def _costs(problem: Problem) -> list[tuple[Table, Array]]:
    tables = [table(problem, m) for m in range(len(problem.devices))]
    extents = ranges(problem, tables)
    found = []
    for m, (t, extent) in enumerate(zip(tables, extents, strict=True)):
        costs = np.where(limits_of(problem, m, t).feasible, cost(problem, t, extent), np.inf)
        found.append((t, costs))
    return found


def _best_cuts(problem: Problem, found: Sequence[tuple[Table, Array]]) -> list[int]:
    """Index of the cut that each device would get; -1 for all of them where there is no plan."""
    cap_j = problem.constraints.fleet_energy_j
    pairs = [(costs, t.device_energy_j) for t, costs in found if t.device_energy_j is not None]
    if cap_j is not None and len(pairs) == len(found):
        columns = columns_of(pairs, cap_j)
        return (
            [-1] * len(found)
            if columns is None
            else [i // t.delay_s.shape[1] for i, (t, _) in zip(columns, found, strict=True)]
        )
    best = [np.unravel_index(int(np.argmin(costs)), costs.shape) for _, costs in found]
    return [int(b[0]) if np.isfinite(costs[b]) else -1 for b, (_, costs) in zip(best, found, strict=True)]


def _factor(rng: np.random.Generator, sigma: float, count: int) -> Array:
    return np.asarray(rng.lognormal(0.0, sigma, count))


def _with_device_times(problem: Problem, sources: Sequence[Source], n: int) -> Problem:
    """The problem with the times of its devices as draw n has them, at every frequency they may choose."""
    base = problem.device_s if problem.offer is None else problem.offer.device_s
    total: Array = base.copy()
    for source in sources:
        if source.device is not None and source.device_s is not None:
            total[source.device] += source.device_s[n]
    # Wide normal draws can pass zero, and a negative time would be a gift.
    total = np.maximum(total, 1e-12)
    if problem.offer is None:
        return replace(problem, device_s=total)
    return replace(problem, offer=replace(problem.offer, device_s=total))


def _plus(base: Array, added: list[Array | None], n: int) -> Array:
    total: Array = base
    for part in added:
        if part is not None:
            total = total + part[n]
    return total


def _rates(base_bps: Array, added_s_per_bit: list[Array | None], n: int) -> Array:
    if all(part is None for part in added_s_per_bit):
        return base_bps
    # Spread is known in seconds per bit; at most ten times the mean rate, for the same reason.
    return np.asarray(1.0 / np.maximum(_plus(1.0 / base_bps, added_s_per_bit, n), 0.1 / base_bps))


def _variance(added: list[Array | None], shape: tuple[int, ...]) -> Array:
    total = np.zeros(shape)
    for part in added:
        if part is not None:
            total = total + (part**2).mean(axis=0)
    return total


def _interval(values: Array) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
