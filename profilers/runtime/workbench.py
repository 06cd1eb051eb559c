"""A workbench makes the works of one task for one device: real ones, or descriptions of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from cardlab.core.records.task import Execution, Task
from cardlab.core.records.workload import Analysis
from cardlab.profilers.board.timer import LapTimer
from cardlab.profilers.board.work import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a session measures: a fine-tuning task, or a load that somebody named.

    Attributes:
        execution: resolved for the device.
        task, analysis: of a fine-tuning task; None for a load.
        label, load: name of a load and its work; None for a task.
    """

    execution: Execution
    task: Task | None = None
    analysis: Analysis | None = None
    label: str | None = None
    load: Work | None = None


class Workbench(Protocol):
    """Works of one task, each there for the length of a `with` block."""

    @property
    def segments(self) -> tuple[str, ...]:
        """Segments to time, in order."""
        ...

    @property
    def lap_timer(self) -> LapTimer | None:
        """Times these works; None leaves it to the device."""
        ...

    def segment(self, name: str) -> AbstractContextManager[Work]:
        """One segment, ready to run."""
        ...

    def equivalent_step(self) -> AbstractContextManager[Work]:
        """L x layer + head, forward and backward: what power is measured on."""
        ...

    def reference(self) -> Work | None:
        """The fixed kernel that runs before every sample, None where nothing can disturb."""
        ...

    def extras(self) -> Iterator[Work]:
        """Works beside the segments: optimizer step, copies, loading a layer; each until the next is asked for."""
        ...


class LoadWorkbench:
    """A load that somebody named: one work, timed as it is and measured for power as it is."""

    def __init__(self, load: Work) -> None:
        self._load = load

    @property
    def segments(self) -> tuple[str, ...]:
        """The load itself."""
        return (self._load.segment,)

    @property
    def lap_timer(self) -> None:
        """The device's own: the load is not this process's."""
        return

    @contextmanager
    def segment(self, name: str) -> Iterator[Work]:
        """The load."""
        yield self._load

    @contextmanager
    def equivalent_step(self) -> Iterator[Work]:
        """The load."""
        yield self._load

    def reference(self) -> Work | None:
        """None: the load may not be a CPU's."""
        return None

    def extras(self) -> Iterator[Work]:
        """None: a load stands alone."""
        return iter(())
