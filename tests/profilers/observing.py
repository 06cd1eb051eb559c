"""Observers that tests give to a session."""

from __future__ import annotations

from cardlab.core.records.measurement import Measurement
from cardlab.profilers.measure.session import Observer
from cardlab.profilers.measure.timing import Progress


class Silent(Observer):
    """Is told everything and keeps nothing."""

    def run_started(self, run: object, resumed: bool) -> None: ...

    def point_started(self, planned: object, number: int, count: int) -> None: ...

    def timing(self, progress: Progress) -> None: ...

    def measured(self, measurements: tuple[Measurement, ...]) -> None: ...

    def point_finished(self, planned: object, operating: object) -> None: ...


class Collecting(Silent):
    """Keeps the segments whose times were committed, in order."""

    def __init__(self) -> None:
        self.segments: list[str | None] = []

    def measured(self, measurements: tuple[Measurement, ...]) -> None:
        if measurements[0].quantity == "latency":
            self.segments.append(measurements[0].segment)
