"""A row of latency from the samples of one lap."""

from typing import Sequence

from ..board.rules import interval95
from ..board.summary import summarise
from ..board.timer import LapSample
from .bundle import Row


def latency_row(samples: Sequence[LapSample], repeats: int, exact: bool, queued_s: Sequence[float] = ()) -> Row:
    """Arguments of a measurement: seconds of one occurrence with their uncertainty, or none and the flag.

    Args:
        repeats: occurrences of the segment in the lap.
        exact: the number of samples was asked for, so that a value is given in any case.
        queued_s: seconds of the whole lap that the GPU needs alone.
    """
    found = summarise(samples, exact, queued_s)
    row: Row = {
        "value": None,
        "samples": {name: list(values) for name, values in found.samples.items()},
        "flags": list(found.flags),
        "repeats": repeats,
        "clean": found.clean,
    }
    if found.value_s is None:
        return row
    row.update(value=found.value_s / repeats, n=found.n)
    if found.stderr_s is not None:
        row["stderr"] = found.stderr_s / repeats
        row["ci95"] = interval95(row["value"], row["stderr"])
    return row
