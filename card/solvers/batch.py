"""Many devices at once, exactly: the paper's model in closed form, tables by their hulls.

Both walk devices in compiled loops on all cores. They take the same `Problem` and give the same answers
as the enumeration: what differs is that no table of all choices is ever written.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cardlab.card.problem.arrays import Array, Index, Mask
from cardlab.card.problem.delay import Link, MiniBatch, OncePerRound, round_seconds, round_terms
from cardlab.card.problem.energy import server_busy_s
from cardlab.card.problem.objective import Range, check_energy, delay_weight, energy_is_known
from cardlab.card.problem.problem import PaperServer, Problem
from cardlab.card.solvers.device_kernels import device_batch, kept_points
from cardlab.card.solvers.enumeration import common_range
from cardlab.card.solvers.hull_kernels import admitted_points, hull_vertex, prefix_minimum, table_batch
from cardlab.card.solvers.hulls import energy_parts, hull_table
from cardlab.card.solvers.kernels import OWN_ROUND, ROUND, compiled, energy_interval, paper_batch
from cardlab.card.solvers.records import (
    Cuts,
    DeviceAnswer,
    Envelopes,
    Fleet,
    OfferedFleet,
    PaperAnswer,
    PaperModel,
    Rule,
    Spans,
    TableAnswer,
)
from cardlab.core.errors import PlanError

# Devices that one thread takes at a time: some milliseconds of work, and arrays that fit a core's cache.
_BLOCK = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAnswer:
    """One decision for each device [M].

    cut: layers on the device, 0 where no choice keeps the limits; place: index of that cut, -1 there;
    frequency_hz, cost: NaN there; listed: index of the frequency among the listed ones, -1 there and where the
    server takes any frequency; offered: index of the device's own frequency, 0 where it holds one, -1 there.
    """

    cut: Index
    place: Index
    frequency_hz: Array
    listed: Index
    offered: Index
    cost: Array

    @property
    def feasible(self) -> Mask:
        """Where a choice keeps every limit [M]."""
        return np.asarray(self.place >= 0)


def batch_applies(problem: Problem) -> bool:
    """Whether `solve_batch` takes the problem: ranges box or common, no guard band, and of devices that choose their
    frequency or are charged for whole rounds, tables."""
    listed = problem.continuous is None or not with_devices(problem)
    return problem.objective.range in ("box", "common") and problem.guard_s is None and listed


def with_devices(problem: Problem) -> bool:
    """Whether more than a device's cut decides what it costs: its frequency, its whole round, a price of its own."""
    whole = problem.objective.device_energy == "round"
    return problem.offer is not None or whole or problem.device_price_per_j is not None


def solve_batch(
    problem: Problem, *, threads: int | None = None, admitted: Mask | None = None, excluded: Index | None = None
) -> BatchAnswer:
    """The optimal cut and frequency of every device of a problem.

    Args:
        threads: defaults to the cores this process may use.
        admitted: the only cuts any device may have [C].
        excluded: index of a cut that a device may not have [M], -1 for none.

    Raises PlanError where power data are missing, for the ranges cut_only and per_cut, and for a guard band.
    """
    check_energy(problem)
    if problem.objective.range not in ("box", "common"):
        raise PlanError(f"a batch knows no range {problem.objective.range!r}", remedy='use range = "box" or "common"')
    if problem.guard_s is not None:
        raise PlanError("a batch knows no guard band", remedy="plan the devices one by one")
    fleet, cuts, rule = _fleet(problem, excluded), _cuts(problem, admitted), _rule(problem)
    if with_devices(problem):
        if problem.continuous is not None:
            raise PlanError(
                "a batch whose devices choose their frequency needs a server with listed ones",
                remedy="list frequencies_hz in [server], or plan the devices one by one",
            )
        return _offered(problem, fleet, cuts, rule, threads or _cores())
    if problem.continuous is None:
        return _table(problem, fleet, cuts, rule, threads or _cores())
    return _paper(problem, problem.continuous, fleet, cuts, rule, threads or _cores())


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _fleet(problem: Problem, excluded: Index | None) -> Fleet:
    count = len(problem.uplink_bps)
    codec_s = np.empty((0, 0))
    parts = (problem.encode_s, problem.decode_s)
    # A constant zero is one number seen M x C times, and costs no pass over memory.
    if not all(part.strides == (0, 0) and part[0, 0] == 0.0 for part in parts):
        codec_s = problem.encode_s + problem.decode_s
    # Compared by what is exceeded and not by what is kept: an unknown need or limit forbids nothing.
    too_large = problem.device_memory_bytes > problem.device_memory_limit_bytes[:, None]
    power_w = problem.device_power_w
    return Fleet(
        device_s=np.ascontiguousarray(problem.device_s),
        codec_s=np.ascontiguousarray(codec_s),
        handling_s=_once_s(problem),
        uplink_bps=np.ascontiguousarray(problem.uplink_bps),
        latency_s=np.ascontiguousarray(problem.latency),
        downlink_bps=np.ascontiguousarray(problem.downlink_bps),
        fits=np.ascontiguousarray(~too_large),
        power_w=np.where(np.isnan(power_w), 0.0, power_w),
        excluded=np.full(count, -1, dtype=np.int64) if excluded is None else np.ascontiguousarray(excluded),
        spans=_spans(None if problem.objective.range == "box" else common_range(problem), count),
    )


