"""Where to measure next, so that decisions which depend on a device's curves are known after few points.

The curves of `next_point` are drawn, whoever decides says what each choice loses in each draw, and the point to measure
is the one after which the expected loss of the then best choices is least (the knowledge gradient). What a point would
show are the readings at its frequency: draws that would show about the same stay together, since they are what would
still be believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cardlab.calibrate.next_point import KNOWN, Mask
from cardlab.core.laws.base import Array

# As many as a search begins with: what hangs on nothing else is known then.
LEAST_POINTS = 3
# No point is read better than this, as a share.
_LEAST_ERROR = 0.003
_SEED = 20241130
# Groups of draws by one reading, and by each of two.
_ALONE, _EACH = 9, 3


@dataclass(frozen=True)
class OpenDecisions:
    """Decisions, and what their choices lose by what is not known of a device.

    Attributes:
        offered_hz: of the device, ascending [G].
        readings: what measuring a frequency shows (time, power), one drawn curve a row [D, G].
        regrets: of each decision, what its choices lose in each draw, as a share [D, K].
        measured: bool [G].
    """

    offered_hz: Array
    readings: tuple[Array, ...]
    regrets: tuple[Array, ...]
    measured: Mask

    @cached_property
    def best(self) -> tuple[int, ...]:
        """Place of each decision's choice of least expected regret."""
        return tuple(int(np.argmin(regrets.mean(axis=0))) for regrets in self.regrets)

    @cached_property
    def lost(self) -> Array:
        """What these choices lose in each draw, on average over the decisions [D]."""
        each = [regrets[:, place] for regrets, place in zip(self.regrets, self.best, strict=True)]
        return np.asarray(np.mean(each, axis=0))

    @property
    def regret95(self) -> float:
        """Bound of that which holds with 95 %."""
        return float(np.quantile(self.lost, 0.95))

    @property
    def known(self) -> bool:
        """Whether the decisions are known well enough."""
        return bool(self.measured.all()) or (int(self.measured.sum()) >= LEAST_POINTS and self.regret95 <= KNOWN)

    def next_hz(self) -> float | None:
        """Frequency whose measurement lowers the expected regret most; None where all were measured."""
        left = np.flatnonzero(~self.measured)
        if not left.size:
            return None
        noise = np.random.default_rng(_SEED).standard_normal((len(self.readings), len(self.lost)))
        return float(self.offered_hz[min(left, key=lambda place: self._after(int(place), noise))])

    def _after(self, place: int, noise: Array) -> float:
        """Expected regret of the best choices once that frequency was measured."""
        seen = [curves[:, place] * (1.0 + _LEAST_ERROR * n) for curves, n in zip(self.readings, noise, strict=True)]
        count, left = len(self.lost), 0.0
        for group in _groups(seen):
            left += group.size / count * sum(float(r[group].mean(axis=0).min()) for r in self.regrets)
        return left


def _groups(seen: list[Array]) -> Iterator[NDArray[np.int64]]:
    """Draws that show about the same: by the one reading, or by the first and then the second."""
    if len(seen) == 1:
        yield from np.array_split(np.argsort(seen[0]), _ALONE)
        return
    for group in np.array_split(np.argsort(seen[0]), _EACH):
        yield from np.array_split(group[np.argsort(seen[1][group])], _EACH)
