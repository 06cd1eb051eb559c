"""Whether one row, as plain values by column, can become a record again; for bundles and for checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from types import UnionType
from typing import Any

import sqlalchemy as sa

from cardlab.core.identity import content_hash
from cardlab.core.plain import Document, from_plain
from cardlab.core.quantity import Provenance
from cardlab.core.records.device import Device
from cardlab.core.records.fit import Fit
from cardlab.core.records.measurement import OperatingPoint, PlannedPoint, RunKind
from cardlab.core.records.plan import Plan
from cardlab.core.records.task import Execution, Task
from cardlab.core.records.workload import Analysis

Values = Document


def type_problem(column: sa.Column[Any], value: Any) -> str | None:
    """Why a value cannot stand in that column, None if it can. Blobs and references are judged elsewhere."""
    if value is None:
        return None if column.nullable else "is missing"
    kind = column.type
    if isinstance(kind, sa.JSON):
        return None if _finite(value) else "holds a number that is not finite"
    if isinstance(kind, sa.Boolean):
        return None if isinstance(value, bool) else f"is {value!r}, not true or false"
    if isinstance(kind, sa.Integer):
        # True is an int in Python. Both databases end at 64 bits.
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
        return None if whole else "is no whole number"
    if isinstance(kind, sa.Float):
        # JSON integers may be longer than any float: compared first, because isfinite() raises on those.
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return None if number and abs(value) < 1e308 and math.isfinite(value) else "is no number"
    if isinstance(kind, sa.String):
        # PostgreSQL stores neither NUL nor half a surrogate pair. SQLite would, and such a row could never be
        # merged.
        fits = isinstance(value, str) and "\0" not in value and len(value) <= (kind.length or len(value))
        return None if fits and _encodable(value) else "is no text of the right length"
    return None


def _encodable(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _finite(value: Any) -> bool:
    """Whether plain data holds only finite numbers and proper text."""
    if isinstance(value, dict):
        return all(_encodable(str(k)) and _finite(v) for k, v in value.items())
    if isinstance(value, list):
        return all(_finite(item) for item in value)
    if isinstance(value, str):
        return "\0" not in value and _encodable(value)
    return not isinstance(value, float) or math.isfinite(value)


def content_problem(table: str, row: Values) -> str | None:
    """Why the row cannot be read back as a record, None if it can."""
    try:
        problem = _JUDGES.get(table, _nothing)(row)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        # Cut short, because some messages quote a whole document.
        return f"cannot be read: {str(error)[:200]}"
    return problem


def _nothing(row: Values) -> str | None:
    return None


def _addressed(row: Values, described: object) -> str | None:
    """Descriptions are addressed by their content, so a changed one no longer has its own uid."""
    return None if content_hash(described) == row["uid"] else "says something else than when it was stored"


def _device(row: Values) -> str | None:
    return _addressed(row, from_plain(Device, {f.name: row[f.name] for f in fields(Device)}))


def _execution(row: Values) -> str | None:
    return _addressed(row, from_plain(Execution, {f.name: row[f.name] for f in fields(Execution)}))


def _environment(row: Values) -> str | None:
    return _addressed(row, {"versions": row["versions"]})


def _task(row: Values) -> str | None:
    # The label stands in the run and is no part of a stored task, but a record needs one.
    from_plain(Task, {**row["document"], "model": "unnamed"})
    return _addressed(row, row["document"])


def _run(row: Values) -> str | None:
    Provenance.from_plain(row["provenance"])
    RunKind(row["kind"])
    for planned in row["planned"]:
        from_plain(PlannedPoint, planned)
    if row["analysis"] is not None:
        from_plain(Analysis, row["analysis"])
    if not _list_of(row["offered_hz"], int | float) or not _list_of(row["expected_notes"], str):
        return "offered_hz or expected_notes have another form"
    return None if isinstance(row["options"], dict) else "options are no object"


def _list_of(value: object, kind: type | UnionType) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(v, kind) for v in value))


def _measurement(row: Values) -> str | None:
    if row["provenance"] is not None:
        Provenance.from_plain(row["provenance"])
    if not isinstance(row["details"], dict) or not _list_of(row["flags"], str):
        return "details or flags have another form"
    return None


def _operating_point(row: Values) -> str | None:
    from_plain(OperatingPoint, {f.name: row[f.name] for f in fields(OperatingPoint)})
    return None


def _train_round(row: Values) -> str | None:
    norms = row["gradient_norms"]
    right = _list_of(row["losses"], int | float) and (norms is None or _list_of(norms, int | float))
    return None if right else "losses or norms have another form"


def _train_quality(row: Values) -> str | None:
    if not 0 <= row["correct"] <= row["tokens"] or row["tokens"] < 1:
        return f"has {row['correct']} right of {row['tokens']} tokens"
    return None if row["elapsed_s"] >= 0.0 and row["up_bytes"] >= 0 else "has a negative time or size"


def _train_phase(row: Values) -> str | None:
    if row["provenance"] is not None:
        Provenance.from_plain(row["provenance"])
    return None


def _sample_block(row: Values) -> str | None:
    size, count = len(row["data"]), row["count"]
    return None if size == 8 * count else f"samples {row['name']!r} hold {size} bytes, not {count} values"


def _fit(row: Values) -> str | None:
    fit = Fit.from_document(row["document"], row["draws"] or b"")
    if fit.packed_draws and len(fit.packed_draws) % (8 * max(1, len(fit.parameters))):
        return "has draws of another length than its parameters"
    return None if fit.curve.name == row["law"] else f"is of law {fit.law!r}, stored as {row['law']!r}"


def _link(row: Values) -> str | None:
    Provenance.from_plain(row["provenance"])
    for name in ("uplink_bps", "downlink_bps", "message_bytes"):
        if row[name] is not None and not row[name] > 0:
            return f"has a {name} of {row[name]:g}"
    return None if row["rtt_s"] is None or row["rtt_s"] >= 0 else f"has a rtt_s of {row['rtt_s']:g}"


def _plan(row: Values) -> str | None:
    from_plain(Plan, row["document"])
    return None


_JUDGES: Mapping[str, Callable[[Values], str | None]] = {
    "device": _device,
    "execution": _execution,
    "environment": _environment,
    "task": _task,
    "run": _run,
    "measurement": _measurement,
    "operating_point": _operating_point,
    "train_round": _train_round,
    "train_phase": _train_phase,
    "train_quality": _train_quality,
    "sample_block": _sample_block,
    "fit": _fit,
    "link": _link,
    "plan": _plan,
}
