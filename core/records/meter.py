"""What an external meter said of a device's own power sensor, and readings as they are behind that sensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cardlab.core.quantity import Estimate
from cardlab.core.records.measurement import (
    POWERS,
    SEGMENT_ENERGY,
    SEGMENT_POWER,
    Measurement,
    MeterReading,
    Point,
    Profile,
)

BELOW_OFFSET = "below the offset of its sensor"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterCalibration:
    """What a sensor shows of the truth: sensor = gain x true + offset.

    Attributes:
        gain: dimensionless; offset_w: W.
        pairs: readings it was fitted to.
        residual_w: standard deviation of the sensor about the line.
        uid: of the stored measurement of the gain, None before it is stored.
    """

    gain: Estimate
    offset_w: Estimate
    pairs: int
    residual_w: float | None
    uid: str | None = None

    @property
    def systematic(self) -> float:
        """Relative standard deviation that stays in every corrected value."""
        return (self.gain.stderr or 0.0) / self.gain.value

    def corrected(self, value_w: float) -> float:
        """True power behind a reading."""
        return (value_w - self.offset_w.value) / self.gain.value

    def behind(self, measurement: Measurement) -> Measurement:
        """A measured power as the meter would have read it, with the error that the meter leaves.

        Unknown, and flagged, where the sensor read less than its own offset.
        """
        estimate, flags = measurement.estimate, measurement.flags
        if estimate is not None and not self.corrected(estimate.value) > 0:
            estimate, flags = None, (*flags, BELOW_OFFSET)
        if estimate is not None:
            ends = None if estimate.ci95 is None else tuple(self.corrected(end) for end in estimate.ci95)
            estimate = replace(
                estimate,
                value=self.corrected(estimate.value),
                stderr=None if estimate.stderr is None else estimate.stderr / self.gain.value,
                ci95=None if ends is None else (ends[0], ends[1]),
            )
        return replace(measurement, estimate=estimate, flags=flags, meter=self._reading(measurement))

    def energy_behind(self, energy: Measurement, power: Measurement | None) -> Measurement:
        """An energy that the sensor counted, by what its mean power over the same window becomes.

        Unknown where that power is not there: the offset's share of the energy is then not known.
        """
        read_w = None if power is None or power.estimate is None else power.estimate.value
        share = None if not read_w else self.corrected(read_w) / read_w
        known = None if energy.estimate is None or share is None or not share > 0 else energy.estimate.scaled(share)
        flags = energy.flags if known is not None or energy.estimate is None else (*energy.flags, BELOW_OFFSET)
        return replace(energy, estimate=known, flags=flags, meter=self._reading(energy))

    def _reading(self, measurement: Measurement) -> MeterReading:
        return replace(measurement.meter or MeterReading(), systematic=self.systematic, calibration=self.uid)


# By device key and rail.
Meters = Mapping[tuple[str, str], MeterCalibration]


def metered(profile: Profile, meters: Meters) -> Profile:
    """The profile with every power and energy of a calibrated rail as its meter would have read it.

    Whoever computes with a power asks for this first: a sensor that reads half would else count in some places only.
    """
    mine = {rail: meter for (device, rail), meter in meters.items() if device == profile.run.device.key}
    if not mine:
        return profile
    return replace(profile, points=tuple(_metered(point, mine) for point in profile.points))


def _metered(point: Point, meters: Mapping[str, MeterCalibration]) -> Point:
    found = []
    for m in point.measurements:
        meter = meters.get(m.rail or "")
        if meter is not None and m.quantity in (*POWERS, SEGMENT_POWER):
            m = meter.behind(m)
        elif meter is not None and m.quantity == SEGMENT_ENERGY:
            powers = [p for p in point.measurements if (p.quantity, p.segment, p.rail) == _power_of(m)]
            m = meter.energy_behind(m, powers[-1] if powers else None)
        found.append(m)
    return replace(point, measurements=tuple(found))


def _power_of(energy: Measurement) -> tuple[str, str | None, str | None]:
    return (SEGMENT_POWER, energy.segment, energy.rail)
