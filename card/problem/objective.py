"""What a choice costs: server energy as it is counted, the ranges, and the weighted sum.

    U = w (D - Dmin)/(Dmax - Dmin) + (1 - w) (E - Emin)/(Emax - Emin)                CARD (12)

A range of no width contributes nothing: there is nothing to choose along it. Without power data the
energy is unknown and only w = 1 (all weight on delay) has an answer. The device's own energy can be
added with a weight of its own, scaled to its range over the cuts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cardlab.card.problem.arrays import Array
from cardlab.card.problem.energy import server_busy_s
from cardlab.card.problem.problem import Problem
from cardlab.core.errors import PlanError


@dataclass(frozen=True, slots=True)
class Range:
    """Extremes that the cost is measured by: numbers, or [C,1] where they differ by cut; None if unknown."""

    delay_s: tuple[float, float]
    energy_j: tuple[Array, Array] | None
    device_energy_j: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Every choice of one device: delay and energy [C,F] at the frequencies [F].

    `server_s` [C,F] is the server's time per mini-batch; `power_w` [F]; `device_energy_j` [C], a round.
    """

    frequency_hz: Array
    server_s: Array
    delay_s: Array
    energy_j: Array | None
    power_w: Array | None
    device_energy_j: Array | None


def delay_weight(problem: Problem) -> float:
    """The weight that lies on delay, whichever side the scenario states."""
    weight = problem.objective.weight
    return weight if problem.objective.weight_on == "delay" else 1.0 - weight


def check_energy(problem: Problem) -> None:
    """Raise PlanError if the objective needs power data that are not there."""
    if problem.objective.device_energy_weight > 0.0 and np.isnan(problem.device_power_w).any():
        unknown = problem.devices[int(np.argmax(np.isnan(problem.device_power_w)))]
        raise PlanError(
            f"the power of device {unknown!r} is not known, so its energy cannot be weighed",
            remedy="use device_energy_weight = 0, or give its power_w",
        )
    # Energy is then only reported, and unknown is a fair report.
    if delay_weight(problem) >= 1.0:
        return
    if problem.power_w is None:
        raise PlanError(
            "the server has no power data, so energy cannot be weighed",
            remedy="use --weight 1 (delay only), or a server whose power was measured",
        )
    if problem.objective.energy == "round" and problem.wait_power_w is None:
        raise PlanError(
            "the server's power while waiting is not known",
            remedy="use --energy busy or above_idle, or give wait_power_w",
        )
    if problem.objective.energy == "above_idle" and problem.idle_power_w is None:
        raise PlanError("the server's idle power was not measured", remedy="use --energy busy or round")


def table(problem: Problem, m: int, frequency_hz: Array | None = None) -> Table:
    """Delay and energy of every cut at every frequency of device m.

    `frequency_hz` other than the problem's own is only for a continuous server.
    """
    points = server_points(problem, frequency_hz)
    busy = np.asarray(server_busy_s(problem.objective.local_epochs, points.server_s))
    delay_s = problem.fixed_s(m)[:, None] + busy
    energy_j = None
    if points.power_w is not None:
        energy_j = server_energy_j(problem, busy, delay_s, points.power_w, points.wait_power_w)
    return Table(points.frequency_hz, points.server_s, delay_s, energy_j, points.power_w, problem.device_energy_j(m))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPoints:
    """The server at frequencies [F]: seconds per mini-batch [C,F]; power busy and waiting [F], None unknown."""

    frequency_hz: Array
    server_s: Array
    power_w: Array | None
    wait_power_w: Array | None


def server_points(problem: Problem, frequency_hz: Array | None = None) -> ServerPoints:
    """The server at its listed frequencies, or a continuous one at these."""
    paper = problem.continuous
    if frequency_hz is None or paper is None:
        return ServerPoints(
            frequency_hz=problem.frequency_hz,
            server_s=problem.server_s,
            power_w=problem.power_w,
            wait_power_w=problem.wait_power_w,
        )
    power_w, wait_w = problem.power_w, problem.wait_power_w
    if paper.kappa_w_per_hz3 is not None:
        power_w = np.asarray(paper.static_power_w + paper.kappa_w_per_hz3 * frequency_hz**3)
    return ServerPoints(
        frequency_hz=frequency_hz,
        server_s=paper.flop[:, None] / (frequency_hz[None, :] * paper.flop_per_hz),
        power_w=power_w,
        wait_power_w=None if wait_w is None else np.full(frequency_hz.size, wait_w[0]),
    )


