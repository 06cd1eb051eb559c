"""A link between devices and server, measured or imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cardlab.core.quantity import Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Rates of both directions as seen from the device.

    Attributes:
        uid: identity.
        name: label; the newest of a name counts.
        uplink_bps, downlink_bps: bit/s of payload, None where that direction was not measured.
        rtt_s: mean round trip, None if unknown.
        provenance: where the numbers come from.
        measured_at: UTC, ISO 8601.
        uplink_range_bps, downlink_range_bps: slowest and quickest message, None where messages were not timed apart.
        details: further plain facts (file, tool), for people only.
    """

    uid: str
    name: str
    uplink_bps: float | None
    downlink_bps: float | None
    rtt_s: float | None = None
    provenance: Provenance
    measured_at: str
    uplink_range_bps: tuple[float, float] | None = None
    downlink_range_bps: tuple[float, float] | None = None
    details: Mapping[str, object] = field(default_factory=dict)
