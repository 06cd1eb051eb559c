"""A table of text as people save it: which separator, which decimal sign, which unit a column is in.

Spreadsheets of half the world separate by semicolons and write 45,0; loggers use tabs; Excel puts "sep=;" first. The
head decides the separator. A comma inside numbers is a decimal comma where the separator is another, and refused where
it could as well group thousands. A point is a decimal point, and refused where it could as well group thousands: in a
file with decimal commas, or one that is separated as such files are and has no other point. Only columns of numbers are
read so: a label is what it says.
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
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_COMMA_NUMBER = re.compile(r"[+-]?\d+(,\d+)+([eE][+-]?\d+)?")
_POINT_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+")
_POINT_NUMBER = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One column's head: its name in lower case and as written, and its unit where one stands in brackets behind it."""

    name: str
    written: str
    unit: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The cells of a file.

    Attributes:
        heads: of each column.
        rows: number of the line in the file (from 1) and its cells as written.
        separator: what stands between them.
        decimal_comma, decimal_point: whether some number in it can only be read with that sign.
    """

    heads: tuple[Head, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    separator: str
    decimal_comma: bool
    decimal_point: bool

    def column(self, index: int) -> tuple[str, ...]:
        """The cells of a column as written."""
        return tuple(cells[index] for _, cells in self.rows)

    def numbers(self, index: int) -> tuple[str, ...]:
        """The cells of a column of numbers, with points for decimal commas; a unit behind the number stays.

        Raises BadDataError naming the line of a number that can be read in two ways.
        """
        parts = [cell.partition(" ") for cell in self.column(index)]
        values = [value for value, _, _ in parts]
        self._refuse_commas(values, self.heads[index])
        self._refuse_points(values, self.heads[index])
        return tuple(
            "".join((value.replace(",", ".") if _COMMA_NUMBER.fullmatch(value) else value, *unit))
            for value, *unit in parts
        )

    def _refuse_commas(self, column: Sequence[str], head: Head) -> None:
        commas = [i for i, cell in enumerate(column) if _COMMA_NUMBER.fullmatch(cell)]
        several = next((i for i in commas if column[i].count(",") > 1), None)
        if several is not None:
            raise self._two_readings(several, column[several], head, "comma", ",")
        if commas and (self.separator == "," or all(_THOUSANDS.fullmatch(column[i]) for i in commas)):
            raise self._two_readings(commas[0], column[commas[0]], head, "comma", ",")

    def _refuse_points(self, column: Sequence[str], head: Head) -> None:
        # Half the world separates by semicolons because its numbers have commas, and groups thousands by points.
        ambiguous = self.decimal_comma or (self.separator == ";" and not self.decimal_point)
        for i, cell in enumerate(column):
            if _POINT_THOUSANDS.fullmatch(cell) and (ambiguous or cell.count(".") > 1):
                raise self._two_readings(i, cell, head, "point", ".")

    def _two_readings(self, row: int, cell: str, head: Head, sign: str, mark: str) -> BadDataError:
        grouped = cell.replace(mark, "")
        # One digit more, so that the number as it is to be written groups nothing.
        examples = [f"{cell.replace(mark, '.')}0"] if cell.count(mark) == 1 else []
        return BadDataError(
            f"row {self.rows[row][0]}: {head.name} {cell} can be a decimal {sign} or thousands",
            remedy=f"write it with a point and without grouping, e.g. {' or '.join([*examples, grouped])}",
        )


def read_table(text: str, max_rows: int) -> Table:
    """Split text into cells; lines that are empty or begin with # are passed over.

    Raises BadDataError naming the line: no head, a line too long, or with other columns than the head.
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
    numbers = [cell.partition(" ")[0] for _, cells in rows for cell in cells]
    return Table(
        heads=heads,
        rows=tuple(rows),
        separator=separator,
        decimal_comma=separator != "," and any(_decimal(n, _COMMA_NUMBER, _THOUSANDS, ",") for n in numbers),
        decimal_point=any(_decimal(n, _POINT_NUMBER, _POINT_THOUSANDS, ".") for n in numbers),
    )


def _decimal(cell: str, number: re.Pattern[str], thousands: re.Pattern[str], mark: str) -> bool:
    """Whether a cell is a number whose one mark can only be the decimal sign."""
    return cell.count(mark) == 1 and number.fullmatch(cell) is not None and thousands.fullmatch(cell) is None


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
        return Head(name=cell.lower(), written=cell, unit=None)
    return Head(name=found["name"].lower(), written=found["name"], unit=found["unit"])
