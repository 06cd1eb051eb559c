"""The rates of a link, measured with the transport and the message size of a real run.

    rate up = 8 x bytes / median one-way time       one message at a time, with a pause as long as a message between

The pause lets a token bucket on the way fill again, as it does while a run computes. One-way times come from the
offset of the two timers; where the link is so short that its uncertainty (half a round trip) matters, the interval
says so.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from cardlab.core.errors import RunError
from cardlab.split.codecs.base import Packed
from cardlab.split.device_transport import CONNECT_S, DeviceTransport
from cardlab.split.laps import now_s
from cardlab.split.protocol import Probe, ProbeAnswer, Refused, decode
from cardlab.split.refusals import FrameError, RefusalCode, code_of
from cardlab.split.server_transport import ServerTransport

_ANSWER_S = 120.0
# Pulses come several times in it.
_PULSE_S = 2.0
_PAUSE_S = (0.02, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRates:
    """What was measured from the device's side.

    Attributes:
        uplink_bps, downlink_bps: payload bit/s at that message size.
        uplink_range_bps, downlink_range_bps: slowest and quickest message, widened by the uncertainty of the timers'
            offset.
        rtt_s: shortest round trip of a pulse.
        message_bytes, messages: of each direction.
    """

    uplink_bps: float
    downlink_bps: float
    uplink_range_bps: tuple[float, float]
    downlink_range_bps: tuple[float, float]
    rtt_s: float
    message_bytes: int
    messages: int


def _payload(size_bytes: int) -> Packed:
    data = (bytes(range(256)) * (size_bytes // 256 + 1))[: size_bytes // 4 * 4]
    return Packed("none", "int32", (len(data) // 4,), data, zlib.crc32(data), {})


def measure_link(transport: DeviceTransport, *, message_bytes: int = 2**20, messages: int = 10) -> LinkRates:
    """Send and fetch `messages` messages of that size. Raises RunError when the server does not answer."""
    transport.check_connected(now_s() + CONNECT_S)
    transport.settle_timers()
    up_s, down_s = [], []
    payload = _payload(message_bytes)
    for count in range(messages + 1):
        took_up_s, took_down_s = _one(transport, payload, message_bytes)
        if count:  # the first one opens the window of the connection
            up_s.append(took_up_s)
            down_s.append(took_down_s)
        pause_s = min(max(took_up_s, took_down_s, _PAUSE_S[0]), _PAUSE_S[1])
        transport.stop_waiting.wait(pause_s)
    rtt_s = transport.rtt_s or 0.0
    size_bits = 8.0 * len(payload.data)
    return LinkRates(
        uplink_bps=size_bits / median(up_s),
        downlink_bps=size_bits / median(down_s),
        uplink_range_bps=_interval(size_bits, up_s, rtt_s),
        downlink_range_bps=_interval(size_bits, down_s, rtt_s),
        rtt_s=rtt_s,
        message_bytes=len(payload.data),
        messages=messages,
    )


def serve_probe(transport: ServerTransport, *, until_idle_s: float, note: Callable[[str], None]) -> int:
    """Answer probes until none came for that long and nobody who measured is here; returns how many were answered."""
    answered, last_s, measuring = 0, now_s(), set[bytes]()
    while now_s() - last_s < until_idle_s:
        came = transport.receive(0.25)
        # One who meters its radio is silent for a window, and its pulses say that it is there.
        if any(transport.silence_s(peer) < _PULSE_S for peer in measuring):
            last_s = now_s()
        if came is None:
            continue
        peer, parts, arrived_s = came
        last_s = now_s()
        try:
            message = decode(parts)
            if not isinstance(message, Probe):
                raise FrameError(
                    "only probes are answered here",
                    code=RefusalCode.PROBES_ONLY,
                    remedy="start the server of a run instead",
                )
        except RunError as error:
            note(f"refused: {error.message}")
            transport.send(peer, Refused(code=code_of(error), message=error.message, remedy=error.remedy))
            continue
        payload = _payload(message.size_bytes)
        transport.send(peer, ProbeAnswer(arrived_s=arrived_s, sent_s=now_s(), payload=payload))
        measuring.add(peer)
        answered += 1
    return answered


def exchange(transport: DeviceTransport, up_bytes: int, down_bytes: int) -> tuple[float, float]:
    """One message up and one down, each of its size: seconds on their ways. Raises RunError without an answer."""
    return _one(transport, _payload(up_bytes), down_bytes)


def _one(transport: DeviceTransport, payload: Packed, message_bytes: int) -> tuple[float, float]:
    sent_s = transport.send(Probe(size_bytes=message_bytes, payload=payload))
    answer, back_s = _answer(transport)
    offset_s = transport.offset_s
    # Both ends on this side's timer.
    up_s = answer.arrived_s - offset_s - sent_s
    down_s = back_s - (answer.sent_s - offset_s)
    # The offset's error may exceed the way itself where the link is this machine.
    return max(up_s, 1e-9), max(down_s, 1e-9)


def _answer(transport: DeviceTransport) -> tuple[ProbeAnswer, float]:
    """The answer and when it came."""
    remedy = "start it with: card link --serve"
    came = transport.receive(_ANSWER_S)
    if came is None:
        raise RunError(f"the server {transport.where} does not answer", remedy=remedy)
    if isinstance(came.message, ProbeAnswer):
        return came.message, came.arrived_s
    said = came.message.message if isinstance(came.message, Refused) else "the server answers no probes"
    raise RunError(said, remedy=remedy)


def _interval(size_bits: float, times_s: list[float], rtt_s: float) -> tuple[float, float]:
    ordered = sorted(times_s)
    # The offset is known to half a round trip.
    slow_s, quick_s = ordered[-1] + rtt_s / 2.0, max(ordered[0] - rtt_s / 2.0, 1e-9)
    return size_bits / slow_s, size_bits / quick_s
