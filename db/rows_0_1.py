"""Rows as release 0.1.0 wrote them, in the form of this schema; for the migration and for bundles of that release.

Release 0.1.0 kept what other rooms compute with in free dictionaries. Each function takes one row as plain values by
column and returns it with those values in columns of their own; keys that are for people only stay where they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cardlab.core.identity import content_hash
from cardlab.core.plain import Document, from_plain
from cardlab.core.records.device import Device

Row = Document
OPERATING_POINT = "operating_point"
_OPERATING = (
    "frequency_hz",
    "memory_hz",
    "cpu_hz",
    "power_mode",
    "cores_active",
    "temperature_c",
    "throttled",
    "contended",
    "reasons",
    "boot",
    "started_at",
    "finished_at",
)
_METER = ("scope", "total", "source", "update_s", "quantisation_w", "check_w", "systematic")


def device(row: Document) -> Row:
    """Power limit and driver in columns; the uid follows from the new description."""
    details = dict(row["details"])
    limit_w, driver = details.pop("power_limit_w", None), details.pop("driver", None)
    new = {
        **row,
        "power_limit_w": float(limit_w) if isinstance(limit_w, int | float) else None,
        "driver": None if driver is None else str(driver),
        "details": details,
    }
    described = from_plain(Device, {name: value for name, value in new.items() if name not in ("id", "uid")})
    return {**new, "uid": described.uid}


def run(row: Document) -> Row:
    """Offered frequencies and the memory budget in columns."""
    options = dict(row["options"])
    offered = options.pop("offered_hz", None)
    budget = options.pop("memory_budget_bytes", None)
    return {
        **row,
        "offered_hz": [float(f) for f in offered] if isinstance(offered, list) else None,
        "memory_budget_bytes": budget if isinstance(budget, int) else None,
        "sitting": None,
        "options": options,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementParts:
    """What a measurement of 0.1.0 becomes: a measurement, with a codec's cost or without, or an operating point."""

    measurement: Row | None = None
    codec: Row | None = None
    operating: Row | None = None
    residual: Row | None = None


def measurement(row: Document) -> MeasurementParts:
    """Rail, repeats and codec costs in columns; the closing measurement becomes an operating point."""
    details = dict(row["details"])
    if row["quantity"] == OPERATING_POINT:
        state = {name: details.get(name) for name in _OPERATING}
        state = {**state, "contended": bool(state["contended"]), "reasons": list(state["reasons"] or ())}
        return MeasurementParts(operating={"uid": row["uid"], "point_id": row["point_id"], **state})
    # Only codec runs named their segments cut-N.
    codec = _codec(row, details) if str(row["segment"] or "").startswith("cut-") else None
    repeats, clean = details.pop("repeats", 1), details.pop("clean", None)
    meter = {name: details.pop(name, None) for name in _METER}
    extra = None
    if row["quantity"] == "meter_gain":
        row = {**row, "n": details.pop("pairs", row["n"])}
        extra = _residual(row, details.pop("residual_w", None))
    new = {**row, **meter, "repeats": int(repeats or 1), "clean": clean, "details": details}
    return MeasurementParts(measurement=new if codec is None else {**new, "segment": None}, codec=codec, residual=extra)


def _residual(row: Document, residual_w: float | None) -> Row | None:
    """The scatter of a meter's calibration as a measurement of its own; its uid follows from the gain's."""
    if residual_w is None:
        return None
    nothing = dict.fromkeys(("stderr", "ci_low", "ci_high", "clean", "segment", "phase", *_METER))
    new = {name: value for name, value in row.items() if name != "id"}
    return {
        **new,
        **nothing,
        "uid": content_hash({"residual of": row["uid"]}),
        "position": row["position"] + 2,
        "quantity": "meter_residual",
        "unit": "W",
        "value": float(residual_w),
        "repeats": 1,
        "details": {},
    }


def _codec(row: Document, details: Row) -> Row:
    cost: Row = {"measurement_id": row["uid"], "cut": int(str(row["segment"]).removeprefix("cut-"))}
    for name in ("codec", "tensor", "side", "values", "error", "encode_s", "decode_s"):
        cost[name] = details.pop(name, None)
    cost["encoded_bytes"] = details.pop("bytes", 0)
    return cost


