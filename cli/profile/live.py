"""What a running session shows: a live line on a terminal, plain lines elsewhere, nothing with --json."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cardlab.cli.console import note
from cardlab.core.records.measurement import Measurement, OperatingPoint, PlannedPoint, Run
from cardlab.core.text import duration, percent, si, subject
from cardlab.profilers.measure.session import Observer
from cardlab.profilers.measure.timing import Progress
from cardlab.workflows.observers import SilentObserver


class PlainObserver:
    """One line on stderr for each thing that was measured."""

    def run_started(self, run: Run, resumed: bool) -> None:
        """Say which run, and whether it goes on."""
        task = run.workload or (run.task.model if run.task else "")
        words = "going on with" if resumed else "started"
        note(f"{words} run {run.uid[:12]}: {task} on {run.device.name}, {len(run.planned)} point(s)")

    def point_started(self, planned: PlannedPoint, number: int, count: int) -> None:
        """Say which point."""
        clock = "the frequency as found" if planned.requested_hz is None else si(planned.requested_hz, "Hz")
        note(f"point {number} of {count} at {clock}")

    def timing(self, progress: Progress) -> None:
        """Nothing: samples come too often for lines."""

    def measured(self, measurements: tuple[Measurement, ...]) -> None:
        """One line a measurement; of a sweep only what is new at every point."""
        for m in measurements:
            words = subject(m.quantity, segment=m.segment, phase=m.phase, rail=m.rail)
            value = "N/A" if m.estimate is None else si(m.estimate.value, m.unit)
            flags = f" [{', '.join(m.flags)}]" if m.flags else ""
            note(f"  {words}: {value}{flags}")

    def point_finished(self, planned: PlannedPoint, operating: OperatingPoint) -> None:
        """Only what must be known about the point."""
        for reason in operating.reasons:
            note(f"  note: {reason}")


class LiveObserver(PlainObserver):
    """The same lines, and below them what is being measured right now."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.status import Status

        # On stderr: stdout carries the result alone and may be redirected.
        self._status = Status("preparing", console=Console(stderr=True))
        self._place = ""

    def start(self) -> None:
        """Begin to draw."""
        self._status.start()

    def stop(self) -> None:
        """Stop drawing and free the line."""
        self._status.stop()

    def point_started(self, planned: PlannedPoint, number: int, count: int) -> None:
        """Remember the place for the live line."""
        super().point_started(planned, number, count)
        self._place = f"point {number}/{count}"

    def timing(self, progress: Progress) -> None:
        """Segment, samples, spread and time left."""
        self._status.update(
            f"{self._place} {progress.what}: {progress.samples} samples, {progress.clean} clean,"
            f" spread {percent(progress.spread)}, at most {duration(progress.seconds_left)} left"
        )


@contextmanager
def make_observer(*, quiet: bool) -> Iterator[Observer]:
    """The observer that fits the output: silent, live on a terminal, else plain lines."""
    # With --json everything on stderr would be noise for the program that reads the document.
    if quiet:
        yield SilentObserver()
    elif sys.stderr.isatty():
        observer = LiveObserver()
        observer.start()
        try:
            yield observer
        finally:
            observer.stop()
    else:
        yield PlainObserver()
