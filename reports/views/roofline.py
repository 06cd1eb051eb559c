"""The roofline of a device: what each segment reaches against what it does per byte.

    intensity = FLOP / least bytes moved        rate = FLOP / time, forward pass

The sloped roof is the highest byte rate and the flat one the highest FLOP rate that any segment reached, so
both are lower bounds on what the device can do (Williams, Waterman and Patterson 2009 draw them from
benchmarks). A GPU also shows 2 FLOP per core and cycle, which matrix units may exceed.
"""

from __future__ import annotations

from dataclasses import dataclass

from cardlab.core.records.measurement import Point, Profile
from cardlab.core.text import si
from cardlab.reports.views.parts import Axis, Chart, Series, file_key

# A fused multiply-add.
FLOP_PER_CORE_CYCLE = 2.0
# Cores of a CPU are whole processors with wide vector units: two FLOP a cycle say nothing of them.
GPUS = ("nvidia", "jetson", "simulated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """One segment's forward pass: FLOP per byte moved at least, FLOP/s and bytes/s."""

    segment: str
    intensity: float
    flop_per_s: float
    bytes_per_s: float


def reached(profile: Profile, point: Point) -> tuple[Reached, ...]:
    """Every segment whose forward pass does arithmetic, moves a known number of bytes and was timed."""
    found = []
    for cost in () if profile.run.analysis is None else profile.run.analysis.segments:
        measured = point.find("latency", cost.segment, "forward")
        if measured is None or measured.estimate is None or not (cost.traffic_bytes and cost.forward_flop):
            continue
        seconds = measured.estimate.value
        found.append(
            Reached(
                segment=cost.segment,
                intensity=cost.forward_flop / cost.traffic_bytes,
                flop_per_s=cost.forward_flop / seconds,
                bytes_per_s=cost.traffic_bytes / seconds,
            )
        )
    return tuple(found)


def roofline(profile: Profile, point: Point) -> Chart | None:
    """The chart, None where no segment qualifies."""
    points = reached(profile, point)
    if not points:
        return None
    device = profile.run.device
    peak = max(p.flop_per_s for p in points)
    slope = max(p.bytes_per_s for p in points)
    clock = None if point.operating is None else point.operating.frequency_hz
    low = min(min(p.intensity for p in points), peak / slope) / 3
    high = max(max(p.intensity for p in points), peak / slope) * 3
    series = [
        Series(
            name="highest rates reached",
            style="line",
            colour=0,
            x=(low, peak / slope, high),
            y=(low * slope, peak, peak),
        ),
        Series(
            name="segment, forward pass",
            style="points",
            colour=1,
            x=tuple(p.intensity for p in points),
            y=tuple(p.flop_per_s for p in points),
            labels=tuple(p.segment for p in points),
        ),
    ]
    if device.platform in GPUS and device.cores and clock:
        top = FLOP_PER_CORE_CYCLE * device.cores * clock
        series.insert(
            0,
            Series(
                name=f"2 FLOP per core and cycle at {si(clock, 'Hz')}",
                style="dashed",
                colour=2,
                x=(low, high),
                y=(top, top),
            ),
        )
    return Chart(
        key=file_key(device.name, "roofline"),
        title=f"{device.name}: roofline of its segments",
        note=(
            f"Frequency {si(clock, 'Hz')}. Rates derived from times ({profile.run.provenance}) and counted FLOP and"
            " bytes;"
            " the roofs are the highest rates seen, so lower bounds on the device."
        ),
        x=Axis(label="FLOP per byte moved", unit="1", shown="1", log=True),
        y=Axis(label="rate", unit="FLOP/s", shown="TFLOP/s" if peak >= 1e12 else "GFLOP/s", log=True),
        series=tuple(series),
        named=True,
    )
