"""Works of a task as descriptions: the machine's physics needs their size, not their code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cardlab.core.errors import ProfileError
from cardlab.profilers.board.work import Work
from cardlab.profilers.runtime.describe import describe_equivalent_step, describe_works
from cardlab.profilers.runtime.workbench import Workload


class DescribedWorkbench:
    """Works by their FLOPs and bytes, from the analysis of a task."""

    def __init__(self, workload: Workload) -> None:
        if workload.task is None or workload.analysis is None:
            raise ProfileError("a simulated device needs a task", remedy="name a model with --model")
        self._works = {w.segment: w for w in describe_works(workload.task, workload.analysis)}
        self._step = describe_equivalent_step(workload.task, workload.analysis)

    @property
    def segments(self) -> tuple[str, ...]:
        """All segments of the model."""
        return tuple(self._works)

    @property
    def lap_timer(self) -> None:
        """The device's own, in its virtual time."""
        return

    @contextmanager
    def segment(self, name: str) -> Iterator[Work]:
        """The description of one segment."""
        yield self._works[name]

    @contextmanager
    def equivalent_step(self) -> Iterator[Work]:
        """The description of the equivalent step."""
        yield self._step

    def reference(self) -> Work | None:
        """None: nothing disturbs a simulated device."""
        return None

    def extras(self) -> Iterator[Work]:
        """None: the physics has no optimizer and no copies."""
        return iter(())