def energy_is_known(problem: Problem) -> bool:
    """Whether the server's energy, counted as the objective says, can be computed."""
    kind = problem.objective.energy
    counted = {"above_idle": problem.idle_power_w, "round": problem.wait_power_w}
    return problem.power_w is not None and (kind not in counted or counted[kind] is not None)


def server_energy_j(
    problem: Problem, busy_s: Array, delay_s: Array, power_w: Array, wait_w: Array | None
) -> Array | None:
    """Server energy of rounds, counted as the objective says; arrays that broadcast. None where it is not known."""
    kind = problem.objective.energy
    if kind == "busy":
        return np.asarray(power_w * busy_s)
    if kind == "above_idle":
        return None if problem.idle_power_w is None else np.asarray((power_w - problem.idle_power_w) * busy_s)
    if wait_w is None:
        return None
    # What is not computing is waiting: for the device, its codec, the air and the handling of adapters.
    return np.asarray(power_w * busy_s + wait_w * (delay_s - busy_s))


def ranges(problem: Problem, tables: list[Table]) -> list[Range]:
    """The range of each device by the objective's rule, before constraints."""
    rule = problem.objective.range
    if rule == "cut_only":
        # One reading of the paper: it names extremes over cuts and does not say at which frequency.
        tables = [_top_frequency(t) for t in tables]
    if rule == "common":
        return [_extremes(tables)] * len(tables)
    own = [_extremes([t]) for t in tables]
    return [_per_cut(r, t) for r, t in zip(own, tables, strict=True)] if rule == "per_cut" else own


def _top_frequency(t: Table) -> Table:
    top = 0 if np.isnan(t.frequency_hz).all() else int(np.argmax(t.frequency_hz))
    last = slice(top, top + 1)
    energy = None if t.energy_j is None else t.energy_j[:, last]
    power = None if t.power_w is None else t.power_w[last]
    return Table(t.frequency_hz[last], t.server_s[:, last], t.delay_s[:, last], energy, power, t.device_energy_j)


def _extremes(tables: list[Table]) -> Range:
    delay = (min(float(t.delay_s.min()) for t in tables), max(float(t.delay_s.max()) for t in tables))
    energies = [t.energy_j for t in tables if t.energy_j is not None]
    energy = None
    if energies:
        energy = (np.array(min(e.min() for e in energies)), np.array(max(e.max() for e in energies)))
    own = [t.device_energy_j for t in tables if t.device_energy_j is not None]
    device = (min(float(e.min()) for e in own), max(float(e.max()) for e in own)) if own else None
    return Range(delay, energy, device)


def _per_cut(extent: Range, t: Table) -> Range:
    if t.energy_j is None:
        return extent
    lowest, highest = t.energy_j.min(axis=1, keepdims=True), t.energy_j.max(axis=1, keepdims=True)
    return Range(extent.delay_s, (lowest, highest), extent.device_energy_j)


def cost(problem: Problem, t: Table, extent: Range) -> Array:
    """U of every choice [C,F]."""
    weight = delay_weight(problem)
    low, high = extent.delay_s
    total = weight * _scaled(t.delay_s, np.array(low), np.array(high))
    if weight < 1.0 and t.energy_j is not None and extent.energy_j is not None:
        total = total + (1.0 - weight) * _scaled(t.energy_j, *extent.energy_j)
    own = problem.objective.device_energy_weight
    if own > 0.0 and t.device_energy_j is not None and extent.device_energy_j is not None:
        low, high = extent.device_energy_j
        total = total + own * _scaled(t.device_energy_j[:, None], np.array(low), np.array(high))
    return np.asarray(total)


def _scaled(values: Array, low: Array, high: Array) -> Array:
    # Divided by 1 where there is no width: the quotient is thrown away, and no warning is raised for it.
    width = np.where(high > low, high - low, 1.0)
    return np.asarray(np.where(high > low, (values - low) / width, 0.0))
