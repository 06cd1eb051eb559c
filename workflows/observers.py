"""Who is told what a measurement does: nobody, here; the command line has observers that print."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cardlab.core.records.measurement import Measurement, OperatingPoint, PlannedPoint, Run
    from cardlab.profilers.measure.timing import Progress


class SilentObserver:
    """Hears everything and says nothing; a base for observers that say some of it."""

    def run_started(self, run: Run, resumed: bool) -> None:
        """The run is stored; measuring begins."""

    def point_started(self, planned: PlannedPoint, number: int, count: int) -> None:
        """A point begins, `number` of `count`."""

    def timing(self, progress: Progress) -> None:
        """A sample was taken."""

    def measured(self, measurements: tuple[Measurement, ...]) -> None:
        """These are committed."""

    def point_finished(self, planned: PlannedPoint, operating: OperatingPoint) -> None:
        """The point is done and committed."""
