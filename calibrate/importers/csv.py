"""Sweeps from a table of text (CSV), with the columns of this program or of nvidia-smi's log.

Columns: frequency_mhz or frequency_hz; power_w and/or latency_s; optional workload, rail, memory_frequency_mhz. A unit
may stand in the name (frequency_khz, power_mw, latency_ms) or in brackets behind it (`Power [mW]`). Other columns
are an error, since a misspelt one would be lost in silence. Lines that begin with # are comments.

What people have of a card is `nvidia-smi --query-gpu=clocks.sm,power.draw --format=csv -l 1`: units in head and cells,
[N/A], many rows a frequency. Its rows of one frequency are averaged, and what it holds beside is named in a note.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cardlab.calibrate.importers.rows import MAX_ROWS, Imported, ImportedRow, averaged, collect, quantity
from cardlab.calibrate.importers.table import Head, Table, read_table
from cardlab.core import plausible
from cardlab.core.errors import BadDataError
from cardlab.core.files import read_text

HERTZ = {"hz": 1.0, "khz": 1e3, "mhz": 1e6, "ghz": 1e9}
WATTS = {"w": 1.0, "mw": 1e-3, "uw": 1e-6, "kw": 1e3}
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
LABELS = ("workload", "rail")
_COLUMNS = (
    "columns: frequency_mhz|frequency_hz, power_w and/or latency_s; optional workload, rail, memory_frequency_mhz"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """What a column can hold: its field, its name, its units, and what a device can have of it."""

    field: str
    name: str
    units: Mapping[str, float]
    bounds: plausible.Bounds


_KINDS = (
    _Kind(field="memory_hz", name="memory_frequency", units=HERTZ, bounds=plausible.FREQUENCY),
    _Kind(field="frequency_hz", name="frequency", units=HERTZ, bounds=plausible.FREQUENCY),
    _Kind(field="power_w", name="power", units=WATTS, bounds=plausible.POWER),
    _Kind(field="latency_s", name="latency", units=SECONDS, bounds=plausible.LATENCY),
)
# Fields of nvidia-smi --query-gpu, the best first; `help-query-gpu` lists each under both names.
_SMI = {
    "frequency_hz": ("clocks.current.sm", "clocks.sm", "clocks.current.graphics", "clocks.gr"),
    "memory_hz": ("clocks.current.memory", "clocks.mem"),
    "power_w": ("power.draw.instant", "power.draw", "power.draw.average"),
}
_SMI_CARD = ("uuid", "gpu_uuid", "index", "gpu_bus_id", "pci.bus_id", "serial", "gpu_serial")
_ABSENT = ("", "n/a", "[n/a]", "[not supported]", "[unknown error]", "nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """A column that is read: where it stands, its kind, its name and its unit's factor."""

    index: int
    kind: _Kind
    name: str
    unit: str
    factor: float


def read_csv(path: str | Path, *, max_rows: int = MAX_ROWS) -> Imported:
    """All points of a table.

    Raises:
        BadDataError: the file cannot be used; the message names the row (1 is the header).
    """
    table = read_table(read_text(path, remedy="give a readable CSV file"), max_rows)
    names = [head.name for head in table.heads]
    if any(name in fields for name in names for fields in _SMI.values()):
        return _nvidia_smi(table, max_rows)
    columns, labels = _columns(table.heads)
    return Imported(rows=collect(_rows(table, columns, labels), max_rows))


def _columns(heads: Sequence[Head]) -> tuple[tuple[_Column, ...], dict[str, int]]:
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


def _column(index: int, head: Head) -> _Column:
    name = head.name.replace(" ", "_")
    for kind in _KINDS:
        if name == kind.name:
            unit = head.unit
        elif name.startswith(f"{kind.name}_"):
            unit = name[len(kind.name) + 1 :]
            if head.unit is not None and head.unit.lower() != unit:
                raise BadDataError(f"row 1: {head.name} [{head.unit}] names two units", remedy=_COLUMNS)
        else:
            continue
        if unit is None:
            raise BadDataError(
                f"row 1: {head.name} has no unit", remedy=f"name it, e.g. {kind.name}_{next(iter(kind.units))}"
            )
        if unit.lower() not in kind.units:
            break
        return _Column(index=index, kind=kind, name=head.name, unit=unit, factor=_factor(kind, unit))
    raise BadDataError(f"row 1: unknown column {head.name!r}", remedy=_COLUMNS)


