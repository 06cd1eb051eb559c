"""A profile as the document of `profile-device --json` (keys fixed by the design, section 8)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cardlab.core.plain import to_plain
from cardlab.core.quantity import Estimate, product
from cardlab.core.records.measurement import Measurement, Point, Profile
from cardlab.core.records.workload import Analysis, CutCost, SegmentCost
from cardlab.reports.views.estimates import Estimates

POWERS = {"power": "power_w", "wait_power": "wait_power_w", "idle_power": "idle_power_w"}


def profile_document(profile: Profile) -> dict[str, Any]:
    """The whole profile in plain SI numbers; None where nothing was measured."""
    run = profile.run
    return {
        "run_id": run.uid,
        "kind": run.kind,
        "started_at": run.started_at,
        "complete": profile.complete,
        "provenance": run.provenance.as_plain(),
        "device": to_plain(run.device),
        "task": _task(profile),
        "workload": run.workload,
        "execution": to_plain(run.execution),
        "environment": dict(run.environment.versions),
        "options": to_plain(run.options),
        "points": [point_document(point, run.analysis) for point in profile.points],
        "cuts": [] if run.analysis is None else [_cut(cut, run.options) for cut in run.analysis.cuts],
        "check": check_document(profile),
    }


def _task(profile: Profile) -> dict[str, Any] | None:
    run = profile.run
    if run.task is None:
        return None
    document: dict[str, Any] = to_plain(run.task)
    document["layers"] = run.task.architecture.layers
    document["task_id"] = run.task.uid
    if run.analysis is not None:
        document["parameters"] = run.analysis.parameters
        document["trainable_parameters"] = run.analysis.trainable_parameters
        document["forward_flop"] = run.analysis.forward_flop
        document["backward_flop"] = run.analysis.backward_flop
        document["flop_disagreements"] = list(run.analysis.flop_disagreements)
    return document


def _cut(cut: CutCost, options: Mapping[str, object]) -> dict[str, Any]:
    """A cut and whether its device side fits the memory budget of the run; None where either is unknown."""
    document: dict[str, Any] = to_plain(cut)
    budget = options.get("memory_budget_bytes")
    needed = cut.device_memory_bytes
    document["device_fits"] = needed <= budget if isinstance(budget, int) and needed is not None else None
    return document


def point_document(point: Point, analysis: Analysis | None) -> dict[str, Any]:
    """One operating point; a point that was cut short has null where the end would have told."""
    estimates = Estimates()
    state = point.operating
    powers = {key: total_power(point, quantity) for quantity, key in POWERS.items()}
    document: dict[str, Any] = {
        "index": point.index,
        "done": point.done,
        "anchor": point.anchor,
        "requested_hz": point.requested_hz,
        "frequency_hz": None if state is None else state.frequency_hz,
        "memory_hz": None if state is None else state.memory_hz,
        "cpu_hz": None if state is None else state.cpu_hz,
        "power_mode": None if state is None else state.power_mode,
        "cores_active": None if state is None else state.cores_active,
        "temperature_c": None if state is None else state.temperature_c,
        "throttled": None if state is None else state.throttled,
        "contended": None if state is None else state.contended,
        "reasons": [] if state is None else list(state.reasons),
        "rail": next((m.rail for m in powers.values() if m is not None), None),
        "rails": _rails(point),
        "segments": [] if analysis is None else _segments(point, analysis),
    }
    for key, measurement in powers.items():
        document[key] = estimates.put(key, None if measurement is None else measurement.estimate)
    document["other"] = _other(point)
    document["estimates"] = estimates.beside
    return document


def total_power(point: Point, quantity: str) -> Measurement | None:
    """The power measurement that covers the whole device, None if there is no meter."""
    found = [m for m in point.measurements if m.quantity == quantity and m.details.get("total")]
    return found[-1] if found else None


def segment_estimate(point: Point, segment: str, phase: str) -> Estimate | None:
    """Measured time of one occurrence of a segment, seconds."""
    measurement = point.find("latency", segment, phase)
    return None if measurement is None else measurement.estimate


def segment_energy(point: Point, cost: SegmentCost) -> Estimate | None:
    """Energy of one forward and backward of a segment: power x time, derived; joules."""
    power = total_power(point, "power")
    times = [segment_estimate(point, cost.segment, phase) for phase in cost.phases]
    known = [t for t in times if t is not None]
    if power is None or power.estimate is None or len(known) < len(times):
        return None
    return product(power.estimate, sum_of(known))


def sum_of(estimates: Iterable[Estimate]) -> Estimate:
    """Sum of independent estimates; the standard error is unknown if one of them is."""
    parts = list(estimates)
    errors = [e.stderr for e in parts]
    known = [e for e in errors if e is not None]
    stderr = sum(e * e for e in known) ** 0.5 if len(known) == len(errors) else None
    value = sum(e.value for e in parts)
    ci95 = None if stderr is None else (value - 1.96 * stderr, value + 1.96 * stderr)
    provenance = parts[0].provenance.joined(e.provenance for e in parts[1:])
    return Estimate(value, stderr, ci95, None, provenance)


def _rails(point: Point) -> dict[str, dict[str, float | None]]:
    rails: dict[str, dict[str, float | None]] = {}
    for m in point.measurements:
        if m.quantity in POWERS and m.rail is not None:
            rail = rails.setdefault(m.rail, dict.fromkeys(POWERS.values()))
            rail[POWERS[m.quantity]] = None if m.estimate is None else m.estimate.value
    return rails


def _segments(point: Point, analysis: Analysis) -> list[dict[str, Any]]:
    return [_segment(point, cost) for cost in analysis.segments]


def _segment(point: Point, cost: SegmentCost) -> dict[str, Any]:
    estimates = Estimates()
    document: dict[str, Any] = {"segment": cost.segment, "count": cost.count}
    flags: set[str] = set()
    for phase in ("forward", "backward"):
        measurement = point.find("latency", cost.segment, phase)
        estimate = None if measurement is None else measurement.estimate
        document[f"{phase}_s"] = estimates.put(f"{phase}_s", estimate)
        document[f"{phase}_flop"] = getattr(cost, f"{phase}_flop")
        flags.update(() if measurement is None else measurement.flags)
    document["energy_j"] = estimates.put("energy_j", segment_energy(point, cost))
    document["flags"] = sorted(flags)
    document["estimates"] = estimates.beside
    return document


def _other(point: Point) -> list[dict[str, Any]]:
    """Measurements that are neither power nor a segment's time (optimizer, copies, memory...)."""
    own = ("embedding", "first_layer", "layer", "head")
    return [
        {
            "quantity": m.quantity,
            "segment": m.segment,
            "phase": m.phase,
            "unit": m.unit,
            "value": None if m.estimate is None else m.estimate.value,
            "flags": list(m.flags),
        }
        for m in point.measurements
        if m.quantity not in POWERS and not (m.quantity == "latency" and m.segment in own)
    ]


