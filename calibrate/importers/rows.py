"""What every importer yields: one row per measured point, grouped into sweeps.

A row is checked when it is made; a set of rows is checked as a whole (duplicates, columns that some
rows have and others lack) before anything is returned, so a file is taken whole or not at all. What an
importer passed over or put together is said in its notes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from cardlab.core import plausible
from cardlab.core.errors import BadDataError
from cardlab.core.numerals import decimal

MAX_ROWS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedRow:
    """One point of a sweep measured elsewhere.

    Attributes:
        line: 1-based row of the file, to name it in messages.
        frequency_hz: frequency.
        frequency_read: whether it was read back while the point ran; else it may be the one that was asked for.
        power_w, latency_s: at least one is there.
        workload, rail: labels, None if the file has no such column.
        memory_hz: memory frequency, None if unknown.
        samples: rows of the file that it is the mean of.
        power_stderr_w, latency_stderr_s: standard errors of those means, None for a single row.
    """

    line: int
    frequency_hz: float
    frequency_read: bool = False
    power_w: float | None = None
    latency_s: float | None = None
    workload: str | None = None
    rail: str | None = None
    memory_hz: float | None = None
    samples: int = 1
    power_stderr_w: float | None = None
    latency_stderr_s: float | None = None

    @property
    def point(self) -> tuple[object, ...]:
        """What tells it from other points of the file."""
        return (self.frequency_hz, self.workload, self.rail, self.memory_hz)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What was read.

    Attributes:
        notes: a line for each thing that was left out, averaged or chosen.
    """

    rows: tuple[ImportedRow, ...]
    notes: tuple[str, ...] = ()


def number(text: object, line: int, column: str) -> float:
    """A positive finite number; BadDataError naming row and column for anything else."""
    try:
        value = decimal(str(text))
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


def quantity(text: object, line: int, column: str, factor: float, bounds: plausible.Bounds) -> float:
    """A number of a column in SI; refused where no device has such a value, since the unit is then another."""
    value = number(text, line, column) * factor
    bounds.check(
        value,
        where=f"row {line}",
        given=f"{column} {str(text).strip()}",
        remedy="name the unit of the numbers in the column's head, e.g. frequency_hz, power_mw, latency_ms",
    )
    return value


def collect(rows: Iterable[ImportedRow], max_rows: int = MAX_ROWS) -> tuple[ImportedRow, ...]:
    """Read rows to the end and check them as a set.

    Raises:
        BadDataError: no rows, more than `max_rows`, a duplicated point, or a label or value that
            some rows have and others lack.
    """
    kept = bounded(rows, max_rows)
    seen: dict[tuple[object, ...], int] = {}
    for row in kept:
        if row.point in seen:
            raise BadDataError(
                f"row {row.line}: {row.frequency_hz / 1e6:g} MHz was given before, in row {seen[row.point]}",
                remedy="average repeated points, or tell them apart by a workload column",
            )
        seen[row.point] = row.line
    return kept


def averaged(rows: Iterable[ImportedRow], max_rows: int = MAX_ROWS) -> tuple[tuple[ImportedRow, ...], str | None]:
    """Rows of one point as their mean, in the order of first appearance, and a note if there were such.

    Raises as `collect` does, but for a duplicated point.
    """
    groups: dict[tuple[object, ...], list[ImportedRow]] = {}
    for row in bounded(rows, max_rows):
        groups.setdefault(row.point, []).append(row)
    repeated = [group for group in groups.values() if len(group) > 1]
    if not repeated:
        return tuple(group[0] for group in groups.values()), None
    count = sum(map(len, repeated))
    note = f"{count} rows at {len(repeated)} points that were read more than once are averaged"
    return tuple(_mean(group) for group in groups.values()), note


def bounded(rows: Iterable[ImportedRow], max_rows: int) -> tuple[ImportedRow, ...]:
    """At most so many rows, all with the same columns. Raises BadDataError; also where there are none."""
    kept: list[ImportedRow] = []
    for row in rows:
        if len(kept) >= max_rows:
            raise BadDataError(
                f"the file has more than {max_rows:,} rows",
                remedy="a sweep is small; average the samples first",
            )
        if kept:
            _same_columns(kept[0], row)
        kept.append(row)
    if not kept:
        raise BadDataError("the file has no rows", remedy="give at least one measured point")
    return tuple(kept)


def _mean(rows: Sequence[ImportedRow]) -> ImportedRow:
    if len(rows) == 1:
        return rows[0]
    power_w, power_stderr_w = _mean_of([row.power_w for row in rows if row.power_w is not None])
    latency_s, latency_stderr_s = _mean_of([row.latency_s for row in rows if row.latency_s is not None])
    return replace(
        rows[0],
        power_w=power_w,
        latency_s=latency_s,
        samples=len(rows),
        power_stderr_w=power_stderr_w,
        latency_stderr_s=latency_stderr_s,
    )


def _mean_of(values: Sequence[float]) -> tuple[float | None, float | None]:
    if not values:
        return None, None
    return fmean(values), stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _same_columns(first: ImportedRow, row: ImportedRow) -> None:
    for name in ("power_w", "latency_s", "workload", "rail", "memory_hz"):
        if (getattr(first, name) is None) != (getattr(row, name) is None):
            has, lacks = (first, row) if getattr(row, name) is None else (row, first)
            raise BadDataError(
                f"row {lacks.line}: no {name}, though row {has.line} has one",
                remedy=f"give {name} in every row or in none",
            )
