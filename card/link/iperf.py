"""Rates from the JSON of iperf3 (`iperf3 -c SERVER --json`, one way, `-R` or `--bidir`).

`sum_received` is what arrived; the client runs on the device, so its sending direction is the uplink. With UDP most
versions have only `sum`, whose rate is the sender's: what arrived is that without the lost packets. Read as people
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
from typing import TypeGuard

from cardlab.core import plausible
from cardlab.core.errors import BadDataError
from cardlab.core.files import read_text

_REMEDY = "make it with: iperf3 -c SERVER --json > FILE, run on the device"
_MAX_BYTES = 64 * 2**20
_SECOND = "#2"
# Fewer lost packets than this say nothing of what the link could carry.
_HARDLY = 0.01
Pairs = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Rates of one or both directions, bit/s, and the mean round trip, s; None was not in the file.

    Attributes:
        notes: what was chosen among several results, and what a rate does not say.
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
    notes = list(dict.fromkeys(note for rates in each for note in rates.notes))
    notes += [
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
    forward, backward = (_arrived(end, names, path) for names in (("",), ("_bidir_reverse", _SECOND)))
    bidirectional, reverse = _way(result)
    if bidirectional and (forward is None or backward is None):
        raise BadDataError(f"{path} lacks one direction of --bidir", remedy="measure again, or without --bidir")
    if reverse:
        forward, backward = backward, forward
    return Rates(uplink_bps=forward, downlink_bps=backward, rtt_s=_rtt(end), notes=_at_a_set_rate(result, path))


def _arrived(end: Pairs, names: Sequence[str], path: str | Path) -> float | None:
    """The rate of one direction that reached the other side, None where the result has none.

    Never the sender's: with UDP, or a full buffer, it counts bytes that never got there.
    """
    for name in names:
        # A sum that says nothing arrived is an answer: what the sender says of it is none.
        if isinstance(end.get(f"sum_received{name}"), dict):
            return _rate(end, f"sum_received{name}")
    for name in names:
        sent = _rate(end, f"sum{name}")
        if sent is None:
            continue
        lost = _lost_part(end, f"sum{name}")
        if lost is None:
            raise BadDataError(
                f"{path} says what was sent and not what arrived (no sum_received, no count of lost packets)",
                remedy="measure with TCP: leave -u out",
            )
        return sent * (1.0 - lost) if lost < 1.0 else None
    # A sender alone, such as the result of a server that was cut off.
    if any(_rate(end, f"sum_sent{name}") is not None for name in names):
        raise BadDataError(f"{path} says what was sent and not what arrived (no sum_received)", remedy=_REMEDY)
    return None


def _lost_part(end: Pairs, key: str) -> float | None:
    """Lost packets of those sent, 0 to 1; None where they were not counted."""
    part = end.get(key)
    packets, lost = (part.get(name) if isinstance(part, dict) else None for name in ("packets", "lost_packets"))
    if not _is_number(packets) or not _is_number(lost) or packets <= 0 or not 0 <= lost <= packets:
        return None
    return lost / packets


def _is_number(value: object) -> TypeGuard[float]:
    # JSON's true is an int in Python, and no number.
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _at_a_set_rate(result: Pairs, path: str | Path) -> tuple[str, ...]:
    """A note where UDP got through whole: it is sent at a rate that was set, 1 Mbit/s unless -b says more."""
    end = result.get("end")
    losses = [_lost_part(end, key) for key in end if key.startswith("sum")] if isinstance(end, dict) else []
    if not any(loss is not None and loss < _HARDLY for loss in losses):
        return ()
    return (f"{path} is of UDP at a set rate that hardly lost a packet: the link may carry more",)


def _rate(end: Pairs, key: str) -> float | None:
    part = end.get(key)
    value = part.get("bits_per_second") if isinstance(part, dict) else None
    return float(value) if _is_number(value) and value > 0 else None


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
        if _is_number(us) and us > 0:
            values.append(us * 1e-6)
    return values
