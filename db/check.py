"""Whether a database is whole: the file itself, references, samples, documents, and what fits and plans rest on.

    file -> references -> contents of the rows -> samples and the values made of them -> fits -> plans

Every finding is one line that names the row. Nothing is repaired here: rows are never updated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cardlab.core.errors import StoreError
from cardlab.core.records.fit import RATIO
from cardlab.core.records.plan import Plan
from cardlab.db.rowcheck import content_problem
from cardlab.db.schema import (
    Base,
    FitInputRow,
    FitRow,
    LinkRow,
    MeasurementRow,
    PlanInputRow,
    PlanRow,
    RunRow,
    SampleBlockRow,
)
from cardlab.db.store import Store

# A value is stored for one occurrence and multiplied back here, which may change its last bits.
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
            for part in (_file, _references, _contents, _samples, _fits, _plans):
                findings.extend(part(connection))
    except StoreError as error:
        findings.append(Finding(table="database", uid=None, problem=error.message))
    return tuple(findings)


def _file(connection: Connection) -> Iterator[Finding]:
    # PostgreSQL looks after its own files, with tools of its own (pg_amcheck).
    if connection.dialect.name != "sqlite":
        return
    # Twenty faults are enough to know that a backup is needed.
    for (line,) in connection.exec_driver_sql("PRAGMA integrity_check(20)"):
        if line != "ok":
            yield Finding(table="database", uid=None, problem=str(line))


def _references(connection: Connection) -> Iterator[Finding]:
    # PostgreSQL always enforces references; SQLite does so only for connections that ask for it.
    if connection.dialect.name != "sqlite":
        return
    for table, row, target, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
        yield Finding(table=str(table), uid=None, problem=f"row {row} refers to a missing {target}")


def _contents(connection: Connection) -> Iterator[Finding]:
    """Every row that becomes a record can become one, and descriptions still have their own uid."""
    for table in Base.metadata.sorted_tables:
        # Samples are judged below with their measurements, where their bytes are read anyway.
        if table.name == "sample_block":
            continue
        for row in connection.execute(sa.select(table).execution_options(yield_per=500)).mappings():
            problem = content_problem(table.name, dict(row))
            if problem is not None:
                yield Finding(table=table.name, uid=row.get("uid"), problem=problem)


def _samples(connection: Connection) -> Iterator[Finding]:
    """Blocks as long as they say, and latencies inside the range of the samples they came from."""
    # Streamed in portions: samples are most of a database and need not fit in memory.
    query = (
        sa.select(
            MeasurementRow.uid,
            MeasurementRow.quantity,
            MeasurementRow.value,
            MeasurementRow.repeats,
            SampleBlockRow.name,
            SampleBlockRow.count,
            SampleBlockRow.data,
        )
        .join(SampleBlockRow, SampleBlockRow.measurement_id == MeasurementRow.id)
        .execution_options(yield_per=200)
    )
    for uid, quantity, value, repeats, name, count, data in connection.execute(query):
        if len(data) != 8 * count:
            problem = f"samples {name!r} hold {len(data)} bytes, not {count} values"
            yield Finding(table="sample_block", uid=uid, problem=problem)
        elif quantity == "latency" and name == "wall_s" and value is not None and count:
            walls = np.frombuffer(data, dtype="<f8")
            whole = value * repeats
            # Median or low percentile, whichever was chosen lies between the ends of its samples.
            if not walls.min() * (1 - _ROUNDING) <= whole <= walls.max() * (1 + _ROUNDING):
                problem = f"its value {value:g} s lies outside its own samples"
                yield Finding(table="measurement", uid=uid, problem=problem)


def _fits(connection: Connection) -> Iterator[Finding]:
    """Every fit rests on as many stored measurements of its quantity as it says."""
    inputs = (
        sa.select(FitInputRow.fit_id, MeasurementRow.quantity, sa.func.count())
        .join(MeasurementRow, MeasurementRow.id == FitInputRow.measurement_id)
        .group_by(FitInputRow.fit_id, MeasurementRow.quantity)
    )
    by_fit: dict[int, dict[str, int]] = {}
    for fit, quantity, count in connection.execute(inputs):
        by_fit.setdefault(fit, {})[quantity] = count
    # Single columns and not the whole row, whose draws are large.
    columns = (FitRow.id, FitRow.uid, FitRow.quantity, FitRow.document)
    # What an accuracy was fitted to are trials, and a ratio rounds, which are no measurements.
    measured = sa.select(*columns).where(FitRow.quantity.not_in(("accuracy", RATIO)))
    for number, uid, quantity, document in connection.execute(measured):
        wanted, found = document.get("n_points", 0), by_fit.get(number, {}).get(quantity, 0)
        if found < wanted:
            problem = f"was made of {wanted} {quantity} points, {found} are here"
            yield Finding(table="fit", uid=uid, problem=problem)


def _plans(connection: Connection) -> Iterator[Finding]:
    """What every plan was made of is here."""
    for number, uid, document in connection.execute(sa.select(PlanRow.id, PlanRow.uid, PlanRow.document)):
        here = set(_plan_inputs(connection, number))
        for kind in ("fit", "run", "link"):
            wanted = document.get(f"{kind}s", ())
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
        s.uid: (s.points_done, s.points_planned) for s in store.runs.summaries() if s.points_done < s.points_planned
    }


def stacks(store: Store, plan: Plan) -> dict[str, tuple[str, ...]]:
    """The software that a plan joins: "torch 2.13 float32" and its like, with the devices measured under it."""
    found: dict[str, set[str]] = {}
    for uid in plan.runs:
        run = store.runs.get(uid).run
        execution = run.execution
        words = [f"torch {execution.torch}" if execution.torch else "no torch", execution.numbers]
        words.extend([execution.accelerator] if execution.accelerator else [])
        found.setdefault(" ".join(words), set()).add(run.device.name)
    return {stack: tuple(sorted(names)) for stack, names in sorted(found.items())}
