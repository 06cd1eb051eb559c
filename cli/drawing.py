"""`--plot`: pictures as a file, and their data in the JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cardlab.core.plain import to_plain
from cardlab.reports.figures import save_figure
from cardlab.reports.views.parts import Bars, Chart

__all__ = ["drawn", "save_figure"]


def drawn(charts: Sequence[Chart | Bars] | None) -> dict[str, Any]:
    """The key `charts` of a document with what was drawn; nothing where nothing was asked for."""
    return {} if charts is None else {"charts": to_plain(charts)}
