"""Charts as inline SVG, drawn from view records and coloured by the page's CSS variables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from cardlab.reports.views.fit import Curve

WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 14, 42


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that divide a range."""
    if high <= low:
        return [low]
    raw = (high - low) / wanted
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(s * scale for s in (1.0, 2.0, 2.5, 5.0, 10.0) if s * scale >= raw)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


class _Plane:
    """Maps data to the drawing area and draws its axes."""

    def __init__(self, x: Sequence[float], y: Sequence[float]) -> None:
        self.x_low, self.x_high = 0.0, max(x) * 1.03
        self.y_low, self.y_high = 0.0, max(y) * 1.08

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x_low) / (self.x_high - self.x_low)
        up = (y - self.y_low) / (self.y_high - self.y_low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in (self.at(x, y) for x, y in points))

    def axes(self, x_label: str, y_label: str) -> list[str]:
        parts = []
        for x in ticks(self.x_low, self.x_high):
            a, b = self.at(x, self.y_low)
            parts.append(f'<line class="grid" x1="{a:.1f}" x2="{a:.1f}" y1="{TOP}" y2="{b:.1f}"/>')
            parts.append(f'<text class="tick" x="{a:.1f}" y="{b + 16:.1f}" text-anchor="middle">{x:g}</text>')
        for y in ticks(self.y_low, self.y_high):
            a, b = self.at(self.x_low, y)
            parts.append(f'<line class="grid" x1="{a:.1f}" x2="{WIDTH - RIGHT}" y1="{b:.1f}" y2="{b:.1f}"/>')
            parts.append(f'<text class="tick" x="{a - 6:.1f}" y="{b + 4:.1f}" text-anchor="end">{y:g}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(
            f'<text class="label" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
        )
        parts.append(
            f'<text class="label" transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"'
            f' text-anchor="middle">{escape(y_label)}</text>'
        )
        return parts


def curve_chart(curve: Curve) -> str:
    """Points, law with interval, and the paper's cubic, over the clock in MHz."""
    scale, unit = (1e3, "ms") if curve.unit == "s" else (1.0, curve.unit)
    points = [(f / 1e6, v * scale, throttled) for f, v, throttled in curve.points]
    law = [(f / 1e6, v * scale) for f, v in curve.law]
    cubic = [(f / 1e6, v * scale) for f, v in curve.cubic]
    plane = _Plane(
        [x for x, *_ in points] + [x for x, _ in law], [y for _, y, _ in points] + [y for _, y in law]
    )
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(curve.title)}">']
    parts += plane.axes("clock (MHz)", f"{curve.y_label} ({unit})")
    if curve.band:
        upper = [(f / 1e6, high * scale) for f, _, high in curve.band]
        lower = [(f / 1e6, low * scale) for f, low, _ in reversed(curve.band)]
        parts.append(f'<path class="band" d="{plane.path(upper + lower)}Z"/>')
    if cubic:
        inside = [(x, min(y, plane.y_high)) for x, y in cubic]
        parts.append(f'<path class="cubic" d="{plane.path(inside)}"/>')
    parts.append(f'<path class="law" d="{plane.path(law)}"/>')
    for x, y, throttled in points:
        a, b = plane.at(x, y)
        name = "point throttled" if throttled else "point"
        hint = f"<title>{x:.0f} MHz: {y:.4g} {unit}</title>"
        parts.append(f'<circle class="{name}" cx="{a:.1f}" cy="{b:.1f}" r="3.2">{hint}</circle>')
    parts.append("</svg>")
    return "".join(parts)


def residual_chart(curve: Curve) -> str:
    """Relative residuals in per cent over the clock in MHz; throttled points are left out of the scale."""
    shown = [(f / 1e6, 100.0 * r) for f, r, throttled in curve.residuals if not throttled]
    height, top, bottom = 110, 10, 30
    largest = max((abs(r) for _, r in shown), default=1.0) * 1.2 or 1.0
    x_high = max((f for f, _ in shown), default=1.0) * 1.03
    middle, half = top + (height - top - bottom) / 2, (height - top - bottom) / 2
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="residuals of {escape(curve.title)}">']
    for percent in (-largest, 0.0, largest):
        y = middle - half * percent / largest
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{percent:+.2g} %</text>')
    for f, r in shown:
        x = LEFT + f / x_high * (WIDTH - LEFT - RIGHT)
        y = middle - half * r / largest
        hint = f"<title>{f:.0f} MHz: {r:+.2f} %</title>"
        parts.append(f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="2.6">{hint}</circle>')
    label = "residual against clock"
    parts.append(f'<text class="label" x="{(LEFT + WIDTH) / 2}" y="{height - 8}" text-anchor="middle">{label}</text>')
    parts.append("</svg>")
    return "".join(parts)


TERM_CLASSES = ("device", "encode", "uplink", "decode", "server", "downlink", "adapters", "switch")


def terms_chart(rows: Sequence[tuple[str, Sequence[float]]]) -> str:
    """Delay terms of each device as stacked bars, seconds; `rows` are (name, values by TERM_CLASSES)."""
    height = 34 * len(rows) + 34
    longest = max((sum(values) for _, values in rows), default=1.0) or 1.0
    left, width = 130, WIDTH + 140
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="delay by term">']
    for i, (name, values) in enumerate(rows):
        y = 34 * i + 6
        parts.append(
            f'<text class="label" x="{left - 8}" y="{y + 17}" text-anchor="end">{escape(name)}</text>'
        )
        x = float(left)
        for term, value in zip(TERM_CLASSES, values, strict=True):
            w = value / longest * (width - left - 70)
            if w > 0.2:
                hint = f"<title>{term}: {value:.4g} s</title>"
                box = f'x="{x:.1f}" y="{y}" width="{w:.1f}" height="24"'
                parts.append(f'<rect class="term-{term}" {box}>{hint}</rect>')
            x += w
        parts.append(f'<text class="tick" x="{x + 6:.1f}" y="{y + 17}">{sum(values):.4g} s</text>')
    parts.append("</svg>")
    return "".join(parts)
