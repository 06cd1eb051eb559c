"""Time without gaps: each mark gives the time since the one before it to a term, so the terms add up."""

from __future__ import annotations

import time
from collections.abc import Mapping

now_s = time.perf_counter


class Laps:
    """Seconds by term since `start_s`, on this process's monotonic timer; `last_s` is the last mark."""

    def __init__(self, start_s: float) -> None:
        self.terms: dict[str, float] = {}
        self.last_s = start_s

    def mark(self, term: str, at_s: float | None = None) -> None:
        """The time since the last mark was spent on `term`."""
        at = now_s() if at_s is None else at_s
        self.add(term, at - self.last_s)
        self.last_s = at

    def merge(self, terms: Mapping[str, float], until_s: float) -> None:
        """The time until `until_s` was spent elsewhere, as these terms say."""
        for term, seconds in terms.items():
            self.add(term, seconds)
        self.last_s = until_s

    def add(self, term: str, seconds: float) -> None:
        """Seconds that were timed by someone else."""
        self.terms[term] = self.terms.get(term, 0.0) + seconds
