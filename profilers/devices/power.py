"""Power meters: what a rail covers, how often it moves, and the trace of a window.

    update_s      |--u--|--u--|--u--|--u--|--u--|
    recording        [==========window=======]
    whole updates       |--u--|--u--|--u--|          only these enter the mean

A sensor that averages over its update interval says nothing about half an interval: a window is cut
to the updates that lie wholly inside it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import numpy as np

from cardlab.core import plausible
from cardlab.core.quantity import Estimate, Provenance

# What a card draws for a moment above the limit that its mean is held to.
_OVER_LIMIT = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Rail:
    """One place where power is measured.

    Attributes:
        name: the vendor's name of it.
        scope: what it covers, in words.
        total: it is, or stands for, the power of the whole device.
    """

    name: str
    scope: str
    total: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RailTrace:
    """What one rail said during a window.

    Attributes:
        end_s: the device's time at the end of each update, ascending.
        power_w: mean power over each update.
        update_s: length of an update.
        quantisation_w: smallest step of a reading, None if unknown.
        source: the sensor, in words.
        check_w: mean power by a second, independent source over the same window, None without one.
        facts: plain JSON facts of the sensor that are stored beside the mean (averaging, shunt...).
    """

    rail: Rail
    end_s: tuple[float, ...]
    power_w: tuple[float, ...]
    update_s: float
    quantisation_w: float | None
    source: str
    check_w: float | None = None
    facts: Mapping[str, object] = field(default_factory=dict)

    def mean(self, provenance: Provenance) -> Estimate | None:
        """Mean power with its standard error; None without a whole update.

        Neighbouring updates are correlated (heat, averaging), so the error comes from blocks. The step of a
        reading averages out only where the readings move by half a step or more.
        """
        power = np.asarray(self.power_w, dtype=float)
        if power.size == 0:
            return None
        stderr = block_stderr(power)
        if self.quantisation_w is not None:
            # Readings that stand still hide anywhere in their step, and repeating them tells nothing more.
            dithered = float(power.std()) >= 0.5 * self.quantisation_w
            floor = self.quantisation_w / math.sqrt(12.0 * (power.size if dithered else 1))
            stderr = floor if stderr is None else math.hypot(stderr, floor)
        mean = float(power.mean())
        ci95 = None if stderr is None else (mean - 1.96 * stderr, mean + 1.96 * stderr)
        return Estimate(mean, stderr, ci95, int(power.size), provenance)


def within_physics(trace: RailTrace, limit_w: float | None) -> tuple[RailTrace, str | None]:
    """The trace without readings that the device cannot have drawn, and a line that names them; None if all are good.

    A sensor that is asked while it converts, or a counter that was reset, answers with 504 kW or -0.27 W; one such
    reading moves a mean by more than everything else together.

    Args:
        limit_w: power limit of the device, None where it is not known.
    """
    most_w = plausible.POWER.most if limit_w is None else _OVER_LIMIT * limit_w
    # A rail may be switched off; a whole device that draws nothing is a sensor that does not answer.
    good = [math.isfinite(p) and p <= most_w and (p > 0 if trace.rail.total else p >= 0) for p in trace.power_w]
    bad = [p for p, keep in zip(trace.power_w, good, strict=True) if not keep]
    if not bad:
        return trace, None
    worst_w = max(bad, key=lambda p: abs(p) if math.isfinite(p) else math.inf)
    named = f"{len(bad)} of {len(good)} readings of {trace.rail.name} thrown out: {worst_w:g} W, of 0 to {most_w:g} W"
    kept = replace(
        trace,
        end_s=tuple(t for t, keep in zip(trace.end_s, good, strict=True) if keep),
        power_w=tuple(p for p, keep in zip(trace.power_w, good, strict=True) if keep),
        source=f"{trace.source}; {len(bad)} readings thrown out",
    )
    return kept, named


def block_stderr(values: np.ndarray) -> float | None:
    """Standard error of the mean of a correlated series: the largest over block sizes 1, 2, 4...

    Blocks are doubled while at least 8 remain (Flyvbjerg and Petersen, J. Chem. Phys. 91, 1989).
    None for fewer than 2 values.
    """
    if values.size < 2:
        return None
    blocks = values
    largest = 0.0
    while True:
        largest = max(largest, float(blocks.std(ddof=1)) / math.sqrt(blocks.size))
        if blocks.size < 16:
            return largest
        even = blocks[: blocks.size // 2 * 2]
        blocks = even.reshape(-1, 2).mean(axis=1)


class Recording(ABC):
    """A window being recorded; read `traces` after the `with` block."""

    @property
    @abstractmethod
    def traces(self) -> Mapping[str, RailTrace]:
        """What each rail said, by rail name."""


class PowerMeter(ABC):
    """A set of rails that can be recorded together.

    Attributes:
        rails: exactly one is total.
        update_s: longest update interval of the rails.
        memory_s: how long after a change of load a reading still remembers what was before.
    """

    rails: tuple[Rail, ...]
    update_s: float

    @property
    def memory_s(self) -> float:
        """One update, for a sensor whose updates are means of their own."""
        return self.update_s

    def prepare(self) -> None:  # noqa: B027 - most meters have nothing to open
        """Open what takes time to open, before the work that is to be recorded begins."""

    def close(self) -> None:  # noqa: B027 - most meters hold nothing
        """Release what was opened; the meter is not used afterwards."""

    @abstractmethod
    def recording(self) -> AbstractContextManager[Recording]:
        """Record all rails while the block runs."""
