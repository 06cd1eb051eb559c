"""The frequencies that devices offer: what each of them changes, and which one every device takes.

A device with one frequency is a column of the arrays of its problem. One that may choose among G has its times and
powers at each, and a choice of one for every device makes a problem with one frequency again (`Problem.at_offered`),
which all else is computed from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cardlab.card.problem.arrays import Array, Index


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Frequencies to choose among, ascending; a device with fewer than G repeats its last.

    Attributes:
        frequency_hz: [M,G].
        device_s: seconds per mini-batch [M,C,G].
        power_w, wait_power_w: of the whole device at work, and waiting with that frequency held [M,G]; NaN unknown.
    """

    frequency_hz: Array
    device_s: Array
    power_w: Array
    wait_power_w: Array

    @property
    def count(self) -> int:
        """G."""
        return int(self.frequency_hz.shape[1])

    def faster(self, factor: float) -> Offer:
        """The same devices that many times as fast."""
        return replace(self, device_s=self.device_s / factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneDevice:
    """What one device offers: frequencies [G], seconds [C,G], powers [G]."""

    frequency_hz: Array
    device_s: Array
    power_w: Array
    wait_power_w: Array


def offer_of(each: list[OneDevice]) -> Offer:
    """The offers of all devices as one; each at least one frequency."""
    most = max(one.frequency_hz.size for one in each)

    def places(one: OneDevice) -> Index:
        return filled_places(one.frequency_hz.size, most)

    return Offer(
        frequency_hz=np.array([one.frequency_hz[places(one)] for one in each]),
        device_s=np.array([one.device_s[:, places(one)] for one in each]),
        power_w=np.array([one.power_w[places(one)] for one in each]),
        wait_power_w=np.array([one.wait_power_w[places(one)] for one in each]),
    )


def filled_places(count: int, most: int) -> Index:
    """Indices [most] into `count` frequencies, the last one repeated."""
    # Repeating a choice adds none: the first of equals is taken, and no range gets wider.
    return np.minimum(np.arange(most), count - 1)
