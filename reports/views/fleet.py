"""Devices side by side: facts, and for each task that they share time, power and energy of one step."""

from __future__ import annotations

from collections.abc import Sequence

from cardlab.core.quantity import Estimate
from cardlab.core.records.constants import Optimum
from cardlab.core.records.measurement import Point, Profile
from cardlab.reports.views.curves import powers_chart
from cardlab.reports.views.inputs import DeviceData
from cardlab.reports.views.parts import ORIGIN, Bars, Cell, Column, Part, Section, Table, file_key
from cardlab.reports.views.points import clock_of, step_estimate, top_point


def fleet_sections(fleet: Sequence[DeviceData], title: str | None = None) -> tuple[Section, ...]:
    """Facts of all devices, then one section a task."""
    tasks: dict[str, list[tuple[DeviceData, Profile]]] = {}
    for data in fleet:
        for profile in data.profiles:
            key = profile.run.workload or "workload" if profile.run.task is None else profile.run.task.uid
            tasks.setdefault(key, []).append((data, profile))
    stale = tuple(line for data in fleet for line in data.stale)
    facts = Section(title=title or f"Fleet of {len(fleet)} devices", level=1, parts=(_facts(fleet),), warnings=stale)
    return (facts, *(_task(key, members) for key, members in tasks.items()))


def _facts(fleet: Sequence[DeviceData]) -> Table:
    rows = tuple(
        (
            d.device.name,
            d.device.platform,
            d.device.model,
            None if d.device.cores is None else str(d.device.cores),
            d.device.frequency_max_hz,
            None if d.device.memory_bytes is None else float(d.device.memory_bytes),
            d.device.key,
        )
        for d in fleet
    )
    return Table(
        key="fleet",
        caption="devices, as they describe themselves",
        columns=(
            Column(name="device"),
            Column(name="platform"),
            Column(name="model"),
            Column(name="cores"),
            Column(name="highest frequency offered", unit="Hz", shown="MHz"),
            Column(name="memory", unit="bytes", shown="MiB"),
            Column(name="key"),
        ),
        rows=rows,
    )


def _task(key: str, members: Sequence[tuple[DeviceData, Profile]]) -> Section:
    run = members[0][1].run
    name, lines = run.workload or "workload", ("Each device at its highest unthrottled frequency.",)
    if run.task is not None:
        name = run.task.model
        lines = (
            f"Batch {run.task.batch} x {run.task.sequence} tokens, {run.task.lora.words}; each device at its"
            " highest unthrottled frequency. One step is the forward and backward pass of all segments, derived from"
            " their times.",
        )
    rows = tuple(_row(data, profile) for data, profile in members)
    parts: list[Part] = [_steps(members)]
    powers = [c for data, _ in members for c in data.curves if c.fit.quantity == "power" and _of(c.fit.task, run)]
    if len(powers) > 1:
        parts.append(powers_chart(powers, file_key("fleet-power", name)))
    energies = _energies(members)
    if any(v is not None for row in energies.values for v in row):
        parts.append(energies)
    return Section(title=f"Side by side: {name}", lines=lines, parts=(*parts, _table(key, rows)))


def _of(task: str | None, run: object) -> bool:
    own = getattr(run, "task", None)
    return task == (None if own is None else own.uid)


def _steps(members: Sequence[tuple[DeviceData, Profile]]) -> Bars:
    task = members[0][1].run.task
    segments = () if task is None else task.architecture.segments
    return Bars(
        key="fleet-step-time",
        title="latency of one training step, by segment",
        note="Forward and backward of all occurrences of a segment; derived from measured or simulated times.",
        unit="s",
        rows=tuple(f"{d.device.name}, {_clock_words(top_point(p))}" for d, p in members),
        terms=segments,
        values=tuple(tuple(_segment_s(p, s) for s in segments) for _, p in members),
    )


def _clock_words(point: Point | None) -> str:
    clock = None if point is None else clock_of(point)
    return "frequency N/A" if clock is None else f"{clock / 1e6:.5g} MHz"


def _segment_s(profile: Profile, segment: str) -> float | None:
    point = top_point(profile)
    if point is None or profile.run.analysis is None:
        return None
    total = None
    for cost in profile.run.analysis.segments:
        if cost.segment == segment:
            times = [point.latency(segment, phase) for phase in cost.phases]
            known = [t.value for t in times if t is not None]
            # A segment that lacks the time of one phase would look fast.
            total = cost.count * sum(known) if known and len(known) == len(times) else None
    return total


def _energies(members: Sequence[tuple[DeviceData, Profile]]) -> Bars:
    found = [_energy(profile) for _, profile in members]
    return Bars(
        key="fleet-step-energy",
        title="energy of one training step",
        note="Power x time at the highest unthrottled frequency, derived; N/A where there is no meter.",
        unit="J",
        rows=tuple(data.device.name for data, _ in members),
        terms=("energy",),
        values=tuple((None if e is None else e,) for e in found),
    )


def _energy(profile: Profile) -> float | None:
    point = top_point(profile)
    step = None if point is None else step_estimate(profile, point)
    power = _power(point, "power")
    return None if step is None or power is None else step.value * power.value


def _power(point: Point | None, quantity: str) -> Estimate | None:
    measured = None if point is None else point.total_power(quantity)
    return None if measured is None else measured.estimate


def _row(data: DeviceData, profile: Profile) -> tuple[Cell, ...]:
    point = top_point(profile)
    step = None if point is None else step_estimate(profile, point)
    power, waiting = _power(point, "power"), _power(point, "wait_power")
    best = next((b for b in data.optima if _same(b, profile, point)), None)
    return (
        data.device.name,
        None if point is None else clock_of(point),
        None if step is None else step.value,
        None if step is None else step.stderr,
        None if power is None else power.value,
        None if waiting is None else waiting.value,
        _energy(profile),
        None if best is None else best.optimum.frequency_hz,
        None if best is None else best.optimum.energy_j.value,
        str(profile.run.provenance),
    )


def _same(best: Optimum, profile: Profile, point: Point | None) -> bool:
    """Whether an optimum is of the task, rail, power mode and memory frequency that the rest of the row is of."""
    task = None if profile.run.task is None else profile.run.task.uid
    state = None if point is None else point.operating
    here = (None, None) if state is None else (state.power_mode, state.memory_hz)
    whole = (best.rail, best.power_mode, best.memory_hz) == (profile.total_rail, *here)
    return whole and (best.task, best.workload) == (task, profile.run.workload)


def _table(key: str, rows: tuple[tuple[Cell, ...], ...]) -> Table:
    return Table(
        key=file_key("side-by-side", key[:12]),
        caption="one training step on each device; energy = power x time, derived",
        columns=(
            Column(name="device"),
            Column(name="frequency", unit="Hz", shown="MHz"),
            Column(name="one step", unit="s"),
            Column(name="standard error", unit="s"),
            Column(name="power", unit="W"),
            Column(name="waiting power", unit="W"),
            Column(name="energy of one step", unit="J"),
            Column(name="frequency of least energy", unit="Hz", shown="MHz"),
            Column(name="energy there", unit="J"),
            ORIGIN,
        ),
        rows=rows,
    )
