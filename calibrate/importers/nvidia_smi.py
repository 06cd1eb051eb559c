"""Logs of one card: `nvidia-smi --query-gpu=clocks.sm,power.draw --format=csv -l 1`.

Units in head and cells, [N/A], many rows a frequency. Rows of one frequency are averaged; rows without a reading, rows
in which the card was held below what it was asked for and rows in which it was idle are left out; what the log holds
beside is named in a note.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cardlab.calibrate.importers.columns import HERTZ, KINDS, Column, factor
from cardlab.calibrate.importers.rows import Imported, ImportedRow, averaged
from cardlab.calibrate.importers.table import Head, Table
from cardlab.core.errors import BadDataError
from cardlab.core.numerals import decimal

# Fields of nvidia-smi --query-gpu, the best first; `help-query-gpu` lists each under both names.
_FIELDS = {
    "frequency_hz": ("clocks.current.sm", "clocks.sm", "clocks.current.graphics", "clocks.gr"),
    "memory_hz": ("clocks.current.memory", "clocks.mem"),
    "power_w": ("power.draw.instant", "power.draw", "power.draw.average"),
}
_ALL_FIELDS = frozenset(name for names in _FIELDS.values() for name in names)
# What one card alone has, and what two cards may share but one never changes.
_IDENTITY = ("uuid", "gpu_uuid", "index", "gpu_bus_id", "pci.bus_id", "pci.bus", "serial", "gpu_serial")
_KEPT = (
    *("name", "gpu_name", "pci.domain", "pci.device", "pci.device_id", "pci.sub_device_id", "vbios_version"),
    *("memory.total", "compute_cap", "gpu_part_number"),
)
_ABSENT = ("", "n/a", "[n/a]", "[not supported]", "not supported", "[unknown error]", "nan")
_UTILIZATION = "utilization.gpu"
# Since driver 535 "event" for "throttle". Bits of `.active` as nvml.h names them.
_REASONS = re.compile(r"clocks_(?:throttle|event)_reasons\.(?P<reason>\w+)")
_MASK = re.compile(r"0x[0-9a-f]{1,16}", re.ASCII | re.IGNORECASE)
_IDLE = "gpu_idle"
_BITS = {
    _IDLE: 0x1,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
}
# A frequency that was set, by a person or for a display, is one that was asked for.
_SET_BITS = 0x2 | 0x100


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What a row says of the card beside its readings: why it was held (() if it was not), and whether it was idle."""

    held: tuple[str, ...] = ()
    idle: bool = False


def is_log(table: Table) -> bool:
    """Whether a table has the columns of such a log."""
    return any(head.name in _ALL_FIELDS for head in table.heads)


def read_log(table: Table, max_rows: int) -> Imported:
    """The points of a log.

    Raises BadDataError: several cards, no row that can be used, or a cell that cannot be read.
    """
    columns, notes = [], []
    for field, names in _FIELDS.items():
        column, said = _column(table, field, names)
        columns += [] if column is None else [column]
        notes += said
    notes += _one_card(table)
    states, watched, said = _states(table)
    notes += said
    used = {column.index for column in columns} | watched
    others = [head.name for index, head in enumerate(table.heads) if index not in used and _unread(head.name)]
    if others:
        notes.append(f"columns that are not read: {', '.join(others)}")
    readings = [row for row in _rows(table, columns) if row is not None]
    rows, said = _usable(readings, {line: state for (line, _), state in zip(table.rows, states, strict=True)})
    if len(readings) < len(table.rows):
        notes.append(f"{len(table.rows) - len(readings)} row(s) without a reading are left out")
    means, note = averaged(rows, max_rows)
    return Imported(rows=means, notes=(*notes, *said, *(() if note is None else (note,))))


def _unread(name: str) -> bool:
    return name not in _IDENTITY and name not in _KEPT and name not in _ALL_FIELDS


