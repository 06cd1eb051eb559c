"""Sweeps from a table of text (CSV), with the columns of this program or of nvidia-smi's log.

Columns: frequency_mhz or frequency_hz; power_w and/or latency_s; optional workload, rail, memory_frequency_mhz. A unit
may stand in the name (frequency_khz, power_mw, latency_ms) or in brackets behind it (`Power [mW]`). Other columns
are an error, since a misspelt one would be lost in silence. Lines that begin with # are comments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cardlab.calibrate.importers.columns import KINDS, Column, factor, named_unit
from cardlab.calibrate.importers.nvidia_smi import is_log, read_log
from cardlab.calibrate.importers.rows import MAX_ROWS, Imported, ImportedRow, collect
from cardlab.calibrate.importers.table import Head, Table, read_table
from cardlab.core.errors import BadDataError
from cardlab.core.files import read_text

LABELS = ("workload", "rail")
_COLUMNS = (
    "columns: frequency_mhz|frequency_hz, power_w and/or latency_s; optional workload, rail, memory_frequency_mhz"
)


def read_csv(path: str | Path, *, max_rows: int = MAX_ROWS) -> Imported:
    """All points of a table.

    Raises:
        BadDataError: the file cannot be used; the message names the row (1 is the header).
    """
    table = read_table(read_text(path, remedy="give a readable CSV file"), max_rows)
    if is_log(table):
        return read_log(table, max_rows)
    columns, labels = _columns(table.heads)
    notes = tuple(column.note for column in columns if column.note is not None)
    return Imported(rows=collect(_rows(table, columns, labels), max_rows), notes=notes)


def _columns(heads: Sequence[Head]) -> tuple[tuple[Column, ...], dict[str, int]]:
    names = [head.name for head in heads]
    if len(set(names)) != len(names):
        raise BadDataError("row 1: a column is named twice", remedy=_COLUMNS)
    if not any(name.startswith("frequency") for name in names):
        raise BadDataError("row 1: needs one of the columns frequency_mhz and frequency_hz", remedy=_COLUMNS)
    columns, labels = [], {}
    for index, head in enumerate(heads):
        if head.name in LABELS and head.unit is None:
            labels[head.name] = index
        else:
            columns.append(_column(index, head))
    fields = [column.kind.field for column in columns]
    if fields.count("frequency_hz") != 1:
        raise BadDataError("row 1: needs one of the columns frequency_mhz and frequency_hz", remedy=_COLUMNS)
    if not {"power_w", "latency_s"} & set(fields):
        raise BadDataError("row 1: needs a column power_w or latency_s", remedy=_COLUMNS)
    twice = next((field for field in fields if fields.count(field) > 1), None)
    if twice is not None:
        raise BadDataError(f"row 1: two columns hold {twice}", remedy=_COLUMNS)
    return tuple(columns), labels


def _column(index: int, head: Head) -> Column:
    name = head.name.replace(" ", "_")
    for kind in KINDS:
        note = None
        if name == kind.name:
            unit = head.unit
        elif name.startswith(f"{kind.name}_"):
            unit, note = named_unit(head, kind)
            if head.unit is not None and factor(kind, head.unit) != factor(kind, unit):
                raise BadDataError(f"row 1: {head.name} [{head.unit}] names two units", remedy=_COLUMNS)
        else:
            continue
        if unit is None:
            raise BadDataError(
                f"row 1: {head.name} has no unit", remedy=f"name it, e.g. {kind.name}_{next(iter(kind.units))}"
            )
        size = factor(kind, unit)
        if size is None:
            break
        return Column(index=index, kind=kind, name=head.name, unit=unit, factor=size, note=note)
    raise BadDataError(f"row 1: unknown column {head.name!r}", remedy=_COLUMNS)


def _rows(table: Table, columns: Sequence[Column], labels: Mapping[str, int]) -> Iterator[ImportedRow]:
    numbers = {column.index: table.numbers(column.index) for column in columns}
    for i, (line, cells) in enumerate(table.rows):
        values = {c.kind.field: c.value(numbers[c.index][i], line) for c in columns if cells[c.index]}
        if "frequency_hz" not in values:
            raise BadDataError(f"row {line}: no frequency", remedy="give one in every row")
        if not {"power_w", "latency_s"} & set(values):
            raise BadDataError(f"row {line}: neither power_w nor latency_s", remedy="give at least one of them")
        words = {name: cells[index] or None for name, index in labels.items()}
        yield ImportedRow(
            line=line,
            frequency_hz=values["frequency_hz"],
            power_w=values.get("power_w"),
            latency_s=values.get("latency_s"),
            memory_hz=values.get("memory_hz"),
            workload=words.get("workload"),
            rail=words.get("rail"),
        )
