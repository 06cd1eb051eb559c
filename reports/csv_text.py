"""The data of a part as CSV (RFC 4180): SI numbers in full, empty where nothing is known.

A text cell that a spreadsheet would take for a formula gets an apostrophe in front: names come from anywhere.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from cardlab.reports.views.parts import Bars, Cell, Chart, Part, Table

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_text(part: Part) -> str:
    """Header and rows of a chart, bars or table."""
    if isinstance(part, Table):
        return _write([c.raw_head for c in part.columns], part.rows)
    if isinstance(part, Bars):
        head = ["row", *(f"{term} ({part.unit})" for term in part.terms)]
        return _write(head, [(name, *values) for name, values in zip(part.rows, part.values, strict=True)])
    return _write(["series", _raw(part, "x"), _raw(part, "y"), f"upper {_raw(part, 'y')}", "point"], _points(part))


def _raw(chart: Chart, name: str) -> str:
    axis = chart.x if name == "x" else chart.y
    return axis.label if axis.unit == "1" else f"{axis.label} ({axis.unit})"


def _points(chart: Chart) -> Iterable[tuple[Cell, ...]]:
    for series in chart.series:
        for i, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
            upper = series.upper[i] if series.upper else None
            yield series.name, x, y, upper, series.labels[i] if series.labels else ""
    for mark in chart.marks:
        yield mark.label, mark.x, None, None, ""


def _write(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([_safe(cell) for cell in head])
    writer.writerows([_safe(cell) for cell in row] for row in rows)
    return out.getvalue()


def _safe(cell: Cell) -> str:
    if cell is None:
        return ""
    # Before numbers: True is one of them in Python.
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, str):
        # A single dash is this report's sign for nothing, and no formula.
        return f"'{cell}" if cell.startswith(_FORMULA) and cell != "-" else cell
    # The shortest digits that read back as the same number.
    return repr(cell)
