"""Fills the figures that documents quote from docs/measurements/accept.md: python docs/make_figures.py

A document writes `<!-- figure:NAME -->...<!-- /figure -->`; what stands between is replaced. Each NAME is one test of
the table and what of its figures is quoted. A test that has not run, or did not pass, is quoted as N/A.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_name("measurements") / "accept.md"
SPAN = re.compile(r"(<!-- figure:([\w-]+) -->).*?(<!-- /figure -->)", re.DOTALL)
NOT_MEASURED = "N/A"


class Figure(NamedTuple):
    """A test of the table; the pattern whose one group is quoted; what stands behind it."""

    test: str
    pattern: str
    unit: str = ""


FIGURES = {
    "highs-gap": Figure("tests/card/test_exactness.py::test_a_milp_solver_agrees_on_20", r"worst gap (\S+?);"),
    "highs-instances": Figure("tests/card/test_exactness.py::test_a_milp_solver_agrees_on_20", r": (\d+) instances"),
    "regret": Figure("tests/card/test_exactness.py::test_no_regret_on_5000_instances", r"worst regret (\S+?),"),
    "regret-decisions": Figure("tests/card/test_exactness.py::test_no_regret_on_5000_instances", r"(\d+) decisions"),
    **{
        f"{kind}-{card}": Figure(
            "tests/calibrate/test_coverage.py::test_held_out_error_on_real_cards[None]", pattern, " %"
        )
        for card, name in (("a4000", "RTX A4000"), ("xp", "Titan Xp"), ("v", "Titan V"), ("k40", "Tesla K40c"))
        for kind, pattern in (
            ("chosen", rf"{name}: \d+ sweeps, held-out error chosen ([\d.]+) %"),
            ("cubic", rf"{name}: [^<]*?cubic ([\d.]+) %"),
        )
    },
    "sweeps-time": Figure(
        "tests/calibrate/test_coverage.py::test_speed_of_500_sweeps_with_selection_and_draws",
        r"sweeps: ([\d.]+) s",
        " s",
    ),
}


def table() -> dict[str, list[str]]:
    """Cells of each row by test."""
    lines = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else []
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| tests/")]
    return {row[0]: row for row in rows}


def value(name: str, rows: Mapping[str, list[str]]) -> str:
    """What is quoted; KeyError for a name that is no figure, ValueError where the test says something else."""
    figure = FIGURES[name]
    row = rows.get(figure.test)
    if row is None or row[1] != "passed":
        return NOT_MEASURED
    found = re.search(figure.pattern, row[3])
    if found is None:
        raise ValueError(f"{figure.test} says nothing that matches {figure.pattern!r}: {row[3]}")
    return f"{found.group(1)}{figure.unit}"


def filled(text: str, rows: Mapping[str, list[str]]) -> str:
    """The text with every figure as the table has it."""
    return SPAN.sub(lambda span: f"{span.group(1)}{value(span.group(2), rows)}{span.group(3)}", text)


def pages() -> list[Path]:
    """Documents that may quote figures."""
    return [ROOT / "README.md", *sorted(Path(__file__).parent.glob("*.md"))]


if __name__ == "__main__":
    known = table()
    for page in pages():
        page.write_text(filled(page.read_text(encoding="utf-8"), known), encoding="utf-8")
