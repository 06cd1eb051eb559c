"""The workbench of a device that torch runs on: segments materialised one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cardlab.core.errors import ProfileError
from cardlab.profilers.board.heap import give_back_freed_memory
from cardlab.profilers.board.timer import LapTimer
from cardlab.profilers.board.work import Work
from cardlab.profilers.runtime.build import build_meta
from cardlab.profilers.runtime.execution import import_torch
from cardlab.profilers.runtime.extras import extra_works
from cardlab.profilers.runtime.heap import settle_heap
from cardlab.profilers.runtime.segments import equivalent_step_work, reference_work, segment_work
from cardlab.profilers.runtime.wholestep import whole_step_bytes
from cardlab.profilers.runtime.workbench import Workload


class TorchWorkbench:
    """Real works of a task on one torch device.

    Args:
        workload: with a task and its analysis.
        device: torch's name of the device.
        lap_timer: times the works.
    """

    def __init__(self, workload: Workload, device: str, lap_timer: LapTimer) -> None:
        self.lap_timer: LapTimer | None = lap_timer
        if workload.task is None or workload.analysis is None:
            raise ProfileError("there is no task to build", remedy="name a model with --model")
        self._analysis = workload.analysis
        self._execution = workload.execution
        self._device = device
        # More threads than asked for would spin on each other's cores and ruin every sample.
        import_torch().set_num_threads(workload.execution.threads)
        settle_heap(workload.execution, whole_step_bytes(workload.task, workload.analysis))
        self._built = build_meta(workload.task, workload.execution)

    @property
    def segments(self) -> tuple[str, ...]:
        """All segments of the model, in the order they are timed."""
        return self._built.task.architecture.segments

    @contextmanager
    def segment(self, name: str) -> Iterator[Work]:
        """One segment with random weights, released when the block ends."""
        with segment_work(self._built, self._analysis, name, self._device) as work:
            yield work
        give_back_freed_memory()

    @contextmanager
    def equivalent_step(self) -> Iterator[Work]:
        """L x one layer and the head, forward and backward."""
        with equivalent_step_work(self._built, self._analysis, self._device) as work:
            yield work
        give_back_freed_memory()

    def reference(self) -> Work | None:
        """The fixed matrix product that runs before every sample."""
        return reference_work(self._execution.dtype, self._device)

    def extras(self) -> Iterator[Work]:
        """Optimizer step, copies between host and device, loading a layer."""
        return extra_works(self._built, self._analysis, self._device)
