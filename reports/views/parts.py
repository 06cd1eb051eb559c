"""What a report is made of, as plain records: charts, bars and tables in sections.

Views build them from records, `svg`, `figures` and the page draw them, `to_plain` prints them. Values are
SI; an axis or column also names the unit it is shown in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

SHOWN = {
    ("Hz", "MHz"): 1e-6,
    ("s", "ms"): 1e3,
    ("1", "%"): 100.0,
    ("FLOP", "GFLOP"): 1e-9,
    ("FLOP/s", "GFLOP/s"): 1e-9,
    ("FLOP/s", "TFLOP/s"): 1e-12,
    ("bytes", "MiB"): 1.0 / 2**20,
}
Cell: TypeAlias = str | float | int | bool | None


def scale_of(unit: str, shown: str) -> float:
    """Factor from `unit` to `shown`. KeyError if no such pair is known."""
    return 1.0 if unit == shown else SHOWN[unit, shown]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of a chart.

    Attributes:
        label: what it shows.
        unit, shown: SI unit of the values, and the unit they are drawn in.
        log: logarithmic.
        zero: the axis begins at 0.
        least: the axis shows at least this much on both sides of 0, SI.
    """

    label: str
    unit: str
    shown: str
    log: bool = False
    zero: bool = False
    least: float | None = None

    @property
    def scale(self) -> float:
        """Factor from the values to what is drawn."""
        return scale_of(self.unit, self.shown)

    @property
    def text(self) -> str:
        """Label with the unit."""
        return self.label if self.shown == "1" else f"{self.label} ({self.shown})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One set of points of a chart.

    Attributes:
        name: as the key shows it.
        style: "points", "hollow", "squares", "line", "dashed" or "band".
        colour: index into the palette.
        x, y: values [n]; a band has its lower end in y and its upper one in `upper`.
        labels: a name for each point, or ().
    """

    name: str
    style: str
    colour: int
    x: tuple[float, ...]
    y: tuple[float, ...]
    upper: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A place on the x axis worth knowing, with its 95 % range where there is one."""

    label: str
    x: float
    ci95: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Series over two axes.

    Attributes:
        key: file name of its data.
        title: what it shows.
        note: where the numbers come from and how to read it.
        low: it is low and belongs below the chart before it.
        named: the labels of points are written beside them.
    """

    key: str
    title: str
    note: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    marks: tuple[Mark, ...] = ()
    low: bool = False
    named: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Stacked bars, one a row: `values[row][term]`, None where nothing is known.

    Attributes:
        ci95: interval of each row's total, None where it is unknown; empty if none is known.
    """

    key: str
    title: str
    note: str
    unit: str
    rows: tuple[str, ...]
    terms: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    ci95: tuple[tuple[float, float] | None, ...] = ()

    def total(self, row: int) -> float | None:
        """Sum of a row over what is known; None if nothing is."""
        known = [v for v in self.values[row] if v is not None]
        return sum(known) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: its name, the SI unit of its numbers (empty for text) and the unit they are shown in."""

    name: str
    unit: str = ""
    shown: str = ""

    @property
    def number(self) -> bool:
        """Whether it holds numbers."""
        return self.unit != ""

    @property
    def head(self) -> str:
        """Name with the unit shown."""
        unit = self.shown or self.unit
        return self.name if unit in ("", "1") else f"{self.name} ({unit})"

    @property
    def raw_head(self) -> str:
        """Name with the SI unit, for files."""
        return self.name if self.unit in ("", "1") else f"{self.name} ({self.unit})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under columns; numbers in SI, None where nothing was measured."""

    key: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


Part: TypeAlias = Chart | Bars | Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading with lines of text and the parts below it.

    Attributes:
        lines: sentences; `warnings` are shown before them and stand out.
        level: 1 for what the page is about, 2 for what is below it.
    """

    title: str
    parts: tuple[Part, ...] = ()
    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    level: int = 2


CLOCK = Axis(label="frequency", unit="Hz", shown="MHz")
ORIGIN = Column(name="origin")


def pictures(sections: Sequence[Section]) -> tuple[Chart | Bars, ...]:
    """The charts and bars of sections, in order."""
    return tuple(part for section in sections for part in section.parts if not isinstance(part, Table))


def file_key(*words: str | None) -> str:
    """A file name without surprises from words that may hold anything."""
    text = "-".join(word for word in words if word)
    # Labels may be of any length, and file systems end names at 255 bytes.
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in text)[:80].strip("-.") or "data"
