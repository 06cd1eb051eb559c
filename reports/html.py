"""One self-contained page of sections: inline SVG, no script, no request to anywhere.

The data of each chart and table are links that carry their CSV, so they can be saved from a file opened
without a server. Everything that came from a record is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cardlab import __version__
from cardlab.core.plain import Document
from cardlab.core.text import NOT_MEASURED
from cardlab.reports.csv_text import csv_text
from cardlab.reports.svg import bars_svg, chart_svg, key_of
from cardlab.reports.views.parts import Bars, Cell, Chart, Column, Part, Section, Table, scale_of

# Browsers are slow with long tables, and the CSV holds the rest.
MOST_ROWS = 200


def render_page(title: str, sections: Sequence[Section], *, created_at: str | None = None) -> str:
    """The page of the sections as HTML text."""
    environment = Environment(
        loader=PackageLoader("cardlab.reports"),
        autoescape=True,
        # A misspelt name in the template is an error and no empty place.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(cell=cell_text, csv=csv_link)
    names = _Names()
    text = environment.get_template("page.html.j2").render(
        title=title,
        version=__version__,
        created_at=created_at,
        sections=[_section(section, names) for section in sections],
    )
    return str(text)


def cell_text(value: Cell, column: Column) -> str:
    """A cell as a person reads it, in the column's shown unit."""
    if value is None:
        return NOT_MEASURED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    shown = value * scale_of(column.unit, column.shown or column.unit)
    # Four digits are more than was measured; large counts are easier to read without an exponent.
    return f"{shown:.4g}" if abs(shown) < 1000 or abs(shown) >= 1e7 else f"{shown:,.0f}"


def csv_link(part: Part) -> str:
    """A link that carries the CSV of a part; the byte order mark makes spreadsheets read it as UTF-8."""
    return f"data:text/csv;charset=utf-8,{quote(chr(0xFEFF) + csv_text(part))}"


class _Names:
    """File names of the data, each once on a page."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def of(self, part: Part) -> str:
        count = self._taken[part.key] = self._taken.get(part.key, 0) + 1
        return f"{part.key}.csv" if count == 1 else f"{part.key}-{count}.csv"


def _section(section: Section, names: _Names) -> Document:
    # Pictures that follow each other share a grid; a table has the width to itself.
    groups: list[Document] = []
    for part in section.parts:
        kind = "table" if isinstance(part, Table) else "pictures"
        if kind == "table" or not groups or groups[-1]["kind"] != kind:
            groups.append({"kind": kind, "parts": []})
        drawn = {"part": part, "file": names.of(part), "below": None, **_drawn(part)}
        if isinstance(part, Chart) and part.low and groups[-1]["parts"]:
            groups[-1]["parts"][-1]["below"] = drawn
        else:
            groups[-1]["parts"].append(drawn)
    return {"section": section, "groups": groups}


def _drawn(part: Part) -> Document:
    if isinstance(part, Table):
        return {"rows": part.rows[:MOST_ROWS], "left_out": max(0, len(part.rows) - MOST_ROWS)}
    svg = chart_svg(part) if isinstance(part, Chart) else bars_svg(part)
    wide = isinstance(part, Bars)
    # Marked as safe, because its texts were escaped where it was drawn.
    return {"svg": Markup(svg), "key": [(Markup(mark), name) for mark, name in key_of(part)], "wide": wide}
