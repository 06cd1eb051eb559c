"""What compiled kernels are given and what they fill: NamedTuples, which numba accepts, built by keyword only.

Shapes: M devices, C cuts, F frequencies, K levels of waiting time, J lines of an envelope. An array that has no
effect is empty along its first axis, since a kernel knows no None.
"""

from __future__ import annotations

from typing import NamedTuple

from cardlab.card.problem.arrays import Array, Index, Mask


class Spans(NamedTuple):
    """Ranges that the cost is measured by [M]; empty where each device takes its own, which the kernel then finds."""

    delay_min_s: Array
    delay_max_s: Array
    energy_min_j: Array
    energy_max_j: Array
    device_energy_min_j: Array
    device_energy_max_j: Array


class Fleet(NamedTuple):
    """What differs from device to device.

    Attributes:
        device_s: seconds per mini-batch [M,C].
        codec_s: encode and decode, seconds per mini-batch [M,C]; empty where they take no time.
        handling_s: adapters handled on both sides, seconds a round [M,C]; empty where none is counted.
        uplink_bps, downlink_bps: rates [M].
        latency_s: of the link, one way [M].
        fits: whether the device's side of a cut fits in its memory [M,C]; true where nothing is known of either.
        power_w: the device's own power [M], 0 where it is not known.
        excluded: index of a cut that the device may not have [M], -1 for none.
        spans: ranges of the cost.
    """

    device_s: Array
    codec_s: Array
    handling_s: Array
    uplink_bps: Array
    downlink_bps: Array
    latency_s: Array
    fits: Mask
    power_w: Array
    excluded: Index
    spans: Spans

    def part(self, chosen: slice) -> Fleet:
        """Only these devices."""
        return Fleet(
            device_s=self.device_s[chosen],
            codec_s=self.codec_s[chosen],
            handling_s=self.handling_s[chosen],
            uplink_bps=self.uplink_bps[chosen],
            latency_s=self.latency_s[chosen],
            downlink_bps=self.downlink_bps[chosen],
            fits=self.fits[chosen],
            power_w=self.power_w[chosen],
            excluded=self.excluded[chosen],
            spans=Spans(**{name: span[chosen] for name, span in self.spans._asdict().items()}),
        )


class OfferedFleet(NamedTuple):
    """A fleet whose devices choose among G frequencies.

    Attributes:
        fleet: the rest of it; its own times and powers are 0 there.
        device_s: seconds per mini-batch [M,C,G].
        power_w: of the whole device at work [M,G].
        waiting_w: what it draws while it waits [M,G], 0 where only its compute counts.
        transmit_w, receive_w: of its radio [M].
        price_per_j: cost of a joule beside its weight [M]; empty where there is none.
        whole_round: whether a device is charged for its whole round.
    """

    fleet: Fleet
    device_s: Array
    power_w: Array
    waiting_w: Array
    transmit_w: Array
    receive_w: Array
    price_per_j: Array
    whole_round: bool

    def part(self, chosen: slice) -> OfferedFleet:
        """Only these devices."""
        return OfferedFleet(
            fleet=self.fleet.part(chosen),
            device_s=self.device_s[chosen],
            power_w=self.power_w[chosen],
            waiting_w=self.waiting_w[chosen],
            transmit_w=self.transmit_w[chosen],
            receive_w=self.receive_w[chosen],
            price_per_j=self.price_per_j[chosen],
            whole_round=self.whole_round,
        )


class Cuts(NamedTuple):
    """What differs from cut to cut [C].

    Attributes:
        up_bits, down_bits: of a mini-batch, after compression.
        adapter_bits: once a round each way.
        admitted: whether any device may have the cut.
    """

    up_bits: Array
    down_bits: Array
    adapter_bits: Array
    admitted: Mask


class Rule(NamedTuple):
    """What is weighed and kept; a limit is inf where there is none.

    Attributes:
        epochs: mini-batches a round.
        switch_s: once a round.
        delay_weight, energy_weight, device_weight: of delay, server energy and the device's own energy.
        deadline_s, server_energy_j, device_energy_j: limits of a round.
        highest_hz: what the server's power cap leaves of a continuous frequency.
    """

    epochs: float
    switch_s: float
    delay_weight: float
    energy_weight: float
    device_weight: float
    deadline_s: float
    server_energy_j: float
    device_energy_j: float
    highest_hz: float


class PaperModel(NamedTuple):
    """The paper's server: P = static + kappa f^3 between two frequencies.

    Attributes:
        work: cycles of a round on the server [C]: seconds times Hz.
        kappa_w_per_hz3, static_w: busy power; wait_w: power while it waits, 0 where that is not counted.
        low_hz, high_hz: the ends.
    """

    work: Array
    kappa_w_per_hz3: float
    static_w: float
    wait_w: float
    low_hz: float
    high_hz: float


class SortedPoints(NamedTuple):
    """Listed frequencies of every cut as points, sorted by server seconds.

    Attributes:
        size: points of each cut [C].
        server_s: busy seconds a round [C,F].
        energy_j: joules at each level of waiting time [K,C,F].
    """

    size: Index
    server_s: Array
    energy_j: Array


class Chains(NamedTuple):
    """Lower hulls of the points, and of every prefix of them.

    Attributes:
        below: the point under each one on the chain of its prefix, -1 none [K,C,F].
        size: points on the chain of all [K,C].
        hull: the chain of all [K,C,F].
        slope: joules per second between neighbours on it [K,C,F].
    """

    below: Index
    size: Index
    hull: Index
    slope: Array


class HullTable(NamedTuple):
    """The frequencies of every cut that keep the limits all devices share, as points with their hulls.

    Attributes:
        points: sorted by server seconds.
        frequency: index into frequency_hz of each point [C,F].
        busy_j: joules while the server computes, a round [C,F].
        wait_w: power while it waits, 0 where that is not counted [C,F].
        level_s: waiting times of the levels [K].
        chains: lower hulls.
    """

    points: SortedPoints
    frequency: Index
    busy_j: Array
    wait_w: Array
    level_s: Array
    chains: Chains


class Envelopes(NamedTuple):
    """Lines energy = base + slope x waiting time that can be the lowest [0] or highest [1] of a cut.

    Attributes:
        size: lines [2,C].
        base_j, slope_w: of each line [2,C,J].
        busy_min_s, busy_max_s: span of the server's seconds a round [C].
    """

    size: Index
    base_j: Array
    slope_w: Array
    busy_min_s: Array
    busy_max_s: Array


class PaperAnswer(NamedTuple):
    """To be filled [M]: index of the cut (-1 where no choice keeps the limits), frequency, cost."""

    cut: Index
    frequency_hz: Array
    cost: Array


class TableAnswer(NamedTuple):
    """To be filled [M]: index of the cut (-1 where no choice keeps the limits), index of the point, cost."""

    cut: Index
    point: Index
    cost: Array


class DeviceAnswer(NamedTuple):
    """To be filled [M]: as `TableAnswer`, and the index of the device's own frequency."""

    cut: Index
    point: Index
    offered: Index
    cost: Array
