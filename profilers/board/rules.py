"""The rules of measuring, each in one place: cardlab and the agent that it packs call the same functions.

On a CPU a sample is *clean* when wall time exceeds the computing thread's CPU time by at most 3 % and it was
seldom pushed off its core: one involuntary context switch, and one more for each 25 ms. Kernel threads push
it off up to 40 times a second for microseconds once the other cores are busy: medians of samples with 15 to
40 switches a second and of those with fewer were equal within 1 % (llama-3.2-1b's layers, five processes).

A frequency read under load is *on request* to 1 %: steps of a frequency table are 2 to 10 % apart, so a wider
tolerance would take the neighbouring step for the one that was asked for.
"""

import math
from typing import Optional, Sequence, Tuple

MIN_CLEAN = 5
MIN_SAMPLES = 8
# Of 40 samples the lowest agreed within 1.2 % between processes on a busy host, of 20 within 3.4 % only.
MAX_SAMPLES = 40
# First passes take 3 to 13 % longer.
WARMUPS = 3
WANTED_SPREAD = 0.015
PATIENCE_S = 20.0
FREQUENCY_TOLERANCE = 0.01
# The median of five is sure enough to tell a half from the whole; a lap longer than this waits for no launches.
QUEUED_SAMPLES = 5
QUEUED_LONGEST_S = 0.5
# On an H200 layers of a 1B model took 4 to 6 times their kernels; a layer that fills a GPU takes 1.0 to 1.1 times.
HOST_BOUND_RATIO = 1.3

# Names that kernels gave the node of the integrated GPU, from Tegra X1 (gm20b) to Orin (ga10b).
GPU_NODES = ("gpu", "ga10b", "gv11b", "gp10b", "gm20b")

_WALL_OVER_CPU = 1.03
_SWITCH_INTERVAL_S = 0.025
# Standard error of a median over that of a mean (normal law), and MAD to standard deviation.
_MEDIAN_EFFICIENCY = 1.2533
_MAD_TO_SIGMA = 1.4826
_Z95 = 1.96
# By number of samples: what the deviation of so few is off by. See `_few`.
_FEWEST = {2: 4.94, 3: 8.66, 4: 2.61, 5: 2.61}
# Not the minimum, which hangs on one sample: processes agreed within 2.1 % by this.
_LOW_QUANTILE = 0.1


def is_clean(wall_s: float, cpu_s: Optional[float], involuntary_switches: Optional[int]) -> bool:
    """Whether nothing is known to have disturbed a sample; what is None was not counted and disturbs nothing."""
    if (involuntary_switches or 0) > 1 + int(wall_s / _SWITCH_INTERVAL_S):
        return False
    return cpu_s is None or wall_s <= _WALL_OVER_CPU * cpu_s


def is_host_bound(value_s: float, queued_s: Sequence[float]) -> bool:
    """Whether a time is mostly that of launching: the GPU alone needs much less."""
    return bool(queued_s) and value_s > HOST_BOUND_RATIO * median(queued_s)


def is_contended(clean: int, samples: int, exact: bool) -> bool:
    """Whether too few samples were clean; of an exact number of repeats most have to be."""
    return 2 * clean < samples if exact else clean < MIN_CLEAN


def is_gpu_node(name: str) -> bool:
    """Whether that is the device tree's name of an integrated GPU."""
    return name.lower() in GPU_NODES


def on_request(read_hz: Optional[float], requested_hz: Optional[float]) -> bool:
    """Whether a frequency read under load is the requested one; unknown counts as yes."""
    if read_hz is None or requested_hz is None:
        return True
    return abs(read_hz - requested_hz) <= FREQUENCY_TOLERANCE * requested_hz


def median(values: Sequence[float]) -> float:
    """Middle value; the mean of the two middle ones of an even number. ValueError without any."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def median_stderr(values: Sequence[float]) -> float:
    """Standard error of the median, from the median absolute deviation; 1.96 of it hold the median with 95 %."""
    centre, count = median(values), len(values)
    deviation = median([abs(value - centre) for value in values])
    return _few(count) * _MEDIAN_EFFICIENCY * _MAD_TO_SIGMA * deviation / math.sqrt(count)


def _few(count: int) -> float:
    """How much wider the error of a median has to be because its deviation is taken from few samples.

    Of eight normal samples, 87 % of the plain intervals held the truth. The factors are those of a simulation
    (400,000 draws of each number), within 3 % of it.
    """
    if count in _FEWEST:
        return _FEWEST[count]
    return 1.0 + (3.2 if count % 2 else 2.5) / (count - 3) if count > 3 else 1.0


def relative_spread(values: Sequence[float]) -> Optional[float]:
    """Half width of the 95 % interval of the median over the median; None below three values."""
    if len(values) < 3:
        return None
    return _Z95 * median_stderr(values) / median(values)


def interval95(value: float, stderr: float) -> Tuple[float, float]:
    """95 % interval of a value with a standard error (normal law)."""
    return value - _Z95 * stderr, value + _Z95 * stderr


def low_value(values: Sequence[float]) -> float:
    """The 10th percentile: the best guess when most samples were disturbed, since disturbances only add time."""
    ordered = sorted(values)
    return ordered[int(_LOW_QUANTILE * (len(ordered) - 1))]
