"""Sweeps from CSV, read row by row.

Columns: frequency_mhz or frequency_hz; power_w and/or latency_s; optional workload, rail,
memory_frequency_mhz. Other columns are an error, since a misspelt one would be lost in silence. Lines
that begin with # are comments.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from cardlab.calibrate.importers.rows import MAX_ROWS, ImportedRow, collect, number
from cardlab.core.errors import BadDataError

FREQUENCY = {"frequency_mhz": 1e6, "frequency_hz": 1.0}
VALUES = ("power_w", "latency_s")
OPTIONAL = ("workload", "rail", "memory_frequency_mhz")
MAX_LINE_CHARACTERS = 100_000


def read_csv(path: str | Path, *, max_rows: int = MAX_ROWS) -> tuple[ImportedRow, ...]:
    """All points of a CSV file.

    Raises:
        BadDataError: the file cannot be used; the message names the row (1 is the header).
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            return collect(_rows(_numbered(file)), max_rows)
    except UnicodeDecodeError as error:
        raise BadDataError(f"{path} is not UTF-8 text", remedy="save it as CSV in UTF-8") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadDataError(f"cannot read {path}: {reason}", remedy="give a readable CSV file") from error


def _numbered(file: TextIOWrapper) -> Iterator[tuple[int, str]]:
    line = 0
    while text := file.readline(MAX_LINE_CHARACTERS):
        line += 1
        if len(text) >= MAX_LINE_CHARACTERS:
            raise BadDataError(
                f"row {line} is longer than {MAX_LINE_CHARACTERS:,} characters",
                remedy="give a CSV file with line ends",
            )
        if text.strip() and not text.lstrip().startswith("#"):
            yield line, text


def _rows(lines: Iterator[tuple[int, str]]) -> Iterator[ImportedRow]:
    first = next(lines, None)
    if first is None:
        raise BadDataError("the file is empty", remedy="give a header and at least one row")
    header = _header(first[1])
    for line, text in lines:
        cells = [cell.strip() for cell in _cells(line, text)]
        if len(cells) != len(header):
            raise BadDataError(
                f"row {line}: {len(cells)} values for {len(header)} columns",
                remedy="give one value per column",
            )
        yield _row(line, dict(zip(header, cells, strict=True)))


def _cells(line: int, text: str) -> list[str]:
    """The cells of one line. Python before 3.11 refuses a NUL, later ones take it for a character."""
    try:
        return next(csv.reader([text]))
    except csv.Error as error:
        raise BadDataError(f"row {line}: {error}", remedy="give a CSV file of plain text") from error


def _header(text: str) -> list[str]:
    header = [name.strip().lower() for name in _cells(1, text)]
    known = {*FREQUENCY, *VALUES, *OPTIONAL}
    remedy = "columns: frequency_mhz|frequency_hz, power_w and/or latency_s; optional " + ", ".join(OPTIONAL)
    if len(set(header)) != len(header):
        raise BadDataError("row 1: a column is named twice", remedy=remedy)
    if sum(name in FREQUENCY for name in header) != 1:
        raise BadDataError("row 1: needs one of the columns frequency_mhz and frequency_hz", remedy=remedy)
    if not any(name in VALUES for name in header):
        raise BadDataError("row 1: needs a column power_w or latency_s", remedy=remedy)
    for name in header:
        if name not in known:
            raise BadDataError(f"row 1: unknown column {name!r}", remedy=remedy)
    return header


def _row(line: int, cells: dict[str, str]) -> ImportedRow:
    unit = next(name for name in FREQUENCY if name in cells)
    values = {name: number(cells[name], line, name) for name in VALUES if cells.get(name)}
    if not values:
        raise BadDataError(f"row {line}: neither power_w nor latency_s", remedy="give at least one of them")
    memory = cells.get("memory_frequency_mhz")
    return ImportedRow(
        line=line,
        frequency_hz=number(cells[unit], line, unit) * FREQUENCY[unit],
        power_w=values.get("power_w"),
        latency_s=values.get("latency_s"),
        workload=cells.get("workload") or None,
        rail=cells.get("rail") or None,
        memory_hz=number(memory, line, "memory_frequency_mhz") * 1e6 if memory else None,
    )
