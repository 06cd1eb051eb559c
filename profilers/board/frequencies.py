"""Which of the offered frequencies a sweep visits, and where its anchor stands.

Frequencies are visited in random order with one anchor repeated at the start, middle and end, so that a
drift of the device (heat, ageing of a battery, a fan) shows as a difference between equal points and
does not masquerade as a slope of the power curve.
"""

import math
from typing import List, NamedTuple, Sequence, Tuple

# The knee of the voltage curve lies at 0.6-0.85 f_max on most devices.
_KNEE = 0.6
# Well inside the range: at its ends a power limit or the lowest voltage would hide a drift.
_ANCHOR = 0.7
# With fewer frequencies, three visits of one would be most of the sweep.
_LEAST_FOR_ANCHOR = 4


class Visit(NamedTuple):
    """A frequency to visit, and whether it is the anchor."""

    frequency_hz: float
    anchor: bool


def spread(offered_hz: Sequence[float], count: int) -> Tuple[float, ...]:
    """`count` frequencies (1 or more), ascending: both ends, an even spread, and 3 above 0.6 f_max if it can be.

    A sweep without frequencies above the knee of the voltage curve cannot tell one law from another.
    """
    if count == 1:
        return (offered_hz[-1],)
    chosen = {nearest(offered_hz, target_hz) for target_hz in _even(offered_hz, min(count, len(offered_hz)))}
    high = [hz for hz in offered_hz if hz > _KNEE * offered_hz[-1]]
    # One of them is left for the low end.
    needed = min(3, len(high), count - 1)
    while sum(hz > _KNEE * offered_hz[-1] for hz in chosen) < needed:
        chosen.add(next(hz for hz in reversed(high) if hz not in chosen))
    return tuple(sorted(chosen))


def with_anchor(order_hz: Sequence[float]) -> Tuple[Visit, ...]:
    """The visits in this order, and from 4 frequencies on the anchor (nearest 0.7 f_max) first, midway and last."""
    if len(order_hz) < _LEAST_FOR_ANCHOR:
        return tuple(Visit(hz, False) for hz in order_hz)
    anchor = Visit(nearest(sorted(order_hz), _ANCHOR * max(order_hz)), True)
    others: List[Visit] = [Visit(hz, False) for hz in order_hz if hz != anchor.frequency_hz]
    half = math.ceil(len(others) / 2)
    return (anchor, *others[:half], anchor, *others[half:], anchor)


def _even(offered_hz: Sequence[float], count: int) -> List[float]:
    low, high = offered_hz[0], offered_hz[-1]
    if count == 1:
        return [low]
    return [low + (high - low) / (count - 1) * i for i in range(count - 1)] + [high]


def nearest(offered_hz: Sequence[float], wanted_hz: float) -> float:
    """The offered frequency that lies nearest."""
    return min(offered_hz, key=lambda hz: abs(hz - wanted_hz))