def _factor(kind: _Kind, unit: str) -> float:
    # Mega and milli differ by their case alone, and by a factor of 1e9.
    if unit == "MW":
        raise BadDataError("row 1: power in MW (megawatts)", remedy="write mW for milliwatts")
    return kind.units[unit.lower()]


def _rows(table: Table, columns: Sequence[_Column], labels: Mapping[str, int]) -> Iterator[ImportedRow]:
    for line, cells in table.rows:
        values = {c.kind.field: _value(cells[c.index], line, c) for c in columns if cells[c.index]}
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


def _value(cell: str, line: int, column: _Column) -> float:
    return quantity(cell, line, column.name, column.factor, column.kind.bounds)


def _nvidia_smi(table: Table, max_rows: int) -> Imported:
    """A log of nvidia-smi: rows of one frequency averaged, rows without a reading left out."""
    columns, notes = [], []
    for field, names in _SMI.items():
        there = [(index, head) for name in names for index, head in enumerate(table.heads) if head.name == name]
        if there:
            columns.append(_smi_column(*there[0], field))
            notes += [f"{head.name} is passed over: {there[0][1].name} says the same" for _, head in there[1:]]
    fields = {column.kind.field for column in columns}
    for field, words in (("frequency_hz", "clocks.sm"), ("power_w", "power.draw")):
        if field not in fields:
            raise BadDataError(f"row 1: a log of nvidia-smi without {words}", remedy=f"log it: --query-gpu={words},...")
    _one_card(table)
    used = {column.index for column in columns}
    others = [head.name for index, head in enumerate(table.heads) if index not in used and head.name not in _SMI_CARD]
    others = [name for name in others if not any(name in names for names in _SMI.values())]
    if others:
        notes.append(f"columns that are not read: {', '.join(others)}")
    rows = list(_smi_rows(table, columns))
    left = len(table.rows) - len(rows)
    if left:
        notes.append(f"{left} row(s) without a reading are left out")
    if not rows:
        raise BadDataError("no row has both a frequency and a power", remedy="log clocks.sm and power.draw")
    means, note = averaged(rows, max_rows)
    return Imported(rows=means, notes=(*notes, *(() if note is None else (note,))))


def _smi_column(index: int, head: Head, field: str) -> _Column:
    kind = next(kind for kind in _KINDS if kind.field == field)
    unit = head.unit or ("MHz" if kind.units is HERTZ else "W")
    if unit.lower() not in kind.units:
        raise BadDataError(f"row 1: {head.name} in {unit}", remedy="log with nvidia-smi --format=csv")
    return _Column(index=index, kind=kind, name=head.name, unit=unit, factor=_factor(kind, unit))


def _one_card(table: Table) -> None:
    for name in _SMI_CARD:
        for index, head in enumerate(table.heads):
            cards = list(dict.fromkeys(cells[index] for _, cells in table.rows)) if head.name == name else []
            if len(cards) > 1:
                raise BadDataError(
                    f"the log holds {len(cards)} cards ({name} {cards[0]}, {cards[1]})",
                    remedy="log one with nvidia-smi -i, or keep the rows of one",
                )


def _smi_rows(table: Table, columns: Sequence[_Column]) -> Iterator[ImportedRow]:
    for line, cells in table.rows:
        values = {c.kind.field: _smi_value(cells[c.index], line, c) for c in columns}
        frequency_hz, power_w = values["frequency_hz"], values["power_w"]
        if frequency_hz is None or power_w is None:
            continue
        memory_hz = values.get("memory_hz")
        yield ImportedRow(line=line, frequency_hz=frequency_hz, power_w=power_w, rail="board", memory_hz=memory_hz)


def _smi_value(cell: str, line: int, column: _Column) -> float | None:
    if cell.lower() in _ABSENT:
        return None
    text, _, unit = cell.partition(" ")
    if unit and unit.lower() != column.unit.lower():
        raise BadDataError(f"row {line}: {column.name} is in {unit}, its head says {column.unit}", remedy="log it anew")
    return _value(text, line, column)
