"""What a step of one side of a cut model took as a run makes it, beside the sum of its segments.

    share(c) = rehearsed(c) / sum of segments(c) - 1        of one sitting: what its host did meanwhile is in both

Between the two cuts of a rehearsal, seconds go in a straight line with the layers of the side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from cardlab.core.quantity import Estimate
from cardlab.core.records.measurement import Profile

REHEARSAL = "rehearsal"
COMPUTE, ENCODE, DECODE, ADAPTERS = "compute", "encode", "decode", "adapters"
# Once in a process: what first steps take more, and all that a side holds, fetched from nothing.
FIRST, LOAD = "first_step", "load"
SIDES = ("device", "server")


@dataclass(frozen=True)
class Rehearsal:
    """A rehearsal as it was stored."""

    profile: Profile

    @cached_property
    def rows(self) -> dict[tuple[str, str], dict[int, Estimate]]:
        """By side and piece of work, the seconds at each cut that can be trusted."""
        found: dict[tuple[str, str], dict[int, Estimate]] = {}
        for point in self.profile.points:
            for m in point.measurements:
                if m.quantity != REHEARSAL or m.codec is None or m.codec.side is None or m.segment is None:
                    continue
                if point.done and m.estimate is not None:
                    found.setdefault((m.codec.side, m.segment), {})[m.codec.cut] = m.estimate
        return found

    def seconds(self, side: str, what: str, cuts: Sequence[float]) -> list[float] | None:
        """Seconds of that piece of work at these cuts [C], on a line through those rehearsed.

        None where fewer than two cuts were rehearsed and others are asked for.
        """
        known = {cut: estimate.value for cut, estimate in self.rows.get((side, what), {}).items()}
        if not known:
            return None
        low, high = min(known), max(known)
        if low == high:
            return [known[low]] * len(cuts) if all(cut == low for cut in cuts) else None
        slope = (known[high] - known[low]) / (high - low)
        return [known[low] + slope * (cut - low) for cut in cuts]

    def relative_error(self, side: str) -> float | None:
        """Relative standard error of the side's seconds, the largest of its cuts; None where it is not known."""
        errors = [
            e.stderr / e.value
            for e in self.rows.get((side, COMPUTE), {}).values()
            if e.stderr is not None and e.value > 0
        ]
        return max(errors) if errors else None
