"""Meter calibrations in the store: a run of kind "meter" with the two numbers as measurements."""

from __future__ import annotations

from dataclasses import replace

from cardlab import __version__
from cardlab.calibrate.meter import MeterCalibration
from cardlab.core.errors import UsageError
from cardlab.core.identity import new_uid
from cardlab.core.quantity import MEASURED, Estimate
from cardlab.core.records.device import Device, Environment
from cardlab.core.records.measurement import Measurement, OperatingPoint, PlannedPoint, Run, RunKind
from cardlab.core.records.task import Execution
from cardlab.db.store import Store

RESIDUAL = "meter_residual"
Meters = dict[tuple[str, str], MeterCalibration]


def store_meter(store: Store, found: MeterCalibration, *, device: Device, rail: str, measured_at: str) -> None:
    """Keep a calibration of one rail of a device."""
    planned = PlannedPoint(index=0)
    run = Run(
        uid=new_uid(),
        kind=RunKind.METER,
        device=device,
        execution=Execution(dtype="unknown", attention="unknown"),
        environment=Environment(versions={"cardlab": __version__}),
        workload="external meter",
        planned=(planned,),
        provenance=MEASURED,
        started_at=measured_at,
    )
    # The pairs are what the gain rests on; they travel as its n.
    gain = replace(found.gain, n=found.pairs)
    measurements = [
        Measurement(uid=new_uid(), quantity="meter_gain", unit="1", rail=rail, estimate=gain),
        Measurement(uid=new_uid(), quantity="meter_offset", unit="W", rail=rail, estimate=found.offset_w),
    ]
    if found.residual_w is not None:
        residual = Estimate(found.residual_w, n=found.pairs, provenance=MEASURED)
        measurements.append(Measurement(uid=new_uid(), quantity=RESIDUAL, unit="W", rail=rail, estimate=residual))
    store.runs.add_whole([(run, [(planned, OperatingPoint(), measurements)])])


def check_rail(store: Store, device: Device, rail: str) -> None:
    """Refuse a rail that no power of the device was measured on. Raises UsageError naming those that there are."""
    rails = store.runs.rails(device.key)
    if not rails:
        raise UsageError(
            f"no power of {device.name!r} was measured, so it has no rail to calibrate",
            remedy="measure it with profile-device or bring it in with calibrate import first",
        )
    if rail not in rails:
        raise UsageError(
            f"no power of {device.name!r} was measured on a rail {rail!r}", remedy=f"give --rail {' or '.join(rails)}"
        )


def stored_meters(store: Store, *, device: str | None = None) -> Meters:
    """The newest calibration of each (device key, rail)."""
    found: Meters = {}
    for profile in store.runs.select(kind=RunKind.METER, device=device):
        for point in profile.points:
            gain, offset, residual = (point.find(name) for name in ("meter_gain", "meter_offset", RESIDUAL))
            # A calibration whose values could not be determined corrects nothing.
            if gain is None or offset is None or gain.estimate is None or offset.estimate is None:
                continue
            found[(profile.run.device.key, gain.rail or "")] = MeterCalibration(
                gain=gain.estimate,
                offset_w=offset.estimate,
                pairs=gain.estimate.n or 0,
                residual_w=None if residual is None or residual.estimate is None else residual.estimate.value,
            )
    return found
