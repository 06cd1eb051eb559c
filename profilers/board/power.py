"""Mean power of a window with its error: from updates that are correlated, read in steps.

Neighbouring updates are correlated (heat, averaging), so the error comes from blocks. The step of a reading averages
out only where the readings move by half a step or more.
"""

import math
from functools import reduce
from operator import add
from typing import Iterable, NamedTuple, Optional, Sequence

# The flag of a window in which the sensor gave nothing.
NO_UPDATE = "no whole sensor update"
# How NumPy adds: eight partial sums, over blocks of this size at most.
_LANES = 8
_LARGEST_BLOCK = 128


# What a device draws for a moment above the limit that its mean is held to.
_OVER_LIMIT = 1.2
# More than any one accelerator, for devices that state no limit.
_MOST_W = 3000.0


def most_power_w(limit_w: Optional[float]) -> float:
    """The most that a reading of a device with that power limit (None where it states none) can be."""
    return _MOST_W if limit_w is None else _OVER_LIMIT * limit_w


def is_possible(power_w: float, limit_w: Optional[float], total: bool) -> bool:
    """Whether a device can have drawn that.

    A sensor that is asked while it converts, or a counter that was reset, answers with 504 kW or -0.27 W; one such
    reading moves a mean by more than everything else together. A rail may be switched off; a whole device that draws
    nothing is a sensor that does not answer.
    """
    least = power_w > 0 if total else power_w >= 0
    return math.isfinite(power_w) and least and power_w <= most_power_w(limit_w)


class MeanPower(NamedTuple):
    """Mean of a window's updates and its standard error (None where it is not known), W; n updates."""

    value_w: float
    stderr_w: Optional[float]
    n: int


def mean_power(power_w: Sequence[float], step_w: Optional[float]) -> Optional[MeanPower]:
    """Mean power with its standard error; None without a whole update.

    Args:
        power_w: mean power over each update.
        step_w: smallest step of a reading, None if unknown.
    """
    n = len(power_w)
    if n == 0:
        return None
    stderr_w = block_stderr(power_w)
    if step_w is not None:
        # Readings that stand still hide anywhere in their step, and repeating them tells nothing more.
        dithered = math.sqrt(scatter(power_w) / n) >= 0.5 * step_w
        floor_w = step_w / math.sqrt(12.0 * (n if dithered else 1))
        stderr_w = floor_w if stderr_w is None else math.hypot(stderr_w, floor_w)
    return MeanPower(mean(power_w), stderr_w, n)


def block_stderr(values: Sequence[float]) -> Optional[float]:
    """Standard error of the mean of a correlated series: the largest over block sizes 1, 2, 4...

    Blocks are doubled while at least 8 remain (Flyvbjerg and Petersen, J. Chem. Phys. 91, 1989).
    None for fewer than 2 values.
    """
    if len(values) < 2:
        return None
    blocks = list(values)
    largest = 0.0
    while True:
        largest = max(largest, math.sqrt(variance(blocks)) / math.sqrt(len(blocks)))
        if len(blocks) < 16:
            return largest
        blocks = [(first + second) / 2 for first, second in zip(blocks[::2], blocks[1::2])]


def sum_step_w(steps_w: Sequence[Optional[float]]) -> Optional[float]:
    """Step of a sum of readings: the steps of its parts are independent of each other; None where one is unknown."""
    known = [step_w for step_w in steps_w if step_w is not None]
    if not known or len(known) < len(steps_w):
        return None
    return math.sqrt(math.fsum(step_w**2 for step_w in known))


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean of at least one value."""
    return pairwise_sum(values) / len(values)


def pairwise_sum(values: Sequence[float]) -> float:
    """Sum of values in the order in which NumPy adds them.

    Fits are told apart by the bits of their data: a sum in another order would make another fit of the same readings.
    So `sum` will not do, which from Python 3.12 on keeps what rounding loses.
    """
    n = len(values)
    if n > _LARGEST_BLOCK:
        half = n // 2 - n // 2 % _LANES
        return pairwise_sum(values[:half]) + pairwise_sum(values[half:])
    if n < _LANES:
        return reduce(add, values, 0.0)
    whole = n - n % _LANES
    a, b, c, d, e, f, g, h = (reduce(add, values[lane:whole:_LANES]) for lane in range(_LANES))
    return reduce(add, values[whole:], ((a + b) + (c + d)) + ((e + f) + (g + h)))


def mean_known(values: Iterable[Optional[float]]) -> Optional[float]:
    """Mean of the values that could be read, None where none could."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def scatter(values: Sequence[float]) -> float:
    """Sum of squared distances from the mean."""
    centre = mean(values)
    return pairwise_sum([(value - centre) * (value - centre) for value in values])


def variance(values: Sequence[float]) -> float:
    """Variance of what at least two values were drawn from."""
    return scatter(values) / (len(values) - 1)
