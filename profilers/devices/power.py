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

from cardlab.core.quantity import Estimate, Provenance
from cardlab.profilers.board.power import is_possible, mean_power, most_power_w
from cardlab.profilers.board.rules import interval95


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
        systematic: relative standard deviation of what the sensor's class is off by; None where nothing is known of it.
        facts: plain JSON facts of the sensor that are stored beside the mean (averaging, shunt...).
    """

    rail: Rail
    end_s: tuple[float, ...]
    power_w: tuple[float, ...]
    update_s: float
    quantisation_w: float | None
    source: str
    check_w: float | None = None
    systematic: float | None = None
    facts: Mapping[str, object] = field(default_factory=dict)

    def mean(self, provenance: Provenance) -> Estimate | None:
        """Mean power with its standard error, as board/power.py has it; None without a whole update."""
        found = mean_power(self.power_w, self.quantisation_w)
        if found is None:
            return None
        ci95 = None if found.stderr_w is None else interval95(found.value_w, found.stderr_w)
        return Estimate(found.value_w, found.stderr_w, ci95, found.n, provenance)


def within_physics(trace: RailTrace, limit_w: float | None) -> tuple[RailTrace, str | None]:
    """The trace without readings that the device cannot have drawn, and a line that names them; None if all are good.

    Args:
        limit_w: power limit of the device, None where it is not known.
    """
    good = [is_possible(p, limit_w, total=trace.rail.total) for p in trace.power_w]
    bad = [p for p, keep in zip(trace.power_w, good, strict=True) if not keep]
    if not bad:
        return trace, None
    worst_w = max(bad, key=lambda p: abs(p) if math.isfinite(p) else math.inf)
    named = (
        f"{len(bad)} of {len(good)} readings of {trace.rail.name} thrown out: {worst_w:g} W,"
        f" of 0 to {most_power_w(limit_w):g} W"
    )
    kept = replace(
        trace,
        end_s=tuple(t for t, keep in zip(trace.end_s, good, strict=True) if keep),
        power_w=tuple(p for p, keep in zip(trace.power_w, good, strict=True) if keep),
        source=f"{trace.source}; {len(bad)} readings thrown out",
    )
    return kept, named


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
