"""Many devices at once, exactly: the paper's model in closed form, tables by their hulls.

Both walk devices in compiled loops on all cores. They take the same `Problem` and give the same answers
as the enumeration: what differs is that no table of all choices is ever written.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cardlab.card.problem.objective import check_energy, delay_weight
from cardlab.card.problem.problem import Array, Problem
from cardlab.card.solvers.hull_kernels import admitted_points, hull_vertex, prefix_minimum, table_batch
from cardlab.card.solvers.hulls import energy_parts, hull_table
from cardlab.card.solvers.kernels import compiled, energy_interval, paper_batch
from cardlab.core.errors import PlanError

_BLOCK = 8192


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """One decision for each device [M].

    cut: layers on the device, 0 where no choice keeps the limits; frequency_hz, cost: NaN there.
    """

    cut: npt.NDArray[np.int64]
    frequency_hz: Array
    cost: Array

    @property
    def feasible(self) -> npt.NDArray[np.bool_]:
        """Where a choice keeps every limit [M]."""
        return np.asarray(self.cut > 0)


def solve_batch(problem: Problem, *, threads: int | None = None) -> BatchAnswer:
    """The optimal cut and clock of every device of a problem.

    `threads` defaults to the cores this process may use. The ranges of the cost are "box" or "common".
    Raises PlanError where power data are missing, or for the rules cut_only and per_cut.
    """
    check_energy(problem)
    if problem.objective.range not in ("box", "common"):
        raise PlanError(f"a batch knows no range {problem.objective.range!r}", remedy='use range = "box" or "common"')
    if problem.guard_s is not None:
        raise PlanError("a batch knows no guard band", remedy="plan the devices one by one")
    run = _table if problem.continuous is None else _paper
    return run(problem, threads or _cores())


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _shared(problem: Problem) -> tuple[Any, ...]:
    """Device times and link, as both kernels take them first."""
    codec_s = np.empty((0, 0))
    parts = (problem.encode_s, problem.decode_s)
    # A constant zero is one number seen M x C times, and costs no pass over memory.
    if not all(part.strides == (0, 0) and part[0, 0] == 0.0 for part in parts):
        codec_s = problem.encode_s + problem.decode_s
    if problem.handling_s is not None:
        # The kernels know one time by device and cut, of which a round has T.
        each_s = problem.handling_s / problem.objective.local_epochs
        codec_s = codec_s + each_s if codec_s.size else np.ascontiguousarray(each_s)
    up, down, adapters = (8.0 * b for b in (problem.up_bytes, problem.down_bytes, problem.adapter_bytes))
    return (
        np.ascontiguousarray(problem.device_s),
        codec_s,
        float(problem.objective.local_epochs),
        up,
        down,
        adapters,
        float(problem.switch_s),
        problem.uplink_bps,
        problem.downlink_bps,
    )


def _weights(problem: Problem) -> Array:
    weight = delay_weight(problem)
    energy = 0.0 if problem.power_w is None else 1.0 - weight
    return np.array([weight, energy, problem.objective.device_energy_weight])


def _limits(problem: Problem) -> tuple[Any, ...]:
    """Admitted cuts, memory needed and there, device power, and bounds: deadline, both caps, top clock."""
    limits = problem.constraints
    admitted = np.ones(problem.cuts.size, dtype=np.bool_)
    if limits.min_device_layers is not None:
        admitted &= problem.cuts >= limits.min_device_layers
    admitted &= ~(problem.server_memory_bytes > problem.server_memory_limit_bytes)
    need = np.where(np.isnan(problem.device_memory_bytes), -np.inf, problem.device_memory_bytes)
    room = np.where(np.isnan(problem.device_memory_limit_bytes), np.inf, problem.device_memory_limit_bytes)
    known = not np.isnan(problem.device_power_w).all()
    device_w = np.where(np.isnan(problem.device_power_w), 0.0, problem.device_power_w)
    has_power = problem.power_w is not None
    bounds = np.array(
        [
            _or_inf(limits.deadline_s),
            _or_inf(limits.server_energy_j if has_power else None),
            _or_inf(limits.device_energy_j if known else None),
            np.inf,
        ]
    )
    paper = problem.continuous
    if paper is not None and paper.kappa_w_per_hz3 and limits.server_power_w is not None:
        left_w = limits.server_power_w - paper.static_power_w
        bounds[3] = np.cbrt(max(left_w, 0.0) / paper.kappa_w_per_hz3) * (1.0 - 1e-12)
    return admitted, need, room, device_w, bounds


def _or_inf(value: float | None) -> float:
    return np.inf if value is None else float(value)


def _paper(problem: Problem, threads: int) -> BatchAnswer:
    paper = problem.continuous
    assert paper is not None
    kind = problem.objective.energy
    kappa = paper.kappa_w_per_hz3 or 0.0
    wait = problem.wait_power_w if kind == "round" else None
    static_w = 0.0 if kind == "above_idle" else paper.static_power_w
    low, high = float(problem.frequency_hz.min()), float(problem.frequency_hz.max())
    model = np.array([kappa, static_w, 0.0 if wait is None else wait[0], low, high])
    shared = _shared(problem)
    work = problem.objective.local_epochs * paper.flop / paper.flop_per_hz
    limits = _limits(problem)
    extents = _common(problem)

    def block(part: slice, out: tuple[Any, ...]) -> None:
        device_s, codec_s, epochs, up, down, adapters, switch_s, uplink, downlink = shared
        admitted, need, room, device_w, bounds = limits
        compiled(paper_batch, energy_interval)(
            device_s[part],
            codec_s[part],
            epochs,
            up,
            down,
            adapters,
            switch_s,
            uplink[part],
            downlink[part],
            work,
            model,
            _weights(problem),
            admitted,
            need,
            room[part],
            device_w[part],
            bounds,
            extents[part],
            *out,
        )

    cut, clock, cost = _in_blocks(block, len(problem.uplink_bps), np.float64, threads)
    return BatchAnswer(_cuts(problem, cut), np.where(cut < 0, np.nan, clock), np.where(cut < 0, np.nan, cost))


def _table(problem: Problem, threads: int) -> BatchAnswer:
    shared = _shared(problem)
    waits = _wait_span(shared) if problem.objective.energy == "round" else (0.0, 0.0)
    hulls = hull_table(problem, waits)
    limits, extents = _limits(problem), _common(problem)
    busy_s = problem.objective.local_epochs * problem.server_s
    span = np.stack([busy_s.min(axis=1), busy_s.max(axis=1)], axis=1)
    lines, envelopes = _envelopes(*energy_parts(problem, busy_s), waits)

    def block(part: slice, out: tuple[Any, ...]) -> None:
        device_s, codec_s, epochs, up, down, adapters, switch_s, uplink, downlink = shared
        admitted, need, room, device_w, bounds = limits
        compiled(table_batch, hull_vertex, prefix_minimum, admitted_points)(
            device_s[part],
            codec_s[part],
            epochs,
            up,
            down,
            adapters,
            switch_s,
            uplink[part],
            downlink[part],
            hulls.count,
            hulls.server_s,
            hulls.busy_j,
            hulls.wait_w,
            hulls.level_s,
            hulls.energy_j,
            hulls.below,
            hulls.hull_size,
            hulls.hull,
            hulls.slope,
            lines,
            envelopes,
            span,
            _weights(problem),
            admitted,
            need,
            room[part],
            device_w[part],
            bounds,
            extents[part],
            *out,
        )

    cut, point, cost = _in_blocks(block, len(problem.uplink_bps), np.int64, threads)
    clock = hulls.clock[np.maximum(cut, 0), np.maximum(point, 0)]
    frequency = np.where(cut < 0, np.nan, problem.frequency_hz[clock])
    return BatchAnswer(_cuts(problem, cut), frequency, np.where(cut < 0, np.nan, cost))


def _cuts(problem: Problem, index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.asarray(np.where(index < 0, 0, problem.cuts[np.maximum(index, 0)]))


def _in_blocks(
    block: Callable[[slice, tuple[Any, ...]], None], count: int, clock_kind: type[Any], threads: int
) -> tuple[Any, Any, Any]:
    """Solve blocks of devices on threads; the kernels hold no interpreter lock."""
    cut, clock, cost = np.empty(count, np.int64), np.empty(count, clock_kind), np.empty(count)

    def one(start: int) -> None:
        part = slice(start, min(start + _BLOCK, count))
        block(part, (cut[part], clock[part], cost[part]))

    starts = list(range(0, count, _BLOCK))
    one(starts[0])
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, starts[1:]))
    return cut, clock, cost


def _wait_span(shared: tuple[Any, ...]) -> tuple[float, float]:
    """Bounds of the time a server waits in a round, over devices and cuts."""
    device_s, codec_s, epochs, up, down, adapters, switch_s, uplink, downlink = shared
    slow, fast = (1.0 / uplink.min(), 1.0 / downlink.min()), (1.0 / uplink.max(), 1.0 / downlink.max())
    least = epochs * (device_s.min() + up.min() * fast[0] + down.min() * fast[1]) + adapters.min() * sum(fast)
    most = epochs * (device_s.max() + up.max() * slow[0] + down.max() * slow[1]) + adapters.max() * sum(slow)
    codec = (0.0, 0.0) if not codec_s.size else (epochs * codec_s.min(), epochs * codec_s.max())
    return float(least + codec[0] + switch_s), float(most + codec[1] + switch_s)


def _envelopes(busy_j: Array, wait_w: Array, waits_s: tuple[float, float]) -> tuple[npt.NDArray[np.int64], Array]:
    """Lines that can be the lowest [0] or highest [1] energy of a cut: how many [2,C], (J, W) [2,C,J,2]."""
    grid = np.array([0.0]) if np.ptp(wait_w) == 0.0 else None
    found: list[list[list[int]]] = [[], []]
    for row in busy_j:
        for side, sign in ((0, 1.0), (1, -1.0)):
            found[side].append(_lowest_lines(sign * row, sign * wait_w, waits_s, grid is not None))
    width = max(len(lines) for side in found for lines in side)
    made = np.zeros((2, busy_j.shape[0], width, 2))
    many = np.array([[len(lines) for lines in side] for side in found])
    for side in (0, 1):
        for c, lines in enumerate(found[side]):
            made[side, c, : len(lines), 0] = busy_j[c, lines]
            made[side, c, : len(lines), 1] = wait_w[lines]
    return many, made


def _lowest_lines(height: Array, slope: Array, span: tuple[float, float], constant: bool) -> list[int]:
    """Indices of the lines height + slope x that are lowest somewhere on the span."""
    at = span[0]
    lines = [int(np.argmin(height + slope * at))]
    while not constant:
        i = lines[-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = np.where(slope < slope[i], (height - height[i]) / (slope[i] - slope), np.inf)
        j = int(np.argmin(crossing))
        if not crossing[j] < span[1]:
            break
        lines.append(j)
    return lines


def _common(problem: Problem) -> Array:
    """Ranges [M,6] given to the kernel; [0,6] where it takes each device's own."""
    if problem.objective.range == "box":
        return np.empty((0, 6))
    from cardlab.card.schemes.card.planning import extents_of

    extents = extents_of(problem)
    rows = [
        (
            *e.delay_s,
            *(map(float, e.energy_j) if e.energy_j else (0.0, 0.0)),
            *(e.device_energy_j or (0.0, 0.0)),
        )
        for e in extents
    ]
    return np.array(rows)
