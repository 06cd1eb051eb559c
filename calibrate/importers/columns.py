"""What a column of a table can hold: its quantity, and the unit that its head names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cardlab.calibrate.importers.rows import quantity
from cardlab.calibrate.importers.table import Head
from cardlab.core import plausible
from cardlab.core.errors import BadDataError

HERTZ = {"hz": 1.0, "khz": 1e3, "mhz": 1e6, "ghz": 1e9}
WATTS = {"w": 1.0, "mw": 1e-3, "uw": 1e-6, "kw": 1e3}
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_MICRO = str.maketrans({"\N{MICRO SIGN}": "u", "\N{GREEK SMALL LETTER MU}": "u"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a column can hold: its field, its name, its units, and what a device can have of it."""

    field: str
    name: str
    units: Mapping[str, float]
    bounds: plausible.Bounds


MEMORY = Kind(field="memory_hz", name="memory_frequency", units=HERTZ, bounds=plausible.FREQUENCY)
FREQUENCY = Kind(field="frequency_hz", name="frequency", units=HERTZ, bounds=plausible.FREQUENCY)
POWER = Kind(field="power_w", name="power", units=WATTS, bounds=plausible.POWER)
LATENCY = Kind(field="latency_s", name="latency", units=SECONDS, bounds=plausible.LATENCY)
KINDS = (MEMORY, FREQUENCY, POWER, LATENCY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column that is read.

    Attributes:
        index: where it stands.
        kind, name: what it holds, and under which name.
        unit, factor: its unit as written, and in SI.
        note: what was assumed of its unit.
    """

    index: int
    kind: Kind
    name: str
    unit: str
    factor: float
    note: str | None = None

    def value(self, cell: str, line: int) -> float:
        """A cell in SI. Raises BadDataError naming the row."""
        return quantity(cell, line, self.name, self.factor, self.kind.bounds)


def factor(kind: Kind, unit: str, line: int = 1) -> float | None:
    """A unit in SI, None for one that this quantity does not have. Raises BadDataError for mega, as milli is meant."""
    plain = unit.strip().translate(_MICRO)
    found = kind.units.get(plain.lower())
    # Mega and milli differ by their case alone, and by a factor of 1e9.
    if found == 1e-3 and plain.startswith("M"):
        words = {"W": "megawatts", "s": "megaseconds"}[kind.bounds.unit]
        raise BadDataError(
            f"row {line}: {kind.name} in {plain} ({words})",
            remedy=f"write m{kind.bounds.unit} for milli, else convert it",
        )
    return found


def named_unit(head: Head, kind: Kind) -> tuple[str, str | None]:
    """The unit in a name such as power_mw, and a note where capitals leave open what it is.

    A name all in capitals has no small m for milli; one that mixes them has both, and says which.
    """
    unit = head.written[len(kind.name) + 1 :]
    if head.written.isupper() and kind.units.get(unit.lower()) == 1e-3:
        return unit.lower(), f"{head.written} is read as m{kind.bounds.unit} (milli)"
    return unit, None
