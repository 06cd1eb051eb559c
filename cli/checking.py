"""What `profile-device capture` and `profile-device selftest` do."""

from __future__ import annotations

import json
from pathlib import Path

from cardlab.cli.console import SCHEMA_VERSION, print_json, print_line, print_table
from cardlab.core.errors import DeviceError, UsageError
from cardlab.profilers.devices import open_platform
from cardlab.profilers.measure.capture import snapshot
from cardlab.profilers.measure.runtimes import open_runtime
from cardlab.profilers.measure.selftest import selftest


def show_capture(out: str | None) -> None:
    """Print the snapshot as JSON, or write it to a file."""
    found = snapshot()
    if out is None:
        print_json(found)
        return
    try:
        Path(out).write_text(json.dumps({"schema_version": SCHEMA_VERSION, **found}, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}", remedy="give another file with --out") from error
    print_line(f"{out}: {len(found['gpus'])} GPU(s), {len(found['sysfs'])} files of the kernel")


def run_selftest(platform: str, as_json: bool) -> None:
    """Run the self-test and show it. Raises DeviceError if a check failed."""
    device = open_platform(platform)
    try:
        runtime = open_runtime(device)
        checks = selftest(device, runtime.trial_work(), runtime.lap_timer())
    finally:
        device.close()
    failed = [c.name for c in checks if c.ok is False]
    if as_json:
        rows = [{"name": c.name, "ok": c.ok, "state": c.state, "remedy": c.remedy} for c in checks]
        print_json({"device": device.identity.name, "passed": not failed, "checks": rows})
    else:
        words = {True: "ok", False: "failed", None: "-"}
        rows_of_text = [(c.name, words[c.ok], c.state, c.remedy or "") for c in checks]
        print_table(None, ("check", "", "found", "remedy"), rows_of_text, left=4)
    if failed:
        raise DeviceError(f"the self-test failed at: {', '.join(failed)}", remedy="see the remedy of each check")
