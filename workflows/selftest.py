"""Lock a frequency, measure, restore, and check each on the device; and the snapshot of what it answers."""

from __future__ import annotations

from dataclasses import dataclass

from cardlab.profilers.devices import Probe, open_platform
from cardlab.profilers.measure.runtimes import open_runtime
from cardlab.profilers.measure.selftest import selftest as run_checks
from cardlab.workflows.options.profile import SelftestOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Selftest:
    """The checks of one device; it passed if none failed."""

    device: str
    checks: tuple[Probe, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(check.name for check in self.checks if check.ok is False)


def selftest(options: SelftestOptions | None = None) -> Selftest:
    """Run the self-test. Raises DeviceError where the device cannot be opened."""
    device = open_platform((options or SelftestOptions()).platform)
    try:
        runtime = open_runtime(device)
        checks = run_checks(device, runtime.trial_work(), runtime.lap_timer())
        return Selftest(device=device.identity.name, checks=tuple(checks))
    finally:
        device.close()
