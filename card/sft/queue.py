"""A round of parallel devices at a server that computes one mini-batch at a time, played through.

Each device has one mini-batch on its way: it computes, encodes, sends; the server takes mini-batches in the order of
their arrival; the gradient goes back. With `batched` sharing the server waits until all have come. Seconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def waits_serial(
    before_s: Sequence[float], server_s: Sequence[float], after_s: Sequence[float], epochs: int
) -> list[float]:
    """How long each device's mini-batches wait for the server in a round, all epochs together.

    Args:
        before_s, after_s: from the start of a mini-batch to its arrival at the server, and from there to the next.
        server_s: its time at the server.
    """
    waits = [0.0] * len(before_s)
    left = [epochs] * len(before_s)
    coming = [(before_s[n], n) for n in range(len(before_s))]
    heapq.heapify(coming)
    free_s = 0.0
    while coming:
        arrived_s, n = heapq.heappop(coming)
        begin_s = max(arrived_s, free_s)
        waits[n] += begin_s - arrived_s
        free_s = begin_s + server_s[n]
        left[n] -= 1
        if left[n]:
            heapq.heappush(coming, (free_s + after_s[n] + before_s[n], n))
    return waits


def waits_batched(before_s: Sequence[float], after_s: Sequence[float], epochs: int) -> list[float]:
    """As `waits_serial` for a server that computes all devices together: each waits for the last to come."""
    cycle = [b + a for b, a in zip(before_s, after_s, strict=True)]
    first = max(before_s)
    waits = [first - b for b in before_s]
    slowest = max(cycle)
    return [w + (epochs - 1) * (slowest - c) for w, c in zip(waits, cycle, strict=True)]
