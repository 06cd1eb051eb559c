"""Plugin of `make accept`: prints what each full-count test found and keeps it in docs/measurements/.

`make accept` takes hours, so it can be run in pieces (`pytest -m accept -p tests.accept_report tests/card`): what ran
replaces its own rows, the rows of the others stay with the date and the commit they were made at, and the row of a test
that is no longer there goes. A skipped test has measured nothing and changes no row that has.
"""

from __future__ import annotations

import ast
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from datetime import datetime, timezone
from functools import cache
from pathlib import Path

import pytest

from cardlab.profilers.board.host import cpu_model

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "measurements" / "accept.md"
HEAD = """# Full counts

Written by `make accept`, which may be run in pieces: each row says when, at which commit (`+`: and changes that were
not committed) and where it was made, and stays until its test runs again or is gone.
"""
NOT_KEPT = "N/A"
_reports: list[pytest.TestReport] = []
_collected: dict[str, bool] = {}


@dataclass(frozen=True)
class Row:
    """What one full-count test found; the fields are the columns."""

    test: str
    outcome: str
    seconds: str
    figures: str
    date: str
    commit: str
    machine: str

    @property
    def function(self) -> str:
        """The test without its parameters."""
        return self.test.partition("[")[0]


COLUMNS = tuple(f.name for f in fields(Row))


def read(text: str) -> dict[str, Row]:
    """Rows of a table by test; a line of a table that is no row of ours is an error, lest it be dropped unseen."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("| ") or line.startswith(("|---", f"| {COLUMNS[0]} |")):
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != len(COLUMNS):
            raise ValueError(f"{TARGET.name}: a row of {len(cells)} cells, {len(COLUMNS)} are wanted: {line}")
        found[cells[0]] = Row(*cells)
    return found


def render(rows: Iterable[Row]) -> str:
    """The page."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(astuple(row))} |" for row in sorted(rows, key=lambda row: row.test)]
    return "\n".join([HEAD, *lines, ""])


def merged(old: Mapping[str, Row], new: Iterable[Row], collected: Mapping[str, bool], root: Path = ROOT) -> list[Row]:
    """Old rows whose tests are still there, and what ran now.

    Args:
        old: the table as it stands.
        new: what ran.
        collected: every test that was looked at now, and whether it is a full count.
        root: where the test files lie.
    """
    rows = {name: row for name, row in old.items() if still_there(row, collected, root)}
    for row in new:
        if row.outcome != "skipped" or row.test not in rows:
            rows[row.test] = row
    return list(rows.values())


def still_there(row: Row, collected: Mapping[str, bool], root: Path) -> bool:
    """Whether the test of a row exists: as collected now, else by its file and function."""
    beside = {name: full for name, full in collected.items() if name.partition("[")[0] == row.function}
    if beside:
        return beside.get(row.test, False)
    file, _, function = row.function.partition("::")
    return function in functions_of(root / file)


@cache
def functions_of(file: Path) -> frozenset[str]:
    """Names of the functions in a file; none where it is gone."""
    if not file.is_file():
        return frozenset()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def commit_of(root: Path = ROOT) -> str:
    """Short id of the commit that stands here, with + where the tree differs from it; N/A without git."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # The table itself changes while it is being made in pieces.
        changed = git("status", "--porcelain", "--", ".", f":!{TARGET.relative_to(ROOT)}")
        return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return NOT_KEPT


def row_of(report: pytest.TestReport, date: str, commit: str, machine: str) -> Row:
    """The row of a test that ended."""
    figures = "<br>".join(line.strip().replace("|", "/") for line in report.capstdout.splitlines() if line.strip())
    name = report.nodeid.replace("|", "/")
    return Row(name, report.outcome, f"{report.duration:.1f}", figures, date, commit, machine)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Keep which tests there are, also those that are then deselected."""
    _collected[item.nodeid.replace("|", "/")] = item.get_closest_marker("accept") is not None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep the outcome of each full count, and of setups that skipped or failed."""
    if "accept" in report.keywords and (report.when == "call" or (report.when == "setup" and not report.passed)):
        _reports.append(report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what ran, and write the table."""
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    machine = f"{cpu_model() or 'unknown CPU'}, Python {platform.python_version()}"
    commit = commit_of()
    new = [row_of(report, date, commit, machine) for report in _reports]
    old = read(TARGET.read_text(encoding="utf-8")) if TARGET.exists() else {}
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(render(merged(old, new, _collected)), encoding="utf-8")
    terminalreporter.write_line("")
    for row in new:
        terminalreporter.write_line(f"{row.test}  {row.outcome}  {row.seconds} s  {row.figures}")
    terminalreporter.write_line(f"written to {TARGET.relative_to(ROOT)}; documents take it up by: docs/make_figures.py")
