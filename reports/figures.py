"""The pictures of a report as a PNG, SVG or PDF file, drawn by matplotlib from the same view records.

matplotlib is the extra `report` and is loaded when a figure is saved. Text is never read as mathematics, so a
name may hold any sign.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cardlab.core.errors import MissingDependencyError, UsageError
from cardlab.core.files import check_output, marked
from cardlab.reports.views.parts import Axis, Bars, Chart, Series

FORMATS = (".png", ".svg", ".pdf")
# The colours of the page's style sheet, in its order: a curve has one colour wherever it is drawn.
PALETTE = ("#1f6feb", "#cf222e", "#1a7f37", "#8250df", "#a86400", "#0b7285", "#c2408f", "#6b7280")
MARK = "#1a7f37"
COLUMNS = 2
WIDTH_IN, HEIGHT_IN, DPI = 6.0, 4.2, 110
# Two columns of 20 are 9,000 pixels high, about as much as viewers open.
MOST_PICTURES = 40
# What fits above a picture of this width at this size of type.
NAME_LENGTH = 44


def save_figure(pictures: Sequence[Chart | Bars], file: str) -> None:
    """Draw the pictures side by side into one file.

    Raises:
        UsageError: the file's ending names no known format, or it cannot be written or is there and no picture of
            cardlab, or nothing is to be drawn.
        MissingDependencyError: matplotlib is not installed.
    """
    path = Path(file)
    if not path.suffix:
        raise UsageError(f"{file} has no ending", remedy=f"end its name in one of: {', '.join(FORMATS)}")
    check_output(file, "a picture", endings=FORMATS, ours=marked(b"atplotlib"))
    if not pictures:
        raise UsageError("there is nothing to draw", remedy="measure over several frequencies, or leave out --plot")
    # The class and not pyplot, which wants a display and keeps every figure alive.
    matplotlib, figure_class = _matplotlib()
    shown = pictures[:MOST_PICTURES]
    columns = min(COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    # A $ in a name would begin mathematics. A fixed salt gives equal files for equal data.
    settings = {"text.parse_math": False, "svg.hashsalt": "cardlab", "font.size": 9}
    with matplotlib.rc_context(settings):
        figure = figure_class(figsize=(WIDTH_IN * columns, HEIGHT_IN * rows), layout="constrained")
        for i, picture in enumerate(shown):
            axes = figure.add_subplot(rows, columns, i + 1)
            _chart(axes, picture) if isinstance(picture, Chart) else _bars(axes, picture)
        try:
            # Without its date an SVG of equal data is the same file.
            metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
            figure.savefig(path, dpi=DPI, metadata=metadata)
        except OSError as error:
            raise UsageError(f"{file} cannot be written: {error.strerror}", remedy="give another file") from error


def _matplotlib() -> tuple[Any, Any]:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "a picture file needs matplotlib", remedy="install it: pip install 'cardlab[report]'"
        ) from error
    return matplotlib, Figure


def _chart(axes: Any, chart: Chart) -> None:
    for series in chart.series:
        _series(axes, series, chart.x.scale, chart.y.scale)
    for mark in chart.marks:
        x = mark.x * chart.x.scale
        axes.axvline(x, color=MARK, linestyle=":", label=mark.label)
        if mark.ci95 is not None:
            axes.axvspan(*(end * chart.x.scale for end in mark.ci95), color=MARK, alpha=0.12, linewidth=0)
    _axis(axes, "x", chart.x)
    _axis(axes, "y", chart.y)
    axes.set_title(_short(chart.title))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, framealpha=0.6)


def _axis(axes: Any, name: str, axis: Axis) -> None:
    getattr(axes, f"set_{name}label")(axis.text)
    if axis.log:
        getattr(axes, f"set_{name}scale")("log")
    elif axis.least is not None:
        half = max(axis.least * axis.scale, *(abs(end) for end in getattr(axes, f"get_{name}lim")()))
        getattr(axes, f"set_{name}lim")(-half, half)
    elif axis.zero:
        getattr(axes, f"set_{name}lim")(**{"left" if name == "x" else "bottom": 0.0})


def _series(axes: Any, series: Series, x_scale: float, y_scale: float) -> None:
    colour = PALETTE[series.colour % len(PALETTE)]
    x = [v * x_scale for v in series.x]
    y = [v * y_scale for v in series.y]
    # matplotlib leaves names with a leading underscore out of the key.
    name = _short(series.name.lstrip("_"))
    if series.style == "band":
        upper = [v * y_scale for v in series.upper]
        axes.fill_between(x, y, upper, color=colour, alpha=0.18, linewidth=0, label=name)
    elif series.style in ("line", "dashed"):
        axes.plot(x, y, color=colour, linestyle="-" if series.style == "line" else "--", label=name)
    else:
        marker = "s" if series.style == "squares" else "o"
        face = "none" if series.style == "hollow" else colour
        axes.plot(x, y, marker, color=colour, markerfacecolor=face, markersize=4.5, label=name)


def _bars(axes: Any, bars: Bars) -> None:
    # barh counts from below, rows are read from above.
    places = list(range(len(bars.rows)))[::-1]
    left = [0.0] * len(places)
    for i, term in enumerate(bars.terms):
        values = [row[i] or 0.0 for row in bars.values]
        # A term that no row has would still take a line of the key.
        if any(values):
            axes.barh(places, values, left=left, height=0.6, color=PALETTE[i % len(PALETTE)], label=term)
        left = [a + b for a, b in zip(left, values, strict=True)]
    for i, interval in enumerate(bars.ci95):
        if interval is not None:
            axes.plot(interval, [places[i]] * 2, "|-", color="black", linewidth=1)
    for i, place in enumerate(places):
        total = bars.total(i)
        axes.annotate("N/A" if total is None else f" {total:.4g}", (left[i], place), va="center", fontsize=7)
    axes.set_yticks(places, [_short(name) for name in bars.rows])
    axes.set_xlabel(bars.unit)
    axes.set_title(_short(bars.title))
    # Room for the totals behind the bars.
    axes.margins(x=0.12)
    # matplotlib warns of an empty key.
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=7, framealpha=0.6)


def _short(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"
