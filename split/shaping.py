"""A slower link for trials: a token bucket and a delay, `100mbit,5ms` or `20mbit/100mbit,5ms`.

`planned` takes the rates that the start of each round gives this device: its share of the band, as the plan has it.

    release(n bytes) = max(now, when the link is free) + max(0, n - tokens) * 8 / rate,   then + delay

The bucket fills at the link's rate up to its burst. Both directions are shaped in the device's process: what it
sends is held before it goes out, what it receives is held before it is seen. This is a model of a link inside
the transport; a kernel's `tc tbf` also delays heartbeats and handshakes, this one does not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cardlab.core import plausible
from cardlab.core.errors import RunError, UsageError
from cardlab.core.text import si

_RATE = re.compile(r"^(\d+(?:\.\d+)?)(k|m|g)bit$", re.ASCII)
_DELAY = re.compile(r"^(\d+(?:\.\d+)?)(us|ms|s)$", re.ASCII)
_RATES = {"k": 1e3, "m": 1e6, "g": 1e9}
_DELAYS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
BURST_BYTES = 1500.0
PLANNED = "planned"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkShape:
    """Rates in bit/s of both directions, None as fast as it goes, and the one-way delay in seconds.

    `planned`: each round brings rates of its own; before the first the link is as fast as it goes.
    """

    uplink_bps: float | None = None
    downlink_bps: float | None = None
    delay_s: float = 0.0
    planned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRates:
    """What a plan gives one device's link in one round, bit/s, both above 0."""

    uplink_bps: float
    downlink_bps: float


def parse_link(text: str | None, *, planned: bool = False) -> LinkShape:
    """What `--link` says; UsageError showing how to write it. `planned`: whether a plan may give the rates here."""
    if text is None:
        return LinkShape()
    if planned and text == PLANNED:
        return LinkShape(planned=True)
    rate, _, delay = text.replace(" ", "").lower().partition(",")
    up, _, down = rate.partition("/")
    found = [_RATE.match(part) for part in (up, down or up)]
    waiting = _DELAY.match(delay) if delay else None
    rates = [float(match[1]) * _RATES[match[2]] for match in found if match is not None]
    if len(rates) < 2 or (delay and waiting is None) or min(rates) <= 0:
        raise UsageError(f"{text!r} is no link", remedy="write it like 100mbit,5ms or 20mbit/100mbit")
    for rate_bps in rates:
        problem = plausible.LINK_RATE.problem(rate_bps)
        if problem is not None:
            raise UsageError(
                f"the rate of --link {text} {problem}", remedy="write it like 100mbit,5ms or 20mbit/100mbit"
            )
    delay_s = 0.0 if waiting is None else float(waiting[1]) * _DELAYS[waiting[2]]
    return LinkShape(uplink_bps=rates[0], downlink_bps=rates[1], delay_s=delay_s)


def describe_rates(shape: LinkShape, rates: PlannedRates | None) -> str | None:
    """The rates of a round in words where the link is shaped as planned, else None; RunError if the plan has none."""
    if not shape.planned:
        return None
    if rates is None:
        raise RunError(
            f"the link is to be {PLANNED}, and the run's plan gives this device no rates",
            remedy="plan again with --scheme sft, or give the rates: --link 20mbit/100mbit",
        )
    up, down = si(rates.uplink_bps, "bit/s"), si(rates.downlink_bps, "bit/s")
    return f"the link is shaped as planned (simulated): {up} up, {down} down"


class TokenBucket:
    """One direction of a link; asks for the time instead of reading it, so that tests can bring their own."""

    def __init__(self, rate_bps: float | None, delay_s: float = 0.0, burst_bytes: float = BURST_BYTES) -> None:
        self._rate_bps = rate_bps
        self._delay_s = delay_s
        self._burst_bytes = burst_bytes
        self._tokens = burst_bytes
        self._at_s = 0.0

    def set_rate(self, rate_bps: float, now_s: float) -> None:
        """Another rate from now on; what was offered before passes as it was promised."""
        self._fill(now_s)
        self._rate_bps = rate_bps

    def release_s(self, size_bytes: int, now_s: float) -> float:
        """When a message of that size, offered now, has passed the link."""
        if self._rate_bps is None:
            return now_s + self._delay_s
        self._fill(now_s)
        lacking = max(0.0, size_bytes - self._tokens)
        self._tokens = max(0.0, self._tokens - size_bytes)
        # The link is busy until then: messages pass one after the other.
        self._at_s += lacking * 8.0 / self._rate_bps
        return self._at_s + self._delay_s

    def _fill(self, now_s: float) -> None:
        if now_s > self._at_s:
            gained = (now_s - self._at_s) * (self._rate_bps or 0.0) / 8.0
            self._tokens = min(self._burst_bytes, self._tokens + gained)
            self._at_s = now_s
