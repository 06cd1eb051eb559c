"""Whether a database is whole: the file itself, references, samples, documents, and what fits and plans rest on.

    file -> references -> descriptions -> samples and the values made of them -> documents -> fits -> plans

Every finding is one line that names the row. Nothing is repaired here: rows are never updated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cardlab.db.schema import (
    DeviceRow,
    EnvironmentRow,
    ExecutionRow,
    FitInputRow,
    FitRow,
    LinkRow,
    MeasurementRow,
    PlanInputRow,
    PlanRow,
    RunRow,
    SampleBlockRow,
    TaskRow,
)
from cardlab.db.store import Store
from cardlab.db.store.convert import OPERATING_POINT
from cardlab.errors import CardlabError, StoreError
from cardlab.identity import content_hash
from cardlab.plain import from_plain
from cardlab.records.device import Device
from cardlab.records.fit import Fit
from cardlab.records.measurement import OperatingPoint
from cardlab.records.plan import Plan
from cardlab.records.task import Execution

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something wrong: the table, the row's uid (or None), and what in words."""

    table: str
    uid: str | None
    problem: str


def check(store: Store) -> tuple[Finding, ...]:
    """Everything that is wrong, in the order above; () for a whole database.

    A file so damaged that it cannot be read to the end is one finding, not an error.
    """
    findings: list[Finding] = []
    try:
        with store.connection() as connection:
            for part in (_file, _references, _descriptions, _samples, _operating_points, _fits, _plans):
                findings.extend(part(connection))
        findings.extend(_runs(store))
    except StoreError as error:
        findings.append(Finding(table="database", uid=None, problem=error.message))
    return tuple(findings)


def _file(connection: Connection) -> Iterator[Finding]:
    if connection.dialect.name != "sqlite":
        return
    for (line,) in connection.exec_driver_sql("PRAGMA integrity_check(20)"):
        if line != "ok":
            yield Finding(table="database", uid=None, problem=str(line))


def _references(connection: Connection) -> Iterator[Finding]:
    if connection.dialect.name != "sqlite":
        return
    for table, row, target, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
        yield Finding(table=str(table), uid=None, problem=f"row {row} refers to a missing {target}")


def _descriptions(connection: Connection) -> Iterator[Finding]:
    """Descriptions are addressed by their content, so a changed one no longer has its own uid."""
    rows: list[tuple[str, str, object]] = []
    for device in connection.execute(sa.select(DeviceRow.__table__)):
        rows.append(("device", device.uid, {name: getattr(device, name) for name in _names(Device)}))
    for execution in connection.execute(sa.select(ExecutionRow.__table__)):
        rows.append(("execution", execution.uid, {name: getattr(execution, name) for name in _names(Execution)}))
    for environment in connection.execute(sa.select(EnvironmentRow.__table__)):
        rows.append(("environment", environment.uid, {"versions": environment.versions}))
    for task in connection.execute(sa.select(TaskRow.__table__)):
        rows.append(("task", task.uid, task.document))
    for table, uid, described in rows:
        if content_hash(described) != uid:
            yield Finding(table=table, uid=uid, problem="says something else than when it was stored")


def _names(kind: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind))


def _samples(connection: Connection) -> Iterator[Finding]:
    """Blocks as long as they say, and latencies inside the range of the samples they came from."""
    query = (
        sa.select(
            MeasurementRow.uid,
            MeasurementRow.quantity,
            MeasurementRow.value,
            MeasurementRow.details,
            SampleBlockRow.name,
            SampleBlockRow.count,
            SampleBlockRow.data,
        )
        .join(SampleBlockRow, SampleBlockRow.measurement_id == MeasurementRow.id)
        .execution_options(yield_per=200)
    )
    for uid, quantity, value, details, name, count, data in connection.execute(query):
        if len(data) != 8 * count:
            problem = f"samples {name!r} hold {len(data)} bytes, not {count} values"
            yield Finding(table="sample_block", uid=uid, problem=problem)
        elif quantity == "latency" and name == "wall_s" and value is not None and count:
            walls = np.frombuffer(data, dtype="<f8")
            whole = value * float(details.get("repeats", 1) or 1)
            if not walls.min() * (1 - _ROUNDING) <= whole <= walls.max() * (1 + _ROUNDING):
                problem = f"its value {value:g} s lies outside its own samples"
                yield Finding(table="measurement", uid=uid, problem=problem)


