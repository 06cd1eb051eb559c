"""What a choice costs: server energy as it is counted, the ranges, and the weighted sum.

    U = w (D - Dmin)/(Dmax - Dmin) + (1 - w) (E - Emin)/(Emax - Emin)                CARD (12)

A range of no width contributes nothing: there is nothing to choose along it. Without power data the
energy is unknown and only w = 1 (all weight on delay) has an answer. The device's own energy is added with a weight
of its own, W >= 0, scaled to its range as the server's is:

    U + W (E_dev - E_dev,min)/(E_dev,max - E_dev,min)

over all cuts, server frequencies and device frequencies of that device and round ("box"; the other rules likewise).

Where devices choose their frequency, a column of a table is a pair: a server frequency f and a device frequency g,
f first. With one frequency each the columns are the server's frequencies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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
    """Every choice of one device: delay and energies [C,K] at the pairs of frequencies [K], K = F G.

    `server_s` [C,K] is the server's time per mini-batch; `power_w` [K] the server's; `device_energy_j` [C,K], a round,
    counted as the objective says, and `device_price_per_j` what a joule of it costs beyond the objective;
    `device_frequency_hz` [K], NaN unknown; `offered` is G.
    """

    frequency_hz: Array
    server_s: Array
    delay_s: Array
    energy_j: Array | None
    power_w: Array | None
    device_energy_j: Array | None
    device_frequency_hz: Array
    device_price_per_j: float = 0.0
    offered: int = 1

    def device_place(self, column: int) -> int:
        """Index of the device frequency of a column."""
        return column % self.offered

    def server_place(self, column: int) -> int:
        """Index of the server frequency of a column."""
        return column // self.offered


def delay_weight(problem: Problem) -> float:
    """The weight that lies on delay, whichever side the scenario states."""
    weight = problem.objective.weight
    return weight if problem.objective.weight_on == "delay" else 1.0 - weight


def check_energy(problem: Problem) -> None:
    """Raise PlanError if the objective needs power data that are not there."""
    if problem.objective.device_energy_weight > 0.0:
        lacking = unknown_device_power(problem)
        if lacking is not None:
            raise PlanError(
                f"{lacking}, so its energy cannot be weighed", remedy=device_power_remedy(problem, "--device-weight 0")
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


def unknown_device_power(problem: Problem, needed: Sequence[bool] | None = None) -> str | None:
    """Which power of which device its energy needs, counted as the objective says, and nobody knows; in words.

    `needed`: whose energy is [M]; everyone's by default.
    """
    offer, missing = problem.offer, np.full(len(problem.devices), np.nan)
    powers = {"power": problem.device_power_w if offer is None else offer.power_w}
    if problem.objective.device_energy == "round":
        waiting = problem.device_wait_power_w if offer is None else offer.wait_power_w
        others = {
            "waiting power": waiting,
            "transmit_power_w": problem.transmit_power_w,
            "receive_power_w": problem.receive_power_w,
        }
        powers |= {name: missing if found is None else found for name, found in others.items()}
    for name, found in powers.items():
        unknown = np.isnan(found).reshape(len(problem.devices), -1).any(axis=1)
        if needed is not None:
            unknown &= np.asarray(needed, dtype=bool)
        if unknown.any():
            return f"the {name} of device {problem.devices[int(np.argmax(unknown))]!r} is not known"
    return None


def device_power_remedy(problem: Problem, without: str) -> str:
    """What helps where a power of a device is not known; `without` is the option to leave."""
    if problem.objective.device_energy == "round":
        return f"give it in [[devices]], use --device-energy compute, or {without}"
    return f"measure it with a meter, give its power_w in [[devices]], or {without}"


def table(problem: Problem, m: int, frequency_hz: Array | None = None) -> Table:
    """Delay and energy of every cut at every frequency of device m.

    `frequency_hz` other than the problem's own is only for a continuous server.
    """
    points = server_points(problem, frequency_hz)
    each = [_table_at(problem.at_offered(g), m, points) for g in range(problem.offered)]
    return each[0] if problem.offer is None else _side_by_side(each)


def _table_at(problem: Problem, m: int, points: ServerPoints) -> Table:
    """The table of a device that holds one frequency."""
    busy = np.asarray(server_busy_s(problem.objective.local_epochs, points.server_s))
    delay_s = problem.fixed_s(m)[:, None] + busy
    energy_j = None
    if points.power_w is not None:
        energy_j = server_energy_j(problem, busy, delay_s, points.power_w, points.wait_power_w)
    held_hz = np.nan if problem.device_frequency_hz is None else float(problem.device_frequency_hz[m])
    return Table(
        frequency_hz=points.frequency_hz,
        server_s=points.server_s,
        delay_s=delay_s,
        energy_j=energy_j,
        power_w=points.power_w,
        device_energy_j=problem.device_energy_j(m, delay_s),
        device_frequency_hz=np.full(points.frequency_hz.size, held_hz),
        device_price_per_j=0.0 if problem.device_price_per_j is None else float(problem.device_price_per_j[m]),
    )


def _side_by_side(each: list[Table]) -> Table:
    """Tables of one device at its frequencies as one, device frequencies next to each other."""
    count = len(each)

    def paired(pick: Callable[[Table], Array | None]) -> Array | None:
        found = [array for array in map(pick, each) if array is not None]
        if len(found) < count:
            return None
        stacked = np.stack(found, axis=-1)
        return stacked.reshape(*stacked.shape[:-2], -1)

    def known(pick: Callable[[Table], Array]) -> Array:
        found = paired(pick)
        assert found is not None
        return found

    return Table(
        frequency_hz=known(lambda t: t.frequency_hz),
        server_s=known(lambda t: t.server_s),
        delay_s=known(lambda t: t.delay_s),
        energy_j=paired(lambda t: t.energy_j),
        power_w=paired(lambda t: t.power_w),
        device_energy_j=paired(lambda t: t.device_energy_j),
        device_frequency_hz=known(lambda t: t.device_frequency_hz),
        device_price_per_j=each[0].device_price_per_j,
        offered=count,
    )


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
    last = slice(top_column(t), top_column(t) + 1)
    energy, own = (None if e is None else e[:, last] for e in (t.energy_j, t.device_energy_j))
    power = None if t.power_w is None else t.power_w[last]
    return replace(
        t,
        frequency_hz=t.frequency_hz[last],
        server_s=t.server_s[:, last],
        delay_s=t.delay_s[:, last],
        energy_j=energy,
        power_w=power,
        device_energy_j=own,
        device_frequency_hz=t.device_frequency_hz[last],
        offered=1,
    )


def top_column(t: Table) -> int:
    """The highest server frequency with the highest device frequency; what is not known counts as lowest."""
    server, device = np.nan_to_num(t.frequency_hz, nan=-1.0), np.nan_to_num(t.device_frequency_hz, nan=-1.0)
    # The last key is the first to sort by, and of equals the first column counts.
    order = np.lexsort((-np.arange(server.size), device, server))
    return int(order[-1])


def _extremes(tables: list[Table]) -> Range:
    delay = (min(float(t.delay_s.min()) for t in tables), max(float(t.delay_s.max()) for t in tables))
    energies = [t.energy_j for t in tables if t.energy_j is not None]
    energy = None
    if energies:
        energy = (np.array(min(e.min() for e in energies)), np.array(max(e.max() for e in energies)))
    own = [t.device_energy_j for t in tables if t.device_energy_j is not None]
    device = (min(float(e.min()) for e in own), max(float(e.max()) for e in own)) if own else None
    return Range(delay, energy, device)


def common_of(extents: list[Range]) -> Range:
    """One range over several; each of them holds numbers."""
    energies = [e.energy_j for e in extents if e.energy_j is not None]
    own = [e.device_energy_j for e in extents if e.device_energy_j is not None]
    return Range(
        (min(e.delay_s[0] for e in extents), max(e.delay_s[1] for e in extents)),
        (np.min([e[0] for e in energies], axis=0), np.max([e[1] for e in energies], axis=0)) if energies else None,
        (min(e[0] for e in own), max(e[1] for e in own)) if own else None,
    )


def _per_cut(extent: Range, t: Table) -> Range:
    if t.energy_j is None:
        return extent
    lowest, highest = t.energy_j.min(axis=1, keepdims=True), t.energy_j.max(axis=1, keepdims=True)
    return Range(extent.delay_s, (lowest, highest), extent.device_energy_j)


def cost(problem: Problem, t: Table, extent: Range) -> Array:
    """U of every choice [C,K]."""
    weight = delay_weight(problem)
    low, high = extent.delay_s
    total = weight * _scaled(t.delay_s, np.array(low), np.array(high))
    if weight < 1.0 and t.energy_j is not None and extent.energy_j is not None:
        total = total + (1.0 - weight) * _scaled(t.energy_j, *extent.energy_j)
    own = problem.objective.device_energy_weight
    if own > 0.0 and t.device_energy_j is not None and extent.device_energy_j is not None:
        low, high = extent.device_energy_j
        total = total + own * _scaled(t.device_energy_j, np.array(low), np.array(high))
    if t.device_price_per_j > 0.0 and t.device_energy_j is not None:
        total = total + t.device_price_per_j * t.device_energy_j
    return np.asarray(total)


def _scaled(values: Array, low: Array, high: Array) -> Array:
    # Divided by 1 where there is no width: the quotient is thrown away, and no warning is raised for it.
    width = np.where(high > low, high - low, 1.0)
    return np.asarray(np.where(high > low, (values - low) / width, 0.0))
