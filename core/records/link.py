"""A link between devices and server, measured or imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cardlab.core.quantity import Origin, Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkTiming:
    """What a message of any size takes: latency + bits / rate. Rates in bit/s; latency one way, None if unknown."""

    uplink_bps: float | None
    downlink_bps: float | None
    latency_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Rates of both directions as seen from the device.

    Attributes:
        uid: identity.
        name: label; the newest of a name counts.
        uplink_bps, downlink_bps: bit/s of payload, None where that direction was not measured.
        rtt_s: round trip of a small message, the shortest seen (of an import its mean where no shortest is given);
            None if unknown.
        message_bytes: size of the messages that were timed one by one: each rate is that of such a message, its latency
            included. None where rates are those of a stream, and of a link whose message size was not kept.
        provenance: where the numbers come from.
        measured_at: UTC, ISO 8601.
        uplink_range_bps, downlink_range_bps: slowest and quickest message, None where messages were not timed apart.
        transmit_power_w, receive_power_w: what messages on their way add to the power of the device that measured, as
            its rail has it; None where it was not metered.
        details: further plain facts (file, tool), for people only.
    """

    uid: str
    name: str
    uplink_bps: float | None
    downlink_bps: float | None
    rtt_s: float | None = None
    message_bytes: int | None = None
    provenance: Provenance
    measured_at: str
    uplink_range_bps: tuple[float, float] | None = None
    downlink_range_bps: tuple[float, float] | None = None
    transmit_power_w: float | None = None
    receive_power_w: float | None = None
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def holds_latency(self) -> bool:
        """Whether the rates are those of single messages, whose latency is in them."""
        return self.message_bytes is not None or self.provenance.origins != {Origin.IMPORTED}

    @property
    def timing(self) -> LinkTiming:
        """Rates and latency apart, so that a message of the measured size takes what it took.

        Half a round trip is known no better than a tenth of such a message's time: at least that is left to the rate.
        """
        up_bps, down_bps, rtt_s = self.uplink_bps, self.downlink_bps, self.rtt_s
        if rtt_s is None or not self.holds_latency:
            return LinkTiming(
                uplink_bps=up_bps, downlink_bps=down_bps, latency_s=None if rtt_s is None else rtt_s / 2.0
            )
        if self.message_bytes is None:
            return LinkTiming(uplink_bps=up_bps, downlink_bps=down_bps, latency_s=None)
        bits = 8.0 * self.message_bytes
        took_s = [bits / bps for bps in (up_bps, down_bps) if bps is not None]
        latency_s = min([rtt_s / 2.0, *(0.9 * seconds for seconds in took_s)])

        def without(bps: float | None) -> float | None:
            return None if bps is None else bits / (bits / bps - latency_s)

        return LinkTiming(uplink_bps=without(up_bps), downlink_bps=without(down_bps), latency_s=latency_s)
