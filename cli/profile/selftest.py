"""`profile-device capture` and `selftest`."""

from __future__ import annotations

import json
from pathlib import Path

from cardlab.cli.console import SCHEMA_VERSION, print_json, print_line
from cardlab.cli.parameters import Shared, command
from cardlab.cli.profile.doctor import plain_probes, print_probes
from cardlab.cli.profile.measure import app
from cardlab.core.errors import DeviceError, UsageError
from cardlab.core.files import check_output, marked
from cardlab.workflows.options.profile import CaptureOptions, SelftestOptions


@command(app, CaptureOptions, name="capture", shared=("json",))
def capture(options: CaptureOptions, shared: Shared) -> None:
    """Write what NVML and the kernel answer here to one JSON document; changes nothing."""
    from cardlab.profilers.measure.capture import snapshot

    if shared.json and options.out is not None:
        raise UsageError("--json prints and --out writes", remedy="give one of them")
    if options.out is not None:
        check_output(options.out, "a capture", endings=(".json",), ours=marked(b'"sysfs"'))
    found = snapshot()
    if options.out is None:
        print_json(found)
        return
    try:
        text = json.dumps({"schema_version": SCHEMA_VERSION, **found}, indent=1) + "\n"
        Path(options.out).write_text(text, "utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot write {options.out}: {error.strerror}", remedy="give another file with --out"
        ) from error
    print_line(f"{options.out}: {len(found['gpus'])} GPU(s), {len(found['sysfs'])} files of the kernel")


@command(app, SelftestOptions, name="selftest", shared=("json",))
def selftest(options: SelftestOptions, shared: Shared) -> None:
    """Lock a frequency, measure, restore the frequency, and check each on the device."""
    from cardlab.workflows.selftest import selftest as run_checks

    found = run_checks(options)
    if shared.json:
        document = {"device": found.device, "passed": not found.failed}
        print_json({**document, "checks": plain_probes(found.checks)})
    else:
        print_probes(found.checks, ("check", "", "found", "remedy"), lacking="failed")
    if found.failed:
        raise DeviceError(f"the self-test failed at: {', '.join(found.failed)}", remedy="see the remedy of each check")