def _once_s(problem: Problem) -> Array:
    """Handling of adapters and moving of the cut [M,C]; empty where neither takes any time.

    The batch kernels know only the sum of a round's terms, and both come once a round.
    """
    if problem.handling_s is None and problem.moves_s is None:
        return np.empty((0, 0))
    moves = 0.0 if problem.moves_s is None else problem.moves_s
    return np.ascontiguousarray(problem.handling + moves)


def _spans(extent: Range | None, count: int) -> Spans:
    """The same range for all devices; empty where each has its own."""
    if extent is None:
        nothing = np.empty(0)
        return Spans(
            delay_min_s=nothing,
            delay_max_s=nothing,
            energy_min_j=nothing,
            energy_max_j=nothing,
            device_energy_min_j=nothing,
            device_energy_max_j=nothing,
        )
    energy = (0.0, 0.0) if extent.energy_j is None else (float(extent.energy_j[0]), float(extent.energy_j[1]))
    own = extent.device_energy_j or (0.0, 0.0)
    return Spans(
        delay_min_s=np.full(count, extent.delay_s[0]),
        delay_max_s=np.full(count, extent.delay_s[1]),
        energy_min_j=np.full(count, energy[0]),
        energy_max_j=np.full(count, energy[1]),
        device_energy_min_j=np.full(count, own[0]),
        device_energy_max_j=np.full(count, own[1]),
    )


def _cuts(problem: Problem, only: Mask | None) -> Cuts:
    limits = problem.constraints
    admitted = np.ones(problem.cuts.size, dtype=np.bool_) if only is None else np.array(only, dtype=np.bool_)
    if limits.min_device_layers is not None:
        admitted &= problem.cuts >= limits.min_device_layers
    admitted &= ~(problem.server_memory_bytes > problem.server_memory_limit_bytes)
    return Cuts(
        up_bits=8.0 * problem.up_bytes,
        down_bits=8.0 * problem.down_bytes,
        adapter_bits=8.0 * problem.adapter_bytes,
        admitted=admitted,
    )


def _rule(problem: Problem) -> Rule:
    limits, weight = problem.constraints, delay_weight(problem)
    # A device without known power keeps every cap on its energy, as in the enumeration.
    own_known = problem.offer is not None or not np.isnan(problem.device_power_w).all()
    paper, highest_hz = problem.continuous, np.inf
    if paper is not None and paper.kappa_w_per_hz3 and limits.server_power_w is not None:
        # A cap below the static power leaves no frequency at all, which is a highest one of 0.
        left_w = limits.server_power_w - paper.static_power_w
        highest_hz = float(np.cbrt(max(left_w, 0.0) / paper.kappa_w_per_hz3) * (1.0 - 1e-12))
    return Rule(
        epochs=float(problem.objective.local_epochs),
        switch_s=float(problem.switch_s),
        delay_weight=weight,
        energy_weight=0.0 if problem.power_w is None else 1.0 - weight,
        device_weight=float(problem.objective.device_energy_weight),
        deadline_s=_or_inf(limits.deadline_s),
        server_energy_j=_or_inf(limits.server_energy_j if energy_is_known(problem) else None),
        device_energy_j=_or_inf(limits.device_energy_j if own_known else None),
        highest_hz=highest_hz,
    )


def _or_inf(value: float | None) -> float:
    return np.inf if value is None else float(value)


