"""A slower link for trials: a token bucket and a delay, `100mbit,5ms` or `20mbit/100mbit,5ms`.

    release(n bytes) = max(now, when the link is free) + max(0, n - tokens) * 8 / rate,   then + delay

The bucket fills at the link's rate up to its burst. Both directions are shaped in the device's process: what it
sends is held before it goes out, what it receives is held before it is seen. This is a model of a link inside
the transport; a kernel's `tc tbf` also delays heartbeats and handshakes, this one does not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cardlab.errors import UsageError

_RATE = re.compile(r"^(\d+(?:\.\d+)?)(k|m|g)bit$")
_DELAY = re.compile(r"^(\d+(?:\.\d+)?)(us|ms|s)$")
_RATES = {"k": 1e3, "m": 1e6, "g": 1e9}
_DELAYS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
BURST_BYTES = 1500.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkShape:
    """Rates in bit/s of both directions, None as fast as it goes, and the one-way delay in seconds."""

    uplink_bps: float | None = None
    downlink_bps: float | None = None
    delay_s: float = 0.0


def parse_link(text: str | None) -> LinkShape:
    """What `--link` says; UsageError showing how to write it."""
    if text is None:
        return LinkShape()
    rate, _, delay = text.replace(" ", "").lower().partition(",")
    up, _, down = rate.partition("/")
    found = [_RATE.match(part) for part in (up, down or up)]
    waiting = _DELAY.match(delay) if delay else None
    rates = [float(match[1]) * _RATES[match[2]] for match in found if match is not None]
    if len(rates) < 2 or (delay and waiting is None) or min(rates) <= 0:
        raise UsageError(f"{text!r} is no link", remedy="write it like 100mbit,5ms or 20mbit/100mbit")
    delay_s = 0.0 if waiting is None else float(waiting[1]) * _DELAYS[waiting[2]]
    return LinkShape(uplink_bps=rates[0], downlink_bps=rates[1], delay_s=delay_s)


class TokenBucket:
    """One direction of a link; asks for the time instead of reading it, so that tests can bring their own."""

    def __init__(self, rate_bps: float | None, delay_s: float = 0.0, burst_bytes: float = BURST_BYTES) -> None:
        self._rate_bps = rate_bps
        self._delay_s = delay_s
        self._burst_bytes = burst_bytes
        self._tokens = burst_bytes
        self._at_s = 0.0

    def release_s(self, size_bytes: int, now_s: float) -> float:
        """When a message of that size, offered now, has passed the link."""
        if self._rate_bps is None:
            return now_s + self._delay_s
        if now_s > self._at_s:
            gained = (now_s - self._at_s) * self._rate_bps / 8.0
            self._tokens = min(self._burst_bytes, self._tokens + gained)
            self._at_s = now_s
        lacking = max(0.0, size_bytes - self._tokens)
        self._tokens = max(0.0, self._tokens - size_bytes)
        self._at_s += lacking * 8.0 / self._rate_bps
        return self._at_s + self._delay_s