def _operating_points(connection: Connection) -> Iterator[Finding]:
    query = sa.select(MeasurementRow.uid, MeasurementRow.details).where(MeasurementRow.quantity == OPERATING_POINT)
    for uid, details in connection.execute(query):
        try:
            from_plain(OperatingPoint, details)
        except ValueError as error:
            yield Finding(table="measurement", uid=uid, problem=f"unreadable operating point: {error}")


def _runs(store: Store) -> Iterator[Finding]:
    """Every run can be read back as a profile."""
    for summary in store.runs.summaries():
        try:
            store.runs.get(summary.uid)
        except (CardlabError, ValueError, KeyError, TypeError) as error:
            yield Finding(table="run", uid=summary.uid, problem=f"cannot be read: {error}")


def _fits(connection: Connection) -> Iterator[Finding]:
    """Every fit can be read, and rests on stored measurements of its own quantity and device."""
    inputs = (
        sa.select(FitInputRow.fit_id, MeasurementRow.quantity, sa.func.count())
        .join(MeasurementRow, MeasurementRow.id == FitInputRow.measurement_id)
        .group_by(FitInputRow.fit_id, MeasurementRow.quantity)
    )
    by_fit: dict[int, dict[str, int]] = {}
    for fit, quantity, count in connection.execute(inputs):
        by_fit.setdefault(fit, {})[quantity] = count
    columns = (FitRow.id, FitRow.uid, FitRow.quantity, FitRow.document, FitRow.draws)
    for number, uid, quantity, document, draws in connection.execute(sa.select(*columns)):
        try:
            fit = Fit.from_document(document, draws or b"")
        except (ValueError, KeyError, TypeError) as error:
            yield Finding(table="fit", uid=uid, problem=f"cannot be read: {error}")
            continue
        found = by_fit.get(number, {})
        if found.get(quantity, 0) < fit.n_points:
            problem = f"was made of {fit.n_points} {quantity} points, {found.get(quantity, 0)} are here"
            yield Finding(table="fit", uid=uid, problem=problem)


def _plans(connection: Connection) -> Iterator[Finding]:
    """Every plan can be read, and what it was made of is here."""
    for number, uid, document in connection.execute(sa.select(PlanRow.id, PlanRow.uid, PlanRow.document)):
        try:
            plan = from_plain(Plan, document)
        except ValueError as error:
            yield Finding(table="plan", uid=uid, problem=f"cannot be read: {error}")
            continue
        here = set(_plan_inputs(connection, number))
        for kind, wanted in (("fit", plan.fits), ("run", plan.runs), ("link", plan.links)):
            missing = [w for w in wanted if (kind, w) not in here]
            if missing:
                problem = f"was made of {kind} {missing[0][:12]}, which is not here"
                yield Finding(table="plan", uid=uid, problem=problem)


def _plan_inputs(connection: Connection, plan: int) -> Iterator[tuple[str, str]]:
    for kind, row, key in (
        ("fit", FitRow, PlanInputRow.fit_id),
        ("run", RunRow, PlanInputRow.run_id),
        ("link", LinkRow, PlanInputRow.link_id),
    ):
        query = sa.select(row.uid).join(PlanInputRow, key == row.id).where(PlanInputRow.plan_id == plan)
        for (uid,) in connection.execute(query):
            yield kind, uid


def unfinished_points(store: Store) -> dict[str, tuple[int, int]]:
    """Runs that are not complete: uid to (points done, points planned)."""
    return {
        s.uid: (s.points_done, s.points_planned)
        for s in store.runs.summaries()
        if s.points_done < s.points_planned
    }


def stacks(store: Store, plan: Plan) -> dict[str, tuple[str, ...]]:
    """The software that a plan joins: "torch 2.13 float32" and its like, with the devices measured under it."""
    found: dict[str, set[str]] = {}
    for uid in plan.runs:
        run = store.runs.get(uid).run
        execution = run.execution
        words = [f"torch {execution.torch}" if execution.torch else "no torch", execution.dtype]
        words.extend([execution.accelerator] if execution.accelerator else [])
        found.setdefault(" ".join(words), set()).add(run.device.name)
    return {stack: tuple(sorted(names)) for stack, names in sorted(found.items())}