def fit(row: Document) -> Row:
    """The cut of an accuracy in a column instead of in its segment's name."""
    segment = row["segment"]
    if row["quantity"] != "accuracy" or not str(segment or "").startswith("cut-"):
        return {**row, "cut": None, "codec": None}
    cut = int(str(segment).removeprefix("cut-"))
    document = {**row["document"], "segment": None, "cut": cut}
    return {**row, "cut": cut, "codec": None, "segment": None, "document": document}


def link(row: Document) -> Row:
    """The spread of single messages, and their size, in columns.

    A shaped link keeps no size: its round trip was that of pulses, which the shaping let pass.
    """
    document = dict(row["document"])
    size = document.get("message_bytes")
    whole = isinstance(size, int) and not isinstance(size, bool) and size > 0
    ends: Row = {"message_bytes": size if whole and document.get("shaped") is None else None}
    for way in ("uplink", "downlink"):
        span = document.pop(f"{way}_range_bps", None)
        low, high = span if isinstance(span, list) and len(span) == 2 else (None, None)
        ends[f"{way}_low_bps"], ends[f"{way}_high_bps"] = low, high
    return {**row, **ends, "document": document}


def plan(row: Document) -> Row:
    """What each constant's uncertainty costs under its present name."""
    document = dict(row["document"])
    if "doubts" in document:
        document["uncertainty"] = document.pop("doubts")
    return {**row, "document": document}


def train_round(row: Document) -> Row:
    """Losses, times, bytes and the interval of the delay in columns."""
    document = dict(row["document"])
    low, high = document.pop("delay_ci95", None) or (None, None)
    return {
        **row,
        "delay_ci_low": low,
        "delay_ci_high": high,
        "losses": list(document.pop("losses", ())),
        "elapsed_s": document.pop("elapsed_s", None),
        "waiting_s": document.pop("waiting_s", None),
        "power_w": document.pop("round_power_w", None),
        "codec": document.pop("codec", None),
        "up_bytes": document.pop("up_bytes", None),
        "down_bytes": document.pop("down_bytes", None),
        "adapter_bytes": document.pop("adapters_bytes", None),
        "rtt_s": document.pop("rtt_s", None),
        "rows": None,
        "tokens": None,
        "gradient_norms": None,
        "document": document,
    }


def train_phase(row: Document) -> Row:
    """The interval of the prediction in columns; what it was made of was not kept."""
    low, high = row["details"].get("predicted_ci95") or (None, None)
    kept = {k: v for k, v in row.items() if k != "details"}
    return {**kept, "ci_low": low, "ci_high": high, "provenance": None}


def upgrade_tables(tables: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
    """All rows of a bundle of release 0.1.0, whose references are uids, in the form of this schema."""
    devices = [(row["uid"], device(row)) for row in tables.get("device", ())]
    # Runs, fits and rounds of the bundle still name their devices by the old uids.
    renamed = {old: new["uid"] for old, new in devices}
    parts = [measurement(row) for row in tables.get("measurement", ())]

    def owned(rows: list[Row]) -> list[Row]:
        return [{**row, "device_id": renamed.get(row["device_id"], row["device_id"])} for row in rows]

    return {
        **tables,
        "device": [new for _, new in devices],
        "run": owned([run(row) for row in tables.get("run", ())]),
        "measurement": [row for p in parts for row in (p.measurement, p.residual) if row is not None],
        "operating_point": [p.operating for p in parts if p.operating is not None],
        "codec_cost": [p.codec for p in parts if p.codec is not None],
        "fit": owned([fit(row) for row in tables.get("fit", ())]),
        "link": [link(row) for row in tables.get("link", ())],
        "plan": [plan(row) for row in tables.get("plan", ())],
        "train_round": owned([train_round(row) for row in tables.get("train_round", ())]),
        "train_phase": [train_phase(row) for row in tables.get("train_phase", ())],
    }
