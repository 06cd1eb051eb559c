"""The measured points of a run as tables: operating points, and segments at the highest frequency."""

from __future__ import annotations

from cardlab.core.quantity import Estimate, sum_of
from cardlab.core.records.measurement import POWERS, Point, Profile
from cardlab.core.records.workload import PHASES
from cardlab.reports.views.parts import ORIGIN, Cell, Column, Table, file_key

_MS = {"unit": "s", "shown": "ms"}
_CLOCK = {"unit": "Hz", "shown": "MHz"}


def top_point(profile: Profile) -> Point | None:
    """The point that plans are made from, else the finished one at the highest frequency; None if none is finished."""
    best = profile.best_point
    if best is not None:
        return best
    # A load has no layers, and a sweep may be throttled throughout: what there is of them is shown with its flags.
    done = [p for p in profile.points if p.done]
    return max(done, key=lambda p: (clock_of(p) or 0.0, p.index), default=None)


def clock_of(point: Point) -> float | None:
    """The frequency read back under load, Hz; None if it could not be read."""
    return None if point.operating is None else point.operating.frequency_hz


def step_estimate(profile: Profile, point: Point) -> Estimate | None:
    """Time of one training step, the sum of its segments, seconds; None if one was not measured."""
    analysis = profile.run.analysis
    phases = [None if analysis is None else point.sum_of_segments(analysis, phase) for phase in PHASES]
    known = [p for p in phases if p is not None]
    return sum_of(known) if len(known) == len(phases) else None


def points_table(profile: Profile) -> Table:
    """Every visited point with what was read back under load."""
    rows = []
    for point in sorted(profile.points, key=lambda p: (p.requested_hz or 0.0, p.index)):
        state = point.operating
        powers = [_power(point, quantity) for quantity in POWERS]
        step = step_estimate(profile, point)
        rows.append(
            (
                None if state is None else state.frequency_hz,
                point.requested_hz,
                None if state is None else state.memory_hz,
                None if state is None else state.power_mode,
                *powers,
                _stderr(point),
                None if state is None else state.temperature_c,
                None if step is None else step.value,
                _flags(point),
                str(profile.run.provenance),
            )
        )
    return Table(
        key=file_key(profile.run.device.name, "points"),
        caption=f"operating points, read back under load; power on rail {_rail(profile)}; a step is derived",
        columns=(
            Column(name="frequency", **_CLOCK),
            Column(name="requested", **_CLOCK),
            Column(name="memory frequency", **_CLOCK),
            Column(name="power mode"),
            Column(name="power", unit="W"),
            Column(name="waiting power", unit="W"),
            Column(name="idle power", unit="W"),
            Column(name="standard error of power", unit="W"),
            Column(name="temperature", unit="°C"),
            Column(name="one step", **_MS),
            Column(name="flags"),
            ORIGIN,
        ),
        rows=tuple(rows),
    )


def _power(point: Point, quantity: str) -> float | None:
    measured = point.total_power(quantity)
    return None if measured is None or measured.estimate is None else measured.estimate.value


def _stderr(point: Point) -> float | None:
    measured = point.total_power("power")
    return None if measured is None or measured.estimate is None else measured.estimate.stderr


def _rail(profile: Profile) -> str:
    rails = {m.rail for p in profile.points if (m := p.total_power("power")) is not None and m.rail}
    return ", ".join(sorted(rails)) or "N/A"


def _flags(point: Point) -> str:
    if point.operating is None:
        return "cut short"
    words = [
        *(["anchor"] if point.anchor else []),
        *(["throttled"] if point.operating.throttled else []),
        *(["contended"] if point.operating.contended else []),
        *point.operating.reasons,
    ]
    return "; ".join(words) or "-"


def segments_table(profile: Profile, point: Point) -> Table:
    """Time, work and energy of each segment at one point."""
    rows: list[tuple[Cell, ...]] = []
    for cost in () if profile.run.analysis is None else profile.run.analysis.segments:
        energy = point.segment_energy(cost)
        times: list[Cell] = []
        for phase in ("forward", "backward"):
            estimate = point.latency(cost.segment, phase) if phase in cost.phases else None
            missing = None if phase in cost.phases else "-"
            times += [missing, missing] if estimate is None else [estimate.value, estimate.stderr]
        rows.append(
            (
                cost.segment,
                str(cost.count),
                *times,
                cost.forward_flop,
                cost.backward_flop,
                cost.traffic_bytes or None,
                None if energy is None else energy.value,
                str(profile.run.provenance),
            )
        )
    clock = clock_of(point)
    at = "at a frequency that could not be read" if clock is None else f"at {clock / 1e6:.6g} MHz"
    work = {"unit": "FLOP", "shown": "GFLOP"}
    return Table(
        key=file_key(profile.run.device.name, "segments"),
        caption=f"segments {at}: one occurrence each; energy = power x time, derived; FLOP and bytes counted",
        columns=(
            Column(name="segment"),
            Column(name="count"),
            Column(name="forward", **_MS),
            Column(name="standard error", **_MS),
            Column(name="backward", **_MS),
            Column(name="standard error", **_MS),
            Column(name="forward work", **work),
            Column(name="backward work", **work),
            Column(name="least bytes moved", unit="bytes", shown="MiB"),
            Column(name="energy", unit="J"),
            ORIGIN,
        ),
        rows=tuple(rows),
    )
