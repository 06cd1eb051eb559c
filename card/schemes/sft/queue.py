"""A round of parallel devices at a server that computes one mini-batch at a time, simulated.

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


def waits_batched(
    before_s: Sequence[float],
    after_s: Sequence[float],
    epochs: int,
    decode_s: Sequence[float] | None = None,
    encode_s: Sequence[float] | None = None,
) -> list[float]:
    """As `waits_serial` for a server that computes all devices in one batched step: each waits for the last to come.

    `decode_s`, `encode_s`: the server's, for one device after the other: as they come, and in their own order.
    """
    count = len(before_s)
    decode, encode = decode_s or [0.0] * count, encode_s or [0.0] * count
    waits, arrived_s = [0.0] * count, list(before_s)
    free_s = 0.0
    for _ in range(epochs):
        for n in sorted(range(count), key=lambda n: arrived_s[n]):
            free_s = max(free_s, arrived_s[n]) + decode[n]
        # The computation takes all of them equally long and moves nothing; it is left out.
        for n in range(count):
            free_s += encode[n]
            waits[n] += free_s - arrived_s[n] - decode[n] - encode[n]
            arrived_s[n] = free_s + after_s[n] + before_s[n]
    return waits