def check_document(profile: Profile) -> dict[str, Any]:
    """Sum of the segments beside a real whole step, at the point where one was measured."""
    point = _checked_point(profile.points)
    sums = {phase: sum_of_segments(point, profile.run.analysis, phase) for phase in ("forward", "backward")}
    whole = {
        phase: None if point is None else segment_estimate(point, "whole_step", phase)
        for phase in ("forward", "backward")
    }
    document: dict[str, Any] = {
        "sum_of_segments_s": _total(sums),
        "whole_step_s": _total(whole),
    }
    for phase in ("forward", "backward"):
        document[f"sum_of_segments_{phase}_s"] = _value(sums[phase])
        document[f"whole_step_{phase}_s"] = _value(whole[phase])
    return document


def _checked_point(points: tuple[Point, ...]) -> Point | None:
    with_step = [p for p in points if p.find("latency", "whole_step", "forward") is not None]
    if with_step:
        return with_step[-1]
    done = [p for p in points if p.done]
    return max(done, key=lambda p: p.requested_hz or 0.0) if done else None


def sum_of_segments(point: Point | None, analysis: Analysis | None, phase: str) -> Estimate | None:
    """Time of one phase of the whole model from its segments; None if one is missing."""
    if point is None or analysis is None:
        return None
    parts = []
    for cost in analysis.segments:
        if phase not in cost.phases:
            continue
        estimate = segment_estimate(point, cost.segment, phase)
        if estimate is None:
            return None
        parts.append(estimate.scaled(cost.count))
    return sum_of(parts)


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _total(phases: dict[str, Estimate | None]) -> float | None:
    known = [e.value for e in phases.values() if e is not None]
    return sum(known) if len(known) == len(phases) else None
