"""A profile as the document of `profile-device --json` (keys fixed by the design, section 8)."""

from __future__ import annotations

from cardlab.core.plain import Document, to_plain
from cardlab.core.quantity import Estimate
from cardlab.core.records.measurement import POWERS, Point, Profile
from cardlab.core.records.workload import PHASES, Analysis, CutCost, SegmentCost, is_segment
from cardlab.reports.views.estimates import Estimates

KEYS = {quantity: f"{quantity}_w" for quantity in POWERS}


def profile_document(profile: Profile) -> Document:
    """The whole profile in plain SI numbers; None where nothing was measured."""
    run = profile.run
    return {
        "run_id": run.uid,
        "kind": run.kind.value,
        "started_at": run.started_at,
        "complete": profile.complete,
        "provenance": run.provenance.as_plain(),
        "device": to_plain(run.device),
        "task": _task(profile),
        "workload": run.workload,
        "execution": to_plain(run.execution),
        "environment": dict(run.environment.versions),
        "offered_hz": None if run.offered_hz is None else list(run.offered_hz),
        "memory_budget_bytes": run.memory_budget_bytes,
        "options": to_plain(run.options),
        "points": [point_document(point, run.analysis) for point in profile.points],
        "cuts": [] if run.analysis is None else [_cut(cut, profile) for cut in run.analysis.cuts],
        "check": check_document(profile),
        **({} if run.for_plan is None else {"for_plan": run.for_plan}),
    }


def _task(profile: Profile) -> Document | None:
    run = profile.run
    if run.task is None:
        return None
    document: Document = to_plain(run.task)
    document["layers"] = run.task.architecture.layers
    document["task_id"] = run.task.uid
    if run.analysis is not None:
        document["parameters"] = run.analysis.parameters
        document["trainable_parameters"] = run.analysis.trainable_parameters
        document["forward_flop"] = run.analysis.forward_flop
        document["backward_flop"] = run.analysis.backward_flop
        document["flop_disagreements"] = list(run.analysis.flop_disagreements)
        routed = [
            {"segment": s.segment, "experts": s.experts, "active_experts": s.active_experts}
            for s in run.analysis.segments
            if s.experts is not None
        ]
        if routed:
            document["routed_experts"] = routed
    return document


def _cut(cut: CutCost, profile: Profile) -> Document:
    """A cut and whether its device side fits the memory budget of the run; None where either is unknown."""
    document: Document = to_plain(cut)
    # Judged against the budget of the run, which is another on each board, and so no part of the cut itself.
    document["device_fits"] = profile.fits_on_device(cut.cut)
    return document


def point_document(point: Point, analysis: Analysis | None) -> Document:
    """One operating point; a point that was cut short has null where the end would have told."""
    estimates = Estimates()
    state = point.operating
    powers = {key: point.total_power(quantity) for quantity, key in KEYS.items()}
    document: Document = {
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
    total = powers[KEYS["power"]]
    document["meter_systematic"] = None if total is None or total.meter is None else total.meter.systematic
    document["meter_calibration"] = None if total is None or total.meter is None else total.meter.calibration
    for key, measurement in powers.items():
        document[key] = estimates.put(key, None if measurement is None else measurement.estimate)
    document["other"] = _other(point)
    document["estimates"] = estimates.beside
    return document


def _rails(point: Point) -> dict[str, dict[str, float | None]]:
    rails: dict[str, dict[str, float | None]] = {}
    for m in point.measurements:
        if m.quantity in POWERS and m.rail is not None:
            rail = rails.setdefault(m.rail, dict.fromkeys(KEYS.values()))
            rail[KEYS[m.quantity]] = None if m.estimate is None else m.estimate.value
    return rails


def _segments(point: Point, analysis: Analysis) -> list[Document]:
    return [_segment(point, cost) for cost in analysis.segments]


def _segment(point: Point, cost: SegmentCost) -> Document:
    estimates = Estimates()
    document: Document = {"segment": cost.segment, "count": cost.count}
    flags: set[str] = set()
    for phase in PHASES:
        measurement = point.find("latency", cost.segment, phase)
        estimate = None if measurement is None else measurement.estimate
        document[f"{phase}_s"] = estimates.put(f"{phase}_s", estimate)
        document[f"{phase}_flop"] = getattr(cost, f"{phase}_flop")
        flags.update(() if measurement is None else measurement.flags)
    document["energy_j"] = estimates.put("energy_j", point.segment_energy(cost))
    document["flags"] = sorted(flags)
    document["estimates"] = estimates.beside
    return document


def _other(point: Point) -> list[Document]:
    """Measurements that are neither power nor a segment's time (optimizer, copies, memory...)."""
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
        if m.quantity not in POWERS and not (m.quantity == "latency" and is_segment(m.segment))
    ]


def check_document(profile: Profile) -> Document:
    """Sum of the segments beside a real whole step, at the point where one was measured."""
    check = profile.step_check
    document: Document = {
        "sum_of_segments_s": check.total_s(check.sum_of_segments),
        "whole_step_s": check.total_s(check.whole_step),
    }
    for phase in PHASES:
        document[f"sum_of_segments_{phase}_s"] = _value(check.sum_of_segments[phase])
        document[f"whole_step_{phase}_s"] = _value(check.whole_step[phase])
    return document


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value
