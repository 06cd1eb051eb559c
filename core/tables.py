"""Results as tables: plain rows, a pandas frame, or the HTML that a notebook shows."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from cardlab.core.errors import MissingDependencyError

if TYPE_CHECKING:
    import pandas

Cell = str | int | float | bool | None
# A notebook with ten thousand rows in one cell cannot be scrolled.
_SHOWN_ROWS = 60


class Tabular:
    """A record that has rows; `rows` is what the subclass gives, columns carry their unit in their name."""

    __slots__ = ()

    def rows(self) -> list[dict[str, Cell]]:
        """One mapping a row, all with the same keys; None was not measured."""
        raise NotImplementedError

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a pandas DataFrame. Raises MissingDependencyError without pandas."""
        try:
            import pandas
        except ImportError as error:
            raise MissingDependencyError("tables need pandas", remedy="pip install pandas") from error
        return pandas.DataFrame(self.rows())

    def _repr_html_(self) -> str:
        """What a notebook shows: the rows as a table, the first of many."""
        found = self.rows()
        columns = list(found[0]) if found else []
        head = "".join(f"<th>{escape(name)}</th>" for name in columns)
        body = "".join(f"<tr>{_cells(row, columns)}</tr>" for row in found[:_SHOWN_ROWS])
        more = f"<p>and {len(found) - _SHOWN_ROWS} more rows</p>" if len(found) > _SHOWN_ROWS else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cells(row: dict[str, Cell], columns: Sequence[str]) -> str:
    return "".join(f"<td>{escape(_text(row[name]))}</td>" for name in columns)


def _text(value: Cell) -> str:
    if value is None:
        return "N/A"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
