"""A table of text as people save it: which separator, which decimal sign, which unit a column is in.

Spreadsheets of half the world separate by semicolons and write 45,0; loggers use tabs; Excel puts "sep=;" first. The
head decides the separator. A comma inside numbers is a decimal comma where the separator is another, and refused where
it could as well group thousands.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cardlab.core.errors import BadDataError

MAX_LINE_CHARACTERS = 100_000
SEPARATORS = (";", "\t", "|", ",")
_UNIT = re.compile(r"^(?P<name>.*?)\s*[\[(]\s*(?P<unit>[^\])]*?)\s*[\])]$")
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(,\d{3})+")
_COMMA_NUMBER = re.compile(r"[+-]?\d+(,\d+)+([eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One column's head: its name in lower case, and its unit where one stands in brackets behind it."""

    name: str
    unit: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The cells of a file.

    Attributes:
        heads: of each column.
        rows: number of the line in the file (from 1) and its cells.
    """

    heads: tuple[Head, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]


def read_table(text: str, max_rows: int) -> Table:
    """Split text into cells; lines that are empty or begin with # are passed over.

    Raises BadDataError naming the line: no head, a line too long, with other columns than the head, or with numbers
    that can be read in two ways.
    """
    lines = _lines(text)
    first = next(lines, None)
    if first is None:
        raise BadDataError("the file is empty", remedy="give a header and at least one row")
    separator = None
    if first[1].lower().startswith("sep=") and len(first[1]) == len("sep=") + 1:
        separator, first = first[1][-1], next(lines, None)
        if first is None:
            raise BadDataError("the file is empty", remedy="give a header and at least one row")
    separator = separator or _separator(first[1])
    heads = tuple(_head(cell) for cell in _cells(*first, separator))
    rows = []
    for line, content in lines:
        cells = tuple(_cells(line, content, separator))
        if len(cells) != len(heads):
            raise BadDataError(
                f"row {line}: {len(cells)} values for {len(heads)} columns", remedy="give one value per column"
            )
        rows.append((line, cells))
        if len(rows) > max_rows:
            raise BadDataError(
                f"the file has more than {max_rows:,} rows", remedy="a sweep is small; average the samples first"
            )
    return Table(heads=heads, rows=_with_points(rows, heads, separator))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    # Only line feeds end a row: str.splitlines would also cut at a next-line character inside a label.
    for line, raw in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        if len(raw) >= MAX_LINE_CHARACTERS:
            raise BadDataError(
                f"row {line} is longer than {MAX_LINE_CHARACTERS:,} characters",
                remedy="give a CSV file with line ends",
            )
        if raw.strip() and not raw.lstrip().startswith("#"):
            yield line, raw


def _separator(head: str) -> str:
    # A head that holds a tab or a semicolon is separated by it: names have none, and may well have commas in a unit.
    return next((mark for mark in SEPARATORS if mark in head), ",")


def _cells(line: int, content: str, separator: str) -> list[str]:
    """The cells of one line. Python before 3.11 refuses a NUL, later ones take it for a character."""
    try:
        return [cell.strip() for cell in next(csv.reader([content], delimiter=separator))]
    except csv.Error as error:
        raise BadDataError(f"row {line}: {error}", remedy="give a CSV file of plain text") from error


def _head(cell: str) -> Head:
    found = _UNIT.match(cell)
    if found is None:
        return Head(name=cell.lower(), unit=None)
    return Head(name=found["name"].lower(), unit=found["unit"])


def _with_points(
    rows: Sequence[tuple[int, tuple[str, ...]]], heads: Sequence[Head], separator: str
) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """Numbers with decimal commas as numbers with points."""
    columns = []
    for index, head in enumerate(heads):
        column = [cells[index] for _, cells in rows]
        commas = [i for i, cell in enumerate(column) if _COMMA_NUMBER.fullmatch(cell)]
        if commas:
            _refuse_two_readings(column, commas, [line for line, _ in rows], head, separator)
            for i in commas:
                column[i] = column[i].replace(",", ".")
        columns.append(column)
    return tuple((line, tuple(column[i] for column in columns)) for i, (line, _) in enumerate(rows))


def _refuse_two_readings(
    column: Sequence[str], commas: Sequence[int], lines: Sequence[int], head: Head, separator: str
) -> None:
    line, cell = lines[commas[0]], column[commas[0]]
    several = next((i for i in commas if column[i].count(",") > 1), None)
    if several is not None:
        line, cell = lines[several], column[several]
    elif separator != "," and not all(_THOUSANDS.fullmatch(column[i]) for i in commas):
        return
    point = cell.replace(",", ".", 1) if cell.count(",") == 1 else cell.replace(",", "")
    raise BadDataError(
        f"row {line}: {head.name} {cell} can be a decimal comma or thousands",
        remedy=f"write it with a point and without grouping, e.g. {point} or {cell.replace(',', '')}",
    )
