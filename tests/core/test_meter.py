"""If these fail, a sensor that was calibrated still counts as it reads, in some numbers or in all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cardlab.core.quantity import Estimate
from cardlab.core.records.measurement import Measurement, MeterReading, Point, Profile
from cardlab.core.records.meter import BELOW_OFFSET, MeterCalibration, metered
from tests import records

METER = MeterCalibration(
    gain=Estimate(0.5, stderr=0.01), offset_w=Estimate(1.0), pairs=9, residual_w=None, uid="the gain"
)
SENSOR = MeterReading(total=True, systematic=0.05)


def watts(quantity: str, value_w: float, rail: str = "board", segment: str | None = None) -> Measurement:
    read = Estimate(value_w, stderr=0.2, ci95=(value_w - 0.4, value_w + 0.4))
    return Measurement(
        uid=quantity, quantity=quantity, unit="W", rail=rail, segment=segment, estimate=read, meter=SENSOR
    )


def behind(*measurements: Measurement, key: str | None = None) -> dict[str, Measurement]:
    run = records.run()
    point = Point(uid="p", index=0, requested_hz=None, measurements=measurements)
    profile = metered(Profile(run=run, points=(point,)), {(key or run.device.key, "board"): METER})
    return {m.quantity: m for m in profile.points[0].measurements}


def test_every_power_of_the_rail_is_corrected_with_what_it_carries() -> None:
    found = behind(watts("power", 21.0), watts("wait_power", 11.0), watts("idle_power", 6.0))
    values = {name: m.estimate.value for name, m in found.items() if m.estimate is not None}
    assert values == {"power": 40.0, "wait_power": 20.0, "idle_power": 10.0}
    power = found["power"]
    assert power.estimate is not None and power.meter is not None
    assert power.estimate.stderr == pytest.approx(0.4) and power.estimate.ci95 == pytest.approx((39.2, 40.8))
    assert (power.meter.systematic, power.meter.calibration, power.meter.total) == (0.02, "the gain", True)


def test_a_segments_energy_goes_with_its_own_power() -> None:
    energy = Measurement(
        uid="e", quantity="segment_energy", unit="J", rail="board", segment="layer", estimate=Estimate(2.1)
    )
    found = behind(watts("segment_power", 21.0, segment="layer"), energy)["segment_energy"]
    assert found.estimate is not None and found.estimate.value == pytest.approx(4.0)
    # Another segment ran at another power.
    assert behind(watts("segment_power", 21.0, segment="head"), energy)["segment_energy"].estimate is None


def test_what_another_rail_or_device_read_stays() -> None:
    for found in (behind(watts("power", 21.0, rail="GPU")), behind(watts("power", 21.0), key="another device")):
        assert found["power"] == watts("power", 21.0, rail=found["power"].rail or "")
    time = replace(watts("latency", 0.3), unit="s")
    assert behind(time)["latency"] == time


def test_less_than_the_offset_is_no_power() -> None:
    found = behind(watts("power", 0.8))["power"]
    assert found.estimate is None and found.flags == (BELOW_OFFSET,)