def _paper(problem: Problem, paper: PaperServer, fleet: Fleet, cuts: Cuts, rule: Rule, threads: int) -> BatchAnswer:
    kind = problem.objective.energy
    wait = problem.wait_power_w if kind == "round" else None
    model = PaperModel(
        work=problem.objective.local_epochs * paper.flop / paper.flop_per_hz,
        kappa_w_per_hz3=paper.kappa_w_per_hz3 or 0.0,
        static_w=0.0 if kind == "above_idle" else paper.static_power_w,
        wait_w=0.0 if wait is None else float(wait[0]),
        low_hz=float(problem.frequency_hz.min()),
        high_hz=float(problem.frequency_hz.max()),
    )
    count = len(problem.uplink_bps)
    cut, frequency, cost = np.empty(count, np.int64), np.empty(count), np.empty(count)
    kernel = compiled(paper_batch, energy_interval, *ROUND)

    def solve(part: slice) -> None:
        out = PaperAnswer(cut=cut[part], frequency_hz=frequency[part], cost=cost[part])
        kernel(fleet.part(part), cuts, rule, model, out)

    _in_blocks(solve, count, threads)
    return _answer(problem, cut, frequency, np.full(count, -1, dtype=np.int64), cost)


def _table(problem: Problem, fleet: Fleet, cuts: Cuts, rule: Rule, threads: int) -> BatchAnswer:
    waits = _wait_span(fleet, cuts, rule) if problem.objective.energy == "round" else (0.0, 0.0)
    hulls = hull_table(problem, waits)
    envelopes = _envelopes(problem, waits)
    count = len(problem.uplink_bps)
    cut, point, cost = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count)
    kernel = compiled(table_batch, hull_vertex, prefix_minimum, admitted_points, *ROUND)

    def solve(part: slice) -> None:
        out = TableAnswer(cut=cut[part], point=point[part], cost=cost[part])
        kernel(fleet.part(part), cuts, rule, hulls, envelopes, out)

    _in_blocks(solve, count, threads)
    listed = hulls.frequency[np.maximum(cut, 0), np.maximum(point, 0)]
    return _answer(problem, cut, problem.frequency_hz[listed], np.where(cut < 0, -1, listed), cost)