def _column(table: Table, field: str, names: Sequence[str]) -> tuple[Column | None, list[str]]:
    """The best column of a field that has values, and notes on the others; None where none has."""
    there = [(index, head) for name in names for index, head in enumerate(table.heads) if head.name == name]
    filled = [(index, head) for index, head in there if not all(map(_absent, table.column(index)))]
    kind = next(kind for kind in KINDS if kind.field == field)
    if not filled and field != "memory_hz":
        raise _missing(names[1], kind.name, [head.name for _, head in there])
    notes = [f"{head.name} holds no value" for place in there if place not in filled for head in place[1:]]
    if not filled:
        return None, notes
    (index, head), *rest = filled
    notes += [f"{other.name} is passed over: {head.name} says the same" for _, other in rest]
    unit = head.unit or ("MHz" if kind.units is HERTZ else "W")
    size = factor(kind, unit)
    if size is None:
        raise BadDataError(f"row 1: {head.name} in {unit}", remedy="log with nvidia-smi --format=csv")
    return Column(index=index, kind=kind, name=head.name, unit=unit, factor=size), notes


def _missing(wanted: str, what: str, there: Sequence[str]) -> BadDataError:
    if not there:
        return BadDataError(f"row 1: a log of nvidia-smi without {wanted}", remedy=f"log it: --query-gpu={wanted},...")
    # It was logged: to log it again would give the same.
    return BadDataError(
        f"{', '.join(there)} hold{'s' if len(there) == 1 else ''} no value in any row: this card or driver gives none",
        remedy=f"log it with another driver, or give the {what} as a column of a table: frequency_mhz,power_w",
    )


def _one_card(table: Table) -> list[str]:
    """What was assumed of whose log this is. Raises BadDataError for a log of several cards."""
    named = False
    for index, head in enumerate(table.heads):
        if head.name not in _IDENTITY and head.name not in _KEPT:
            continue
        cards = list(dict.fromkeys(table.column(index)))
        if len(cards) > 1:
            raise BadDataError(
                f"the log holds {len(cards)} cards ({head.name} {cards[0]}, {cards[1]})",
                remedy="log one with nvidia-smi -i, or keep the rows of one",
            )
        named |= head.name in _IDENTITY and not all(map(_absent, cards))
    if named:
        return []
    _one_row_a_time(table)
    return ["taken as one card: the log names none (log uuid or index to have it checked)"]


def _one_row_a_time(table: Table) -> None:
    for index, head in enumerate(table.heads):
        seen: dict[str, int] = {}
        for line, cells in table.rows if head.name == "timestamp" else ():
            if cells[index] in seen and not _absent(cells[index]):
                raise BadDataError(
                    f"rows {seen[cells[index]]} and {line} are of one timestamp, so of two cards that the log does not"
                    " tell apart",
                    remedy="log uuid too and keep the rows of one card; if it is one card, remove the column timestamp",
                )
            seen[cells[index]] = line


def _states(table: Table) -> tuple[list[_State], set[int], list[str]]:
    """What each row says of the card, the columns that say it, and notes."""
    reasons = [(index, match["reason"]) for index, match in _matches(table) if match["reason"] in ("active", *_BITS)]
    busy, notes = [index for index, head in enumerate(table.heads) if head.name == _UTILIZATION], []
    percent = [[_percent(cell, line) for line, cell in _lines(table, index)] for index in busy]
    # Zero in every row may be meant: the power of an idle card. Zero among others is the pause between two loads.
    loaded = [any(value for value in column) for column in percent]
    for column, some in zip(percent, loaded, strict=True):
        if not some and any(value is not None for value in column):
            notes.append(f"{_UTILIZATION} is 0 % in every row: taken as the power of an idle card")
    states = []
    for i, (line, cells) in enumerate(table.rows):
        found = [r for index, reason in reasons for r in _active(cells[index], line, reason, table.heads[index])]
        idle = any(some and column[i] == 0 for column, some in zip(percent, loaded, strict=True)) or _IDLE in found
        states.append(_State(held=tuple(dict.fromkeys(r for r in found if r != _IDLE)), idle=idle))
    return states, {index for index, _ in reasons} | set(busy), notes


