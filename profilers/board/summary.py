"""From raw samples of a lap to a number with its uncertainty, or to the statement that there is none.

The number is the **median of the clean samples**. On a shared two-core host, separate processes agreed
within 1.6 % by it, while the plain median of the same samples spread 77 %. With fewer than 5 clean ones
there is nothing to believe: the lap is `contended` and has no value. An exact number of repeats always gives
a value; if most samples were disturbed it is the 10th percentile of all of them (disturbances only add time;
processes agreed within 2.1 %) and flagged.
"""

from typing import Dict, NamedTuple, Optional, Sequence, Tuple

from .rules import is_contended, is_host_bound, low_value, median, median_stderr
from .timer import LapSample

# The flag of what other work disturbed.
CONTENDED = "contended"
# The flag of what a GPU does faster than the CPU launches it: its time is the host's, and no frequency changes it.
HOST_BOUND = "host-bound"


class Summary(NamedTuple):
    """What the samples of one lap say; seconds are of the whole lap.

    Attributes:
        value_s, stderr_s: None when there is nothing to believe; of a single sample no error is known.
        n: samples behind the value.
        contended: most or too many samples were disturbed.
        host_bound: the processor that computes needs much less than that, launched ahead.
        clean: number of clean samples.
        samples: raw samples by name: "wall_s", "clean" (0 or 1), and where they were taken "cpu_s" and "queued_s".
    """

    value_s: Optional[float]
    stderr_s: Optional[float]
    n: int
    contended: bool
    host_bound: bool
    clean: int
    samples: Dict[str, Tuple[float, ...]]

    @property
    def flags(self) -> Tuple[str, ...]:
        """What a reader of the value must know."""
        return ((CONTENDED,) if self.contended else ()) + ((HOST_BOUND,) if self.host_bound else ())


def summarise(samples: Sequence[LapSample], exact: bool, queued_s: Sequence[float] = ()) -> Summary:
    """What a series of samples says; `exact` numbers of repeats always give a value, `queued_s` are of `Series`."""
    every = [sample.wall_s for sample in samples]
    clean = [sample.wall_s for sample in samples if sample.clean]
    contended = is_contended(len(clean), len(samples), exact)
    believed = clean if not contended else every if exact else []
    value_s = None if not believed else low_value(believed) if contended else median(believed)
    return Summary(
        value_s=value_s,
        stderr_s=median_stderr(believed) if len(believed) > 1 else None,
        n=len(believed),
        contended=contended,
        host_bound=value_s is not None and is_host_bound(value_s, queued_s),
        clean=len(clean),
        samples=dict(_raw(samples), queued_s=tuple(queued_s)) if queued_s else _raw(samples),
    )


def _raw(samples: Sequence[LapSample]) -> Dict[str, Tuple[float, ...]]:
    raw = {
        "wall_s": tuple(sample.wall_s for sample in samples),
        "clean": tuple(float(sample.clean) for sample in samples),
    }
    cpu_s = tuple(sample.cpu_s for sample in samples if sample.cpu_s is not None)
    if len(cpu_s) == len(samples):
        raw["cpu_s"] = cpu_s
    return raw
