"""Rates from the JSON of iperf3 (`iperf3 -c SERVER --json`, one way, `-R` or `--bidir`).

`sum_received` is what arrived; the client runs on the device, so its sending direction is the uplink. Read as people
have it: a warning of iperf3 before or after the document, the events of `--json-stream`, several results in one file
(of each direction the last counts, and a note says so), any byte-order mark.

iperf3 3.7 to 3.10 wrote the sums of both directions of `--bidir` under the same names, first client to server and then
the way back (esnet/iperf #952, #1196): a parser that keeps the last of equal keys takes one direction for the other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cardlab.core import plausible
from cardlab.core.errors import BadDataError
from cardlab.core.files import read_text

_REMEDY = "make it with: iperf3 -c SERVER --json > FILE, run on the device"
_MAX_BYTES = 64 * 2**20
_SECOND = "#2"
Pairs = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Rates of one or both directions, bit/s, and the mean round trip, s; None was not in the file.

    Attributes:
        notes: what was chosen among several results.
    """

    uplink_bps: float | None
    downlink_bps: float | None
    rtt_s: float | None
    notes: tuple[str, ...] = ()


def read_iperf3(path: str | Path) -> Rates:
    """The rates in an iperf3 JSON file. Raises BadDataError."""
    results = _results(_documents(read_text(path, remedy=_REMEDY, max_bytes=_MAX_BYTES), path), path)
    each = [_rates(result, path) for result in results]
    ups, downs, trips = (
        [value for value in values if value is not None]
        for values in (
            [rates.uplink_bps for rates in each],
            [rates.downlink_bps for rates in each],
            [rates.rtt_s for rates in each],
        )
    )
    if not ups and not downs:
        raise BadDataError(f"{path} has no rate above 0", remedy=_REMEDY)
    for value in (*ups, *downs):
        plausible.RATE.check(value, where=str(path), given="bits_per_second", remedy=_REMEDY)
    notes = [
        f"{path} holds {len(values)} results of the {way}; the last is taken"
        for way, values in (("uplink", ups), ("downlink", downs))
        if len(values) > 1
    ]
    return Rates(uplink_bps=_last(ups), downlink_bps=_last(downs), rtt_s=_last(trips), notes=tuple(notes))


def _last(values: Sequence[float]) -> float | None:
    return values[-1] if values else None


def _documents(text: str, path: str | Path) -> list[Pairs]:
    """All JSON objects of a text that begin a line; other lines (iperf3's warnings) are passed over."""
    decoder, found, at = json.JSONDecoder(object_pairs_hook=_both), [], 0
    while at < len(text):
        end = text.find("\n", at)
        line_end = len(text) if end < 0 else end + 1
        if not text[at:line_end].lstrip().startswith("{"):
            at = line_end
            continue
        try:
            value, at = decoder.raw_decode(text, text.index("{", at))
        except (json.JSONDecodeError, RecursionError) as error:
            raise BadDataError(f"{path} cannot be read: not JSON: {error}", remedy=_REMEDY) from error
        found.append(value)
    if not found:
        raise BadDataError(f"{path} is no result of iperf3: it holds no JSON object", remedy=_REMEDY)
    return found


def _both(pairs: Sequence[tuple[str, object]]) -> Pairs:
    """An object whose repeated key keeps both values: the first under its name, the second marked."""
    made: dict[str, object] = {}
    for key, value in pairs:
        made[f"{key}{_SECOND}" if key in made else key] = value
    return made


def _results(documents: Sequence[Pairs], path: str | Path) -> list[Pairs]:
    """Results as `--json` gives them; events of `--json-stream` put together."""
    results: list[Pairs] = []
    start: object = None
    for document in documents:
        event, data = document.get("event"), document.get("data")
        if event == "start":
            start = data
        elif event == "end":
            results.append({"start": start, "end": data})
        elif event == "error":
            results.append({"error": data})
        elif event is None:
            results.append(document)
    if not results:
        raise BadDataError(f"{path} ends before its result", remedy="let iperf3 run to its end")
    return results


def _rates(result: Pairs, path: str | Path) -> Rates:
    if "error" in result:
        raise BadDataError(f"{path}: iperf3 failed: {result['error']}", remedy="measure again")
    end = result.get("end")
    if not isinstance(end, dict):
        raise BadDataError(f"{path} is no result of iperf3", remedy=_REMEDY)
    # What arrived and not what was sent: with UDP, or a full buffer, the sender counts bytes that never got there.
    # Older versions of iperf3 have only "sum".
    forward = _rate(end, "sum_received") or _rate(end, "sum")
    backward = _rate(end, "sum_received_bidir_reverse") or _rate(end, f"sum_received{_SECOND}")
    if backward is None and f"sum{_SECOND}" in end:
        backward = _rate(end, f"sum{_SECOND}")
    bidirectional, reverse = _way(result)
    if bidirectional and (forward is None or backward is None):
        raise BadDataError(f"{path} lacks one direction of --bidir", remedy="measure again, or without --bidir")
    if reverse:
        forward, backward = backward, forward
    return Rates(uplink_bps=forward, downlink_bps=backward, rtt_s=_rtt(end))


def _rate(end: Pairs, key: str) -> float | None:
    part = end.get(key)
    value = part.get("bits_per_second") if isinstance(part, dict) else None
    # JSON's true is an int in Python, and no rate.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        return None
    return float(value)


def _way(result: Pairs) -> tuple[bool, bool]:
    """Whether both ways were measured at once, and whether only the way back was."""
    start = result.get("start")
    test = start.get("test_start") if isinstance(start, dict) else None
    if not isinstance(test, dict):
        return False, False
    both = bool(test.get("bidir"))
    return both, bool(test.get("reverse")) and not both


def _rtt(end: Pairs) -> float | None:
    """Shortest round trip; the mean, which holds the queue that the test itself made, only where that is not given."""
    shortest = _trips(end, "min_rtt")
    means = _trips(end, "mean_rtt")
    if shortest:
        return min(shortest)
    return sum(means) / len(means) if means else None


def _trips(end: Pairs, key: str) -> list[float]:
    """Round trips of the streams, seconds."""
    streams = end.get("streams")
    values = []
    for stream in streams if isinstance(streams, list) else []:
        sender = stream.get("sender") if isinstance(stream, dict) else None
        us = sender.get(key) if isinstance(sender, dict) else None
        if isinstance(us, (int, float)) and not isinstance(us, bool) and us > 0:
            values.append(us * 1e-6)
    return values
