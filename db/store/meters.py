"""Calibrations of power sensors, as runs of kind "meter" keep them."""

from __future__ import annotations

from cardlab.core.records.measurement import Profile, RunKind
from cardlab.core.records.meter import MeterCalibration, Meters, metered
from cardlab.db.store.runs import Runs

GAIN, OFFSET, RESIDUAL = "meter_gain", "meter_offset", "meter_residual"


def stored_meters(runs: Runs, *, device: str | None = None) -> Meters:
    """The newest calibration of each (device key, rail)."""
    found: dict[tuple[str, str], MeterCalibration] = {}
    for profile in runs.select(kind=RunKind.METER, device=device):
        for point in profile.points:
            gain, offset, residual = (point.find(name) for name in (GAIN, OFFSET, RESIDUAL))
            # A calibration whose values could not be determined corrects nothing.
            if gain is None or offset is None or gain.estimate is None or offset.estimate is None:
                continue
            found[(profile.run.device.key, gain.rail or "")] = MeterCalibration(
                gain=gain.estimate,
                offset_w=offset.estimate,
                pairs=gain.estimate.n or 0,
                residual_w=None if residual is None or residual.estimate is None else residual.estimate.value,
                uid=gain.uid,
            )
    return found


def behind_sensors(runs: Runs, profile: Profile) -> Profile:
    """A profile as it is behind its device's calibrated sensors; the store keeps it as they read it."""
    return metered(profile, stored_meters(runs, device=profile.run.device.key))
