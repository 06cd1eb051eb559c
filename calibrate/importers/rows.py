"""What every importer yields: one row per measured point, grouped into sweeps.

A row is checked when it is made; a set of rows is checked as a whole (duplicates, columns that some
rows have and others lack) before anything is returned, so a file is taken whole or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from cardlab.core.errors import BadDataError

MAX_ROWS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedRow:
    """One point of a sweep measured elsewhere.

    Attributes:
        line: 1-based row of the file, to name it in messages.
        frequency_hz: frequency.
        power_w, latency_s: at least one is there.
        workload, rail: labels, None if the file has no such column.
        memory_hz: memory frequency, None if unknown.
    """

    line: int
    frequency_hz: float
    power_w: float | None = None
    latency_s: float | None = None
    workload: str | None = None
    rail: str | None = None
    memory_hz: float | None = None


def number(text: object, line: int, column: str) -> float:
    """A positive finite number; BadDataError naming row and column for anything else."""
    try:
        value = float(str(text))
    except ValueError:
        raise BadDataError(
            f"row {line}: {column} is {str(text)!r}, not a number", remedy="correct that row and import again"
        ) from None
    if not math.isfinite(value) or value <= 0:
        raise BadDataError(
            f"row {line}: {column} is {str(text).strip()}",
            remedy="it must be a positive, finite number; correct or remove that row",
        )
    return value


def collect(rows: Iterable[ImportedRow], max_rows: int = MAX_ROWS) -> tuple[ImportedRow, ...]:
    """Read rows to the end and check them as a set.

    Raises:
        BadDataError: no rows, more than `max_rows`, a duplicated point, or a label or value that
            some rows have and others lack.
    """
    kept: list[ImportedRow] = []
    seen: dict[tuple[object, ...], int] = {}
    for row in rows:
        if len(kept) >= max_rows:
            raise BadDataError(
                f"the file has more than {max_rows:,} rows",
                remedy="a sweep is small; average the samples first",
            )
        if kept:
            _same_columns(kept[0], row)
        key = (row.frequency_hz, row.workload, row.rail, row.memory_hz)
        if key in seen:
            raise BadDataError(
                f"row {row.line}: {row.frequency_hz / 1e6:g} MHz was given before, in row {seen[key]}",
                remedy="average repeated points, or tell them apart by a workload column",
            )
        seen[key] = row.line
        kept.append(row)
    if not kept:
        raise BadDataError("the file has no rows", remedy="give at least one measured point")
    return tuple(kept)


def _same_columns(first: ImportedRow, row: ImportedRow) -> None:
    for name in ("power_w", "latency_s", "workload", "rail", "memory_hz"):
        if (getattr(first, name) is None) != (getattr(row, name) is None):
            has, lacks = (first, row) if getattr(row, name) is None else (row, first)
            raise BadDataError(
                f"row {lacks.line}: no {name}, though row {has.line} has one",
                remedy=f"give {name} in every row or in none",
            )