def _matches(table: Table) -> Iterator[tuple[int, re.Match[str]]]:
    for index, head in enumerate(table.heads):
        match = _REASONS.fullmatch(head.name)
        if match is not None:
            yield index, match


def _lines(table: Table, index: int) -> Iterator[tuple[int, str]]:
    return ((line, cell) for (line, _), cell in zip(table.rows, table.numbers(index), strict=True))


def _percent(cell: str, line: int) -> float | None:
    if _absent(cell):
        return None
    try:
        value = decimal(cell.removesuffix("%").strip())
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 100.0:
        raise BadDataError(f"row {line}: {_UTILIZATION} is {cell!r}, no part of 100 %", remedy="log it anew")
    return value


def _active(cell: str, line: int, reason: str, head: Head) -> list[str]:
    """The reasons that a cell says were active."""
    if _absent(cell):
        return []
    if reason == "active":
        if _MASK.fullmatch(cell) is None:
            raise BadDataError(f"row {line}: {head.name} is {cell!r}, no mask such as 0x0004", remedy="log it anew")
        mask = int(cell, 16)
        known = [name for name, bit in _BITS.items() if mask & bit]
        # A reason of a newer driver: whatever it is, the card was not as it was asked to be.
        unknown = mask & ~(_SET_BITS | sum(_BITS.values()))
        return [*known, *([f"{unknown:#x}"] if unknown else [])]
    if cell.lower() not in ("active", "not active"):
        raise BadDataError(f"row {line}: {head.name} is {cell!r}, not Active or Not Active", remedy="log it anew")
    return [reason] if cell.lower() == "active" else []


def _usable(rows: Sequence[ImportedRow], states: dict[int, _State]) -> tuple[list[ImportedRow], list[str]]:
    """The rows in which the card ran as it was asked to, and notes on the others. Raises BadDataError without any."""
    idle = [row for row in rows if states[row.line].idle]
    held = [row for row in rows if states[row.line].held and not states[row.line].idle]
    counts = Counter(" and ".join(states[row.line].held) for row in held)
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts.items())
    notes = [f"{len(held)} row(s) in which the card was held are left out: {reasons}"] if held else []
    notes += [f"{len(idle)} row(s) in which the card was idle are left out"] if idle else []
    left = [row for row in rows if not states[row.line].idle and not states[row.line].held]
    if rows and not left:
        parts = [*([reasons] if held else []), *([f"idle {len(idle)}"] if idle else [])]
        raise BadDataError(
            f"in no row with a reading did the card run as asked ({', '.join(parts)})",
            remedy="log it under load, at frequencies below its power limit and cool enough",
        )
    if not rows:
        raise BadDataError("no row has both a frequency and a power", remedy="log it again: each row needs both")
    return left, notes


def _rows(table: Table, columns: Sequence[Column]) -> Iterator[ImportedRow | None]:
    """Each row that has a frequency and a power, None for the others."""
    numbers = {column.index: table.numbers(column.index) for column in columns}
    for i, (line, _) in enumerate(table.rows):
        values = {c.kind.field: _value(numbers[c.index][i], line, c) for c in columns}
        frequency_hz, power_w = values["frequency_hz"], values["power_w"]
        if frequency_hz is None or power_w is None:
            yield None
        else:
            memory_hz = values.get("memory_hz")
            yield ImportedRow(
                line=line,
                frequency_hz=frequency_hz,
                frequency_read=True,
                power_w=power_w,
                rail="board",
                memory_hz=memory_hz,
            )


def _value(cell: str, line: int, column: Column) -> float | None:
    if _absent(cell):
        return None
    text, _, unit = cell.partition(" ")
    if unit and factor(column.kind, unit) != column.factor:
        raise BadDataError(f"row {line}: {column.name} is in {unit}, its head says {column.unit}", remedy="log it anew")
    return column.value(text, line)


def _absent(cell: str) -> bool:
    return cell.lower() in _ABSENT
