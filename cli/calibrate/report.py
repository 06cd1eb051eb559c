"""`calibrate report`."""

from __future__ import annotations

from cardlab.cli.calibrate.app import app
from cardlab.cli.parameters import Shared, command
from cardlab.cli.report_line import write_report
from cardlab.workflows.options.calibrate import DeviceReportOptions


@command(app, DeviceReportOptions, name="report")
def report(options: DeviceReportOptions, shared: Shared) -> None:
    """Write one HTML page of a device, or of all devices side by side."""
    write_report(options, shared)
