"""What measuring work on a device gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cardlab.core.quantity import Estimate
from cardlab.profilers.devices.power import RailTrace


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Work measured for a while at one frequency.

    Attributes:
        iterations: whole iterations in the window.
        seconds: length of the window.
        seconds_per_iteration: mean time of one iteration.
        power_w: mean power of the total rail, None without a meter.
        energy_per_iteration_j: power x time, None without a meter.
        frequency_hz: mean frequency read during the window, None if it cannot be read.
        throttled: the hardware limited timer or power; None if it cannot be known.
        reasons: what the device said of it during the window, in words.
        temperature_c: mean temperature, None without a sensor.
        traces: what each rail said, by name.
        sources: which sensor fed which quantity, in words.
    """

    iterations: int
    seconds: float
    seconds_per_iteration: Estimate
    power_w: Estimate | None = None
    energy_per_iteration_j: Estimate | None = None
    frequency_hz: float | None = None
    throttled: bool | None = None
    reasons: tuple[str, ...] = ()
    temperature_c: float | None = None
    traces: Mapping[str, RailTrace] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
