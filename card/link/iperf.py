"""Rates from the JSON of iperf3 (`iperf3 -c SERVER --json`, one way, `-R` or `--bidir`).

`sum_received` is what arrived; the client runs on the device, so its sending direction is the uplink.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cardlab.core.errors import BadDataError

_REMEDY = "make it with: iperf3 -c SERVER --json > FILE, run on the device"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Rates of one or both directions, bit/s, and the mean round trip, s; None was not in the file."""

    uplink_bps: float | None
    downlink_bps: float | None
    rtt_s: float | None


def read_iperf3(path: str | Path) -> Rates:
    """The rates in an iperf3 JSON file. Raises BadDataError."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        reason = getattr(error, "strerror", None) or f"not JSON: {error}"
        raise BadDataError(f"{path} cannot be read: {reason}", remedy=_REMEDY) from error
    if not isinstance(document, dict) or not isinstance(document.get("end"), dict):
        raise BadDataError(f"{path} is no result of iperf3", remedy=_REMEDY)
    if "error" in document:
        raise BadDataError(f"{path}: iperf3 failed: {document['error']}", remedy="measure again")
    end = document["end"]
    # What arrived and not what was sent: with UDP, or a full buffer, the sender counts bytes that never got there.
    # Older versions of iperf3 have only "sum".
    forward = _rate(end, "sum_received") or _rate(end, "sum")
    backward = _rate(end, "sum_received_bidir_reverse")
    if _reversed(document):
        forward, backward = backward, forward
    if forward is None and backward is None:
        raise BadDataError(f"{path} has no rate above 0", remedy=_REMEDY)
    return Rates(uplink_bps=forward, downlink_bps=backward, rtt_s=_rtt(end))


def _rate(end: Mapping[str, object], key: str) -> float | None:
    part = end.get(key)
    value = part.get("bits_per_second") if isinstance(part, dict) else None
    # JSON's true is an int in Python, and no rate.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        return None
    return float(value)


def _reversed(document: Mapping[str, object]) -> bool:
    start = document.get("start")
    test = start.get("test_start") if isinstance(start, dict) else None
    return isinstance(test, dict) and bool(test.get("reverse"))


def _rtt(end: Mapping[str, object]) -> float | None:
    streams = end.get("streams")
    values = []
    for stream in streams if isinstance(streams, list) else []:
        sender = stream.get("sender") if isinstance(stream, dict) else None
        mean_us = sender.get("mean_rtt") if isinstance(sender, dict) else None
        if isinstance(mean_us, (int, float)) and not isinstance(mean_us, bool) and mean_us > 0:
            values.append(mean_us * 1e-6)
    return sum(values) / len(values) if values else None
