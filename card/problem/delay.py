"""How long a round takes, CARD (7)-(10), written here and nowhere else:

    D = T [ device + encode + S/R_up + L + decode + server + S'/R_down + L ]
        + A (1/R_up + 1/R_down) + 2 L + handling + switch

T mini-batches a round; S and S' bits after compression; A bits of adapters and optimizer state, once a round each
way; L the link's one-way latency, which each of 2 T + 2 messages waits for: activations and gradients of a mini-batch,
adapters down and back. Nothing else that is sent is waited for (`split.turn`, `split.device`). Every solver, kernel,
baseline and prediction calls these functions. They are plain arithmetic, so the same lines run on numbers, on arrays
that broadcast, and inside compiled kernels (numba takes NamedTuples as arguments and can build them). Fields are given
by name: nothing but a name tells an uplink from a downlink.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Union

import numpy as np

from cardlab.card.problem.arrays import Array
from cardlab.core.records.plan import TERMS, DelayTerms

# One number, or an array of them that broadcasts against the others.
Quantity = Union[float, Array]  # noqa: UP007 - evaluated at import, where an array type is no class


class MiniBatch(NamedTuple):
    """What one mini-batch takes: seconds on the device, in codecs and on the server; bits on the air each way."""

    device_s: Quantity
    encode_s: Quantity
    decode_s: Quantity
    server_s: Quantity
    up_bits: Quantity
    down_bits: Quantity


class OncePerRound(NamedTuple):
    """What comes once a round: bits of adapters each way, seconds to handle them, seconds to switch over."""

    adapter_bits: Quantity
    handling_s: Quantity
    switch_s: Quantity


class Link(NamedTuple):
    """Rates, bit/s, and what a message waits for beside them, one way, seconds."""

    uplink_bps: Quantity
    downlink_bps: Quantity
    latency_s: Quantity


class RoundTerms(NamedTuple):
    """Seconds of a round by term, T included; the fields are those of `DelayTerms`."""

    device: Quantity
    encode: Quantity
    uplink: Quantity
    decode: Quantity
    server: Quantity
    downlink: Quantity
    adapters: Quantity
    switch: Quantity


def no_air(latency_s: Quantity) -> Link:
    """A link on which bits take no time, for the part of a round that no share of a band changes."""
    return Link(uplink_bps=math.inf, downlink_bps=math.inf, latency_s=latency_s)


def s_per_bit(rate_bps: Quantity) -> Quantity:
    """Seconds that a bit takes at a rate."""
    return 1.0 / rate_bps


def air_s(up_bits: Quantity, down_bits: Quantity, link: Link) -> Quantity:
    """Seconds that bits are on the air, up and down one after the other; without latency, which no bit adds to."""
    return up_bits * s_per_bit(link.uplink_bps) + down_bits * s_per_bit(link.downlink_bps)


def there_and_back_s(link: Link) -> Quantity:
    """What a message and its answer wait for on the link, however small they are."""
    return 2.0 * link.latency_s


def round_terms(epochs: float, each: MiniBatch, once: OncePerRound, link: Link) -> RoundTerms:
    """The terms of a round of `epochs` mini-batches."""
    return RoundTerms(
        device=epochs * each.device_s,
        encode=epochs * each.encode_s,
        uplink=epochs * each.up_bits * s_per_bit(link.uplink_bps) + epochs * link.latency_s,
        decode=epochs * each.decode_s,
        server=epochs * each.server_s,
        downlink=epochs * each.down_bits * s_per_bit(link.downlink_bps) + epochs * link.latency_s,
        adapters=air_s(once.adapter_bits, once.adapter_bits, link) + there_and_back_s(link) + once.handling_s,
        switch=once.switch_s,
    )


def moving_s(before: Quantity, after: Quantity, device_layer_s: Quantity, server_layer_s: Quantity) -> Quantity:
    """Seconds to move a cut between two rounds: each layer that comes to a side is fetched there, one after the other.

    Layers that leave take no time. What a layer takes is the profiles' `layer_load` of that side.
    """
    to_device, to_server = np.maximum(after - before, 0.0), np.maximum(before - after, 0.0)
    # Nobody waits for the side to which no layer comes, whatever it would take there.
    return np.where(to_device > 0, to_device * device_layer_s, np.where(to_server > 0, to_server * server_layer_s, 0.0))


def round_seconds(terms: RoundTerms) -> Quantity:
    """The delay of a round: the sum of its terms."""
    computed = terms.device + terms.encode + terms.decode + terms.server
    return computed + terms.uplink + terms.downlink + terms.adapters + terms.switch


def round_bytes(
    epochs: float, up_bytes: Quantity, down_bytes: Quantity, adapter_bytes: Quantity
) -> tuple[Quantity, Quantity]:
    """Bytes of a round up and down: those of its mini-batches and the adapters."""
    return epochs * up_bytes + adapter_bytes, epochs * down_bytes + adapter_bytes


def on_air_s(epochs: float, each: MiniBatch, once: OncePerRound, link: Link) -> tuple[Quantity, Quantity]:
    """Seconds of a round that a device sends and that it receives, adapters included; latency sends nothing."""
    up_bits, down_bits = epochs * each.up_bits + once.adapter_bits, epochs * each.down_bits + once.adapter_bits
    return up_bits * s_per_bit(link.uplink_bps), down_bits * s_per_bit(link.downlink_bps)


def delay_terms(terms: RoundTerms) -> DelayTerms:
    """The terms of one device as the record that a plan keeps; each must be one number."""
    return DelayTerms(**{name: float(value) for name, value in terms._asdict().items()})


def delay_terms_of_each(terms: RoundTerms, count: int) -> list[DelayTerms]:
    """The same for terms of `count` devices [M]; a number stands for all of them."""
    columns = [np.broadcast_to(value, count).tolist() for value in terms]
    return [DelayTerms(**dict(zip(TERMS, row, strict=True))) for row in zip(*columns, strict=True)]
