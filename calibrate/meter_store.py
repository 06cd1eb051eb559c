"""Meter calibrations in the store: a run of kind "meter" with the two numbers as measurements."""

from __future__ import annotations

from dataclasses import replace

from cardlab import __version__
from cardlab.core.errors import UsageError
from cardlab.core.identity import new_uid
from cardlab.core.quantity import MEASURED, Estimate
from cardlab.core.records.device import Device, Environment
from cardlab.core.records.measurement import Measurement, OperatingPoint, PlannedPoint, Run, RunKind
from cardlab.core.records.meter import MeterCalibration
from cardlab.core.records.task import Execution
from cardlab.db.store import Store
from cardlab.db.store.meters import GAIN, OFFSET, RESIDUAL


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
        Measurement(uid=new_uid(), quantity=GAIN, unit="1", rail=rail, estimate=gain),
        Measurement(uid=new_uid(), quantity=OFFSET, unit="W", rail=rail, estimate=found.offset_w),
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
