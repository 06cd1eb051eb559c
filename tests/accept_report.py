"""Plugin of `make accept`: prints what each full-count test found and keeps it in docs/measurements/."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from pathlib import Path

import pytest

from cardlab.profilers.board.host import cpu_model

TARGET = Path(__file__).resolve().parents[1] / "docs" / "measurements" / "accept.md"
_reports: list[pytest.TestReport] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep the outcome of each test, and of setups that skipped or failed."""
    if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
        _reports.append(report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table and write it."""
    lines = ["| test | outcome | seconds | figures |", "|---|---|---|---|"]
    for report in _reports:
        name = report.nodeid.split("::")[-1]
        figures = "<br>".join(line.replace("|", "/") for line in report.capstdout.splitlines() if line.strip())
        lines.append(f"| {name} | {report.outcome} | {report.duration:.1f} | {figures} |")
    when = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    head = [
        "# Full counts",
        "",
        f"Written by `make accept` on {when}; {cpu_model() or 'unknown CPU'}, Python {platform.python_version()}.",
        "",
    ]
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text("\n".join([*head, *lines, ""]), encoding="utf-8")
    terminalreporter.write_line("")
    for line in lines:
        terminalreporter.write_line(line)
    terminalreporter.write_line(f"written to {TARGET.relative_to(TARGET.parents[2])}")
