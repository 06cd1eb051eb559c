"""Charts and bars as inline SVG, coloured by the page's CSS variables and readable without them.

Every picture has a title and a description for those who do not see it; its numbers stand in its CSV.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from cardlab.reports.views.parts import Axis, Bars, Chart, Series

# Units of the view box: the page scales a picture to its column.
WIDTH, HEIGHT = 420, 270
LOW_HEIGHT = 130
LEFT, RIGHT, TOP, BOTTOM = 62, 20, 12, 42
ROW, BAR = 42, 18
NAME_LENGTH = 52
RADIUS = 3.4


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that divide a range."""
    if high <= low:
        return [low]
    raw = (high - low) / wanted
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(s * scale for s in (1.0, 2.0, 2.5, 5.0, 10.0) if s * scale >= raw)
    # Rounding must not lose a tick that lies on the end of the range.
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten in a range; with 2 and 5 between them where there are few, evenly spaced where none fits."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1.0,) if len(decades) > 4 else (1.0, 2.0, 5.0)
    found = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high * (1 + 1e-9)]
    return found if len(found) > 1 else ticks(low, high)


def limits(axis: Axis, values: Iterable[float]) -> tuple[float, float]:
    """The range an axis shows, in its shown unit, with some air."""
    shown = [v * axis.scale for v in values]
    low, high = (min(shown), max(shown)) if shown else (0.0, 1.0)
    if axis.log:
        return low / 1.5, high * 1.5
    if axis.least is not None:
        half = 1.15 * max(abs(low), abs(high), axis.least * axis.scale)
        return -half, half
    if axis.zero and low >= 0.0:
        # Values that are all 0 still need an axis with a length.
        return 0.0, high * 1.08 or 1.0
    air = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - air, high + air


class _Line:
    """Maps one axis to pixels."""

    def __init__(self, axis: Axis, values: Iterable[float], start: float, end: float) -> None:
        self.axis, self.start, self.end = axis, start, end
        self.low, self.high = limits(axis, values)

    def at(self, value: float) -> float:
        return self.shown_at(value * self.axis.scale)

    def shown_at(self, value: float) -> float:
        low, high = self.low, self.high
        if self.axis.log:
            # The band of an uncertain law may reach below 0, which this axis cannot show.
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        return log_ticks(self.low, self.high) if self.axis.log else ticks(self.low, self.high)