def _offered(problem: Problem, fleet: Fleet, cuts: Cuts, rule: Rule, threads: int) -> BatchAnswer:
    """Tables whose devices choose their frequency, pay for whole rounds, or have a price of their own."""
    offered = _offered_fleet(problem, fleet)
    # The fleet's own times are 0 there: what the device takes comes on top, at each of its frequencies.
    waits = (0.0, 0.0)
    if problem.objective.energy == "round":
        others, own = _wait_span(offered.fleet, cuts, rule), (offered.device_s.min(), offered.device_s.max())
        waits = (others[0] + rule.epochs * float(own[0]), others[1] + rule.epochs * float(own[1]))
    hulls, envelopes = hull_table(problem, waits), _envelopes(problem, waits)
    count = len(problem.uplink_bps)
    cut, point, place = (np.empty(count, np.int64) for _ in range(3))
    cost = np.empty(count)
    kernel = compiled(device_batch, hull_vertex, prefix_minimum, kept_points, *OWN_ROUND)

    def solve(part: slice) -> None:
        out = DeviceAnswer(cut=cut[part], point=point[part], offered=place[part], cost=cost[part])
        kernel(offered.part(part), cuts, rule, hulls, envelopes, out)

    # Each of them has as many choices as a block of those that have none.
    _in_blocks(solve, count, threads, max(_BLOCK // problem.offered, 256))
    listed = hulls.frequency[np.maximum(cut, 0), np.maximum(point, 0)]
    return _answer(problem, cut, problem.frequency_hz[listed], np.where(cut < 0, -1, listed), cost, place)


def _offered_fleet(problem: Problem, fleet: Fleet) -> OfferedFleet:
    count, offer = len(problem.uplink_bps), problem.offer
    whole = problem.objective.device_energy == "round"
    unknown = np.full(count, np.nan)
    power_w, waiting_w = problem.device_power_w[:, None], unknown[:, None]
    if problem.device_wait_power_w is not None:
        waiting_w = problem.device_wait_power_w[:, None]
    device_s = problem.device_s[:, :, None]
    if offer is not None:
        device_s, power_w, waiting_w = offer.device_s, offer.power_w, offer.wait_power_w
    radio = [unknown if w is None else w for w in (problem.transmit_power_w, problem.receive_power_w)]
    price = problem.device_price_per_j

    def known(power: Array) -> Array:
        # What is not known is not weighed and not capped (`check_energy`, `check_caps`), and so any number will do.
        return np.ascontiguousarray(np.nan_to_num(power, nan=0.0))

    return OfferedFleet(
        fleet=fleet._replace(device_s=np.zeros((count, problem.cuts.size))),
        device_s=np.ascontiguousarray(device_s),
        power_w=known(power_w),
        waiting_w=known(waiting_w) if whole else np.zeros(power_w.shape),
        transmit_w=known(radio[0]),
        receive_w=known(radio[1]),
        price_per_j=np.empty(0) if price is None else np.ascontiguousarray(price),
        whole_round=whole,
    )


def _answer(
    problem: Problem, place: Index, frequency_hz: Array, listed: Index, cost: Array, offered: Index | None = None
) -> BatchAnswer:
    none = place < 0
    return BatchAnswer(
        cut=np.where(none, 0, problem.cuts[np.maximum(place, 0)]),
        place=place,
        frequency_hz=np.where(none, np.nan, frequency_hz),
        listed=listed,
        offered=np.where(none, -1, 0 if offered is None else offered),
        cost=np.where(none, np.nan, cost),
    )


def _in_blocks(solve: Callable[[slice], None], count: int, threads: int, block: int = _BLOCK) -> None:
    """Solve blocks of devices on threads; the kernels hold no interpreter lock."""
    parts = [slice(start, min(start + block, count)) for start in range(0, count, block)]
    # The first one alone, so that threads do not compile the same kernel side by side.
    solve(parts[0])
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(solve, parts[1:]))


def _wait_span(fleet: Fleet, cuts: Cuts, rule: Rule) -> tuple[float, float]:
    """Bounds of the time a server waits in a round, over devices and cuts: every term at its least, or its most."""

    def bound(pick: Callable[[Array], float], fast: Callable[[Array], float]) -> float:
        each = MiniBatch(
            device_s=pick(fleet.device_s),
            encode_s=pick(fleet.codec_s) if fleet.codec_s.size else 0.0,
            decode_s=0.0,
            server_s=0.0,
            up_bits=pick(cuts.up_bits),
            down_bits=pick(cuts.down_bits),
        )
        once = OncePerRound(
            adapter_bits=pick(cuts.adapter_bits),
            handling_s=pick(fleet.handling_s) if fleet.handling_s.size else 0.0,
            switch_s=rule.switch_s,
        )
        link = Link(
            uplink_bps=fast(fleet.uplink_bps),
            downlink_bps=fast(fleet.downlink_bps),
            latency_s=pick(fleet.latency_s),
        )
        return float(round_seconds(round_terms(rule.epochs, each, once, link)))

    return bound(_least, _most), bound(_most, _least)


def _least(values: Array) -> float:
    return float(values.min())


def _most(values: Array) -> float:
    return float(values.max())


def _envelopes(problem: Problem, waits_s: tuple[float, float]) -> Envelopes:
    """Which lines can bound a device's energy: among them the kernel finds its range without every frequency."""
    busy = np.asarray(server_busy_s(problem.objective.local_epochs, problem.server_s))
    busy_j, wait_w = energy_parts(problem, busy)
    # Waiting power that is the same at every frequency makes parallel lines: the lowest one is the lowest everywhere.
    constant = bool(np.ptp(wait_w) == 0.0)
    found = [[_lowest_lines(sign * row, sign * wait_w, waits_s, constant) for row in busy_j] for sign in (1.0, -1.0)]
    width = max(len(lines) for side in found for lines in side)
    base_j, slope_w = np.zeros((2, busy_j.shape[0], width)), np.zeros((2, busy_j.shape[0], width))
    for side in (0, 1):
        for c, lines in enumerate(found[side]):
            base_j[side, c, : len(lines)] = busy_j[c, lines]
            slope_w[side, c, : len(lines)] = wait_w[lines]
    return Envelopes(
        size=np.array([[len(lines) for lines in side] for side in found]),
        base_j=base_j,
        slope_w=slope_w,
        busy_min_s=busy.min(axis=1),
        busy_max_s=busy.max(axis=1),
    )


def _lowest_lines(height: Array, slope: Array, span: tuple[float, float], constant: bool) -> list[int]:
    """Indices of the lines height + slope x that are lowest somewhere on the span."""
    lines = [int(np.argmin(height + slope * span[0]))]
    while not constant:
        i = lines[-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = np.where(slope < slope[i], (height - height[i]) / (slope[i] - slope), np.inf)
        j = int(np.argmin(crossing))
        if not crossing[j] < span[1]:
            break
        lines.append(j)
    return lines
