"""What both `report` commands print."""

from __future__ import annotations

from cardlab.cli.console import print_json, print_line
from cardlab.cli.parameters import Shared
from cardlab.cli.stores import open_shared
from cardlab.core.plain import to_plain
from cardlab.workflows.options.calibrate import DeviceReportOptions
from cardlab.workflows.options.card import PlanReportOptions


def write_report(options: DeviceReportOptions | PlanReportOptions, shared: Shared) -> None:
    """Write the page and say where it is."""
    from cardlab.workflows.report import report

    with open_shared(shared) as store:
        made = report(store, options)
    if shared.json:
        print_json({"report": str(made.path), "title": made.title, "sections": to_plain(made.sections)})
    else:
        print_line(f"report: {made.path}")
