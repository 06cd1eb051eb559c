"""Everything printed passes here: the result on stdout, the rest on stderr.

With `--json` stdout carries one document and nothing else. Without a terminal, or under NO_COLOR,
output is plain text without colour or cursor movement.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence

SCHEMA_VERSION = 1


def error_line(message: str, remedy: str) -> None:
    """One line on stderr: what is wrong, and what to do."""
    # One line, whatever line breaks a driver's message brings along.
    text = " ".join(f"{message}; {remedy}".split())
    print(f"error: {text}", file=sys.stderr)


def note(text: str) -> None:
    """A line for the person, not part of the result."""
    print(text, file=sys.stderr)


def print_json(document: Mapping[str, object]) -> None:
    """The one document of a `--json` command; NaN and infinity are refused, not printed."""
    print(json.dumps({"schema_version": SCHEMA_VERSION, **document}, allow_nan=False, ensure_ascii=False))


def print_line(text: str = "") -> None:
    """A line of the result."""
    print(text)


def print_table(
    title: str | None,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: int = 1,
) -> None:
    """A table of the result; the first `left` columns are text, the others numbers."""
    # A pipe or a file gets plain columns, which other programs can cut.
    if sys.stdout.isatty():
        _rich_table(title, columns, rows, left)
    else:
        _plain_table(title, columns, rows, left)


def _rich_table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> None:
    # Loaded here, because it takes some 80 ms that plain output need not pay.
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    for i, column in enumerate(columns):
        # Folded and not cut: half an id or a remedy is of no use.
        table.add_column(column, justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        # A name in brackets would be taken for markup.
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)


def _plain_table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> None:
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    if title:
        print(title)
    for line in lines:
        cells = (
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(cells).rstrip())
