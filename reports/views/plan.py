"""A plan as the document of `card plan --json` (keys fixed by the design, section 8)."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from cardlab.core.plain import Document, to_plain
from cardlab.core.records.plan import Decision, DelayTerms, Outcome, Plan
from cardlab.core.records.side_by_side import SideBySide


def plan_document(plan: Plan) -> Document:
    """The whole plan in plain SI numbers; null where nothing is known."""
    return {
        "plan_id": plan.uid,
        "scheme": plan.scheme,
        "task": plan.task,
        "local_epochs": plan.local_epochs,
        "compression": plan.compression,
        "wire_dtype": plan.wire_dtype,
        **({"server_sharing": plan.server_sharing} if plan.scheme == "sft" else {}),
        "created_at": plan.created_at,
        "energy": plan.energy,
        "device_energy": plan.device_energy,
        "provenance": plan.provenance.as_plain(),
        "assumptions": list(plan.assumptions),
        "notes": list(plan.notes),
        "fits": list(plan.fits),
        "runs": list(plan.runs),
        "links": list(plan.links),
        "uncertainty": dict(plan.uncertainty),
        "pareto": to_plain(plan.pareto),
        "sensitivity": to_plain(plan.sensitivity),
        "side_by_side": None if plan.side_by_side is None else _side_by_side(plan.side_by_side),
        "budget": to_plain(plan.budget),
        "rounds": [
            {
                "round": r.round,
                "devices": [{**_decision(d), **(_shared(d) if plan.scheme == "sft" else {})} for d in r.devices],
            }
            for r in plan.rounds
        ],
        "summary": _summary(plan),
    }


def _decision(d: Decision) -> Document:
    return {
        "device": d.device,
        "cut": d.cut,
        "frequency_hz": d.frequency_hz,
        "delay_s": d.delay_s,
        "delay_terms": {f.name: getattr(d.delay_terms, f.name) for f in fields(DelayTerms)},
        "server_energy_j": d.server_energy_j,
        "device_frequency_hz": d.device_frequency_hz,
        "device_energy_j": d.device_energy_j,
        "device_energy_terms": to_plain(d.device_energy_terms),
        "device_energy_total_j": None if d.device_energy_terms is None else d.device_energy_terms.total,
        "cost": d.cost,
        "cut_probability": d.cut_probability,
        "binding": list(d.binding),
        "runner_up": to_plain(d.runner_up),
        "estimates": {
            **{f"delay_terms.{name}": _beside(ci95, d) for name, ci95 in d.terms_ci95.items()},
            "delay_s": _beside(d.delay_ci95, d),
            **{f"delay_terms_mean.{name}": _beside(ci95, d) for name, ci95 in d.terms_mean_ci95.items()},
            "delay_mean_s": _beside(d.delay_mean_ci95, d),
            "server_energy_j": None if d.server_energy_j is None else _beside(d.server_energy_ci95, d),
        },
    }


def _side_by_side(found: SideBySide) -> Document:
    """Rows as they are from Python, and what explains them."""
    return {
        "rows": [
            {**row, "lacks": to_plain(setting.lacks), "provenance": setting.provenance.as_plain()}
            for row, setting in zip(found.rows(), found.settings, strict=True)
        ],
        "notes": list(found.notes),
    }


def _shared(d: Decision) -> Document:
    """What a parallel scheme adds; a loss penalty that is not known is null."""
    return {
        "waiting_s": d.waiting_s,
        "bandwidth_share": d.bandwidth_share,
        "uplink_bps": d.uplink_bps,
        "downlink_bps": d.downlink_bps,
        "compression": d.compression,
        "codec": d.codec,
        "loss_penalty": d.loss_penalty,
    }


def _beside(ci95: tuple[float, float] | None, d: Decision) -> Document:
    return {
        "stderr": None,
        "ci95": None if ci95 is None else list(ci95),
        "n": None,
        "provenance": d.provenance.as_plain(),
    }


def _summary(plan: Plan) -> Document:
    device_only, server_only = plan.baselines.get("device_only"), plan.baselines.get("server_only")
    return {
        "delay_s": plan.outcome.delay_s,
        "server_energy_j": plan.outcome.server_energy_j,
        "device_energy_j": plan.outcome.device_energy_j,
        "delay_vs_device_only": _change(plan.outcome.delay_s, None if device_only is None else device_only.delay_s),
        "energy_vs_server_only": _change(
            plan.outcome.server_energy_j, None if server_only is None else server_only.server_energy_j
        ),
        "baselines": {name: _outcome(o) for name, o in plan.baselines.items()},
    }


def _outcome(outcome: Outcome) -> Any:
    return to_plain(outcome)


def _change(value: float | None, reference: float | None) -> float | None:
    """Relative change, e.g. -0.53; None if either is unknown."""
    return None if value is None or not reference else value / reference - 1.0
