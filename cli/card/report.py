"""`card report`."""

from __future__ import annotations

from cardlab.cli.card.app import app
from cardlab.cli.parameters import Shared, command
from cardlab.cli.report_line import write_report
from cardlab.workflows.options.card import PlanReportOptions


@command(app, PlanReportOptions, name="report")
def report(options: PlanReportOptions, shared: Shared) -> None:
    """Write one HTML page of a plan, the devices it was made from, and the split run that followed it."""
    write_report(options, shared)