class _Plane:
    """Maps data to the drawing area and draws its axes."""

    def __init__(self, chart: Chart) -> None:
        self.height = LOW_HEIGHT if chart.low else HEIGHT
        xs = [x for s in chart.series for x in s.x] + [m.x for m in chart.marks]
        ys = [y for s in chart.series for y in (*s.y, *s.upper)]
        self.x = _Line(chart.x, xs, LEFT, WIDTH - RIGHT)
        # Pixels count downwards.
        self.y = _Line(chart.y, ys, self.height - BOTTOM, TOP)

    def path(self, points: Iterable[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{self.x.at(x):.1f} {self.y.at(y):.1f}" for x, y in points)

    def axes(self) -> list[str]:
        bottom, parts = self.height - BOTTOM, []
        for x in self.x.ticks():
            a = self.x.shown_at(x)
            parts.append(f'<line class="grid" x1="{a:.1f}" x2="{a:.1f}" y1="{TOP}" y2="{bottom}"/>')
            parts.append(_text("tick", a, bottom + 16, f"{x:g}", "middle"))
        for y in self.y.ticks()[:: 2 if self.height == LOW_HEIGHT else 1]:
            b = self.y.shown_at(y)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{b:.1f}" y2="{b:.1f}"/>')
            parts.append(_text("tick", LEFT - 6, b + 4, f"{y:g}", "end"))
        parts.append(_text("label", (LEFT + WIDTH - RIGHT) / 2, self.height - 8, self.x.axis.text, "middle"))
        turn = f"translate(11 {(TOP + bottom) / 2:.1f}) rotate(-90)"
        parts.append(f'<text class="label" transform="{turn}" text-anchor="middle">{escape(self.y.axis.text)}</text>')
        return parts


def chart_svg(chart: Chart) -> str:
    """A chart; series in their order, later ones on top."""
    plane = _Plane(chart)
    parts = [*_head(WIDTH, plane.height, chart.title, chart.note), *plane.axes()]
    for mark in chart.marks:
        if mark.ci95 is not None:
            a, b = sorted(plane.x.at(end) for end in mark.ci95)
            # The interval of a best frequency may reach beyond the frequencies that are drawn.
            a, b = max(a, LEFT), min(b, WIDTH - RIGHT)
            parts.append(
                f'<rect class="range" x="{a:.1f}" width="{max(b - a, 0.0):.1f}" y="{TOP}"'
                f' height="{plane.height - BOTTOM - TOP}"/>'
            )
        a = plane.x.at(mark.x)
        parts.append(f'<line class="mark" x1="{a:.1f}" x2="{a:.1f}" y1="{TOP}" y2="{plane.height - BOTTOM}"/>')
    for series in chart.series:
        parts += _series(plane, series)
        if chart.named:
            parts += _labels(plane, series)
    return "".join([*parts, "</svg>"])


def _labels(plane: _Plane, series: Series) -> list[str]:
    """Names beside points; points at one place share a line."""
    places: dict[tuple[float, float], list[str]] = {}
    for x, y, label in zip(series.x, series.y, series.labels, strict=False):
        # Rounded to about the height of a line: closer names would cover each other.
        places.setdefault((round(plane.x.at(x)), round(plane.y.at(y), -1)), []).append(label)
    parts = []
    for (a, b), names in places.items():
        # Names near an edge grow inwards, or the picture would cut them off.
        anchor = "end" if a > WIDTH - 110 else "start" if a < LEFT + 70 else "middle"
        parts.append(_text("label", a, b - 9, ", ".join(names), anchor))
    return parts


def _series(plane: _Plane, series: Series) -> list[str]:
    pairs = list(zip(series.x, series.y, strict=True))
    if not pairs:
        return []
    if series.style == "band":
        # Backwards along the upper edge, so that the path closes around the band.
        back = list(zip(series.x, series.upper, strict=True))[::-1]
        return [f'<path class="band s{series.colour}" d="{plane.path([*pairs, *back])}Z"/>']
    if series.style in ("line", "dashed"):
        return [f'<path class="{series.style} s{series.colour}" d="{plane.path(pairs)}"/>']
    return [_point(plane, series, i) for i in range(len(pairs))]


def _point(plane: _Plane, series: Series, i: int) -> str:
    x, y = series.x[i], series.y[i]
    a, b = plane.x.at(x), plane.y.at(y)
    name = f"{series.labels[i]}: " if series.labels else ""
    values = f"{x * plane.x.axis.scale:.5g} {plane.x.axis.shown}, {y * plane.y.axis.scale:.4g} {plane.y.axis.shown}"
    # A title inside a shape is its tooltip, without any script.
    hint = f"<title>{escape(name + values)}</title>"
    kind = f'class="{series.style} s{series.colour}"'
    if series.style == "squares":
        return f'<rect {kind} x="{a - RADIUS:.1f}" y="{b - RADIUS:.1f}" width="6.8" height="6.8">{hint}</rect>'
    return f'<circle {kind} cx="{a:.1f}" cy="{b:.1f}" r="{RADIUS}">{hint}</circle>'


def bars_svg(bars: Bars) -> str:
    """Stacked bars with each row's name above it and its total behind it."""
    height = ROW * len(bars.rows) + 6
    ends = [pair[1] for pair in bars.ci95 if pair is not None]
    longest = max([*(bars.total(i) or 0.0 for i in range(len(bars.rows))), *ends], default=0.0) or 1.0
    # The last 90 units are for the total behind the longest bar.
    per_unit = (WIDTH - 90) / longest
    parts = _head(WIDTH, height, bars.title, bars.note)
    for i, name in enumerate(bars.rows):
        y = ROW * i + 4
        parts.append(_text("label", 0, y + 12, _short(name), "start"))
        parts += _bar(bars, i, y + 17, per_unit)
    return "".join([*parts, "</svg>"])


def _bar(bars: Bars, row: int, y: float, per_unit: float) -> list[str]:
    x, parts = 0.0, []
    for i, (term, value) in enumerate(zip(bars.terms, bars.values[row], strict=True)):
        width = (value or 0.0) * per_unit
        # A fifth of a pixel cannot be seen.
        if width > 0.2:
            hint = f"<title>{escape(f'{bars.rows[row]}, {term}: {value:.4g} {bars.unit}')}</title>"
            parts.append(f'<rect class="bar t{i}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}">{hint}</rect>')
            x += width
    interval = bars.ci95[row] if bars.ci95 else None
    if interval is not None:
        low, high = (end * per_unit for end in interval)
        middle = y + BAR / 2
        d = f"M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8"
        parts.append(f'<path class="whisker" d="{d}"/>')
        x = max(x, high)
    total = bars.total(row)
    words = "N/A" if total is None else f"{total:.4g} {bars.unit}"
    parts.append(_text("tick", x + 6, y + 14, words, "start"))
    return parts


def swatch(style: str, colour: int) -> str:
    """A small sample of a series or a bar's term, for a key."""
    shapes = {
        "line": f'<path class="line s{colour}" d="M0 6H20"/>',
        "dashed": f'<path class="dashed s{colour}" d="M0 6H20"/>',
        "band": f'<rect class="band s{colour}" y="1" width="20" height="10"/>',
        "points": f'<circle class="points s{colour}" cx="10" cy="6" r="3.4"/>',
        "hollow": f'<circle class="hollow s{colour}" cx="10" cy="6" r="3.4"/>',
        "squares": f'<rect class="squares s{colour}" x="6.6" y="2.6" width="6.8" height="6.8"/>',
        "bar": f'<rect class="bar t{colour}" y="1" width="20" height="10"/>',
        "mark": '<path class="mark" d="M10 0V12"/>',
    }
    return f'<svg class="swatch" viewBox="0 0 20 12" aria-hidden="true">{shapes[style]}</svg>'


def _head(width: int, height: int, title: str, note: str) -> list[str]:
    return [
        f'<svg viewBox="0 0 {width} {height}" role="img" xmlns="http://www.w3.org/2000/svg">',
        f"<title>{escape(title)}</title><desc>{escape(note)}</desc>",
    ]


def _text(kind: str, x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _short(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"


def key_of(part: Chart | Bars) -> Sequence[tuple[str, str]]:
    """(swatch, name) of everything a picture shows."""
    if isinstance(part, Bars):
        return [(swatch("bar", i), term) for i, term in enumerate(part.terms)]
    marks = [(swatch("mark", 0), m.label) for m in part.marks]
    return [*((swatch(s.style, s.colour), s.name) for s in part.series if s.x), *marks]
