"""`--plot`: pictures as a file, and their data in the JSON document."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cardlab.core.plain import Document, to_plain
from cardlab.reports.figures import save_figure
from cardlab.reports.views.parts import Bars, Chart

Pictures = Sequence[Chart | Bars]


def drawn_or_none(plot: str | None, make: Callable[[], Pictures]) -> Pictures | None:
    """Draw what `make` gives to the file of `--plot`; None where nothing was asked for."""
    if plot is None:
        return None
    charts = make()
    save_figure(charts, plot)
    return charts


def drawn(charts: Pictures | None) -> Document:
    """The key `charts` of a document with what was drawn; nothing where nothing was asked for."""
    return {} if charts is None else {"charts": to_plain(charts)}
