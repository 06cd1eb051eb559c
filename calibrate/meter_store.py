"""Meter calibrations in the store: a run of kind "meter" with the two numbers as measurements."""

from __future__ import annotations

from cardlab import __version__
from cardlab.calibrate.meter import MeterCalibration
from cardlab.core.identity import new_uid
from cardlab.core.quantity import MEASURED, Estimate
from cardlab.core.records.device import Device, Environment
from cardlab.core.records.measurement import Measurement, OperatingPoint, PlannedPoint, Run
from cardlab.core.records.task import Execution
from cardlab.db.store import Store

KIND = "meter"
Meters = dict[tuple[str, str], MeterCalibration]


def store_meter(store: Store, found: MeterCalibration, *, device: Device, rail: str, measured_at: str) -> None:
    """Keep a calibration of one rail of a device."""
    planned = PlannedPoint(index=0)
    run = Run(
        uid=new_uid(),
        kind=KIND,
        device=device,
        execution=Execution(dtype="unknown", attention="unknown"),
        environment=Environment(versions={"cardlab": __version__}),
        workload="external meter",
        planned=(planned,),
        provenance=MEASURED,
        started_at=measured_at,
    )
    details: dict[str, object] = {"pairs": found.pairs, "residual_w": found.residual_w}
    measurements = [
        Measurement(uid=new_uid(), quantity="meter_gain", unit="1", rail=rail, estimate=found.gain, details=details),
        Measurement(uid=new_uid(), quantity="meter_offset", unit="W", rail=rail, estimate=found.offset_w),
    ]
    store.runs.add_whole([(run, [(planned, OperatingPoint(), measurements)])])


def stored_meters(store: Store, *, device: str | None = None) -> Meters:
    """The newest calibration of each (device key, rail)."""
    found: Meters = {}
    for profile in store.runs.select(kind=KIND, device=device):
        for point in profile.points:
            gain, offset = point.find("meter_gain"), point.find("meter_offset")
            if gain is None or offset is None or gain.estimate is None or offset.estimate is None:
                continue
            found[(profile.run.device.key, gain.rail or "")] = MeterCalibration(
                gain=gain.estimate,
                offset_w=offset.estimate,
                pairs=_whole(gain.details.get("pairs"), gain.estimate),
                residual_w=_number(gain.details.get("residual_w")),
            )
    return found


def _whole(value: object, estimate: Estimate) -> int:
    return value if isinstance(value, int) else estimate.n or 0


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
