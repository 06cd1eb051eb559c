"""profile_task: a task on this machine, segment by segment.

    analyse on meta | embedding | first layer | layer | head | optimizer, copies, layer load | whole step

`measure_segments` yields the records of each segment as soon as it is finished, so that whoever stores them
loses at most the one that was running: Ctrl-C, a lost device or an allocator that gives up leaves the rest
in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cardlab.core.quantity import Estimate, union_of
from cardlab.core.records.measurement import Measurement
from cardlab.core.records.task import Execution, Task
from cardlab.core.records.workload import PHASES, SEGMENTS, Analysis, CutCost
from cardlab.profilers.board.timer import Clock, WallClock
from cardlab.profilers.measure.segments import TimingTools, time_segments
from cardlab.profilers.measure.timing import (
    ProgressCallback,
    TimingPolicy,
    measurements,
)
from cardlab.profilers.runtime.execution import resolve_execution
from cardlab.profilers.runtime.timers import CpuStopwatch, CudaStopwatch, Stopwatch
from cardlab.profilers.runtime.workbench import Workload

SegmentCallback = Callable[[tuple[Measurement, ...]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentProfile:
    """Time and FLOPs of one occurrence of a segment.

    Attributes:
        segment, count: which, and how often it occurs in the model.
        forward_s, backward_s: None where nothing was measured (the embedding has no backward pass).
        forward_flop, backward_flop: of one occurrence.
        contended: a lap was disturbed too much to have a value, or most of its samples were.
    """

    segment: str
    count: int
    forward_s: Estimate | None
    backward_s: Estimate | None
    forward_flop: float
    backward_flop: float
    contended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCheck:
    """The sum of all segments against a real whole step; None where one was not measured.

    Attributes:
        sum_of_segments_s, whole_step_s: forward + backward.
        sum_forward_s, sum_backward_s, whole_forward_s, whole_backward_s: each phase.
    """

    sum_of_segments_s: float | None
    whole_step_s: float | None
    sum_forward_s: float | None = None
    sum_backward_s: float | None = None
    whole_forward_s: float | None = None
    whole_backward_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskProfile:
    """Everything about a task on one device.

    Attributes:
        task, execution: what was run and how.
        analysis: its static cost, memory of every cut included.
        segments: in the order of SEGMENTS.
        measurements: every record with its raw samples.
        check: segments against a whole step.
    """

    task: Task
    execution: Execution
    analysis: Analysis
    segments: tuple[SegmentProfile, ...]
    measurements: tuple[Measurement, ...]
    check: StepCheck

    @property
    def cuts(self) -> tuple[CutCost, ...]:
        """Cost of both sides for every cut."""
        return self.analysis.cuts

    def segment(self, name: str) -> SegmentProfile:
        """The segment of that name; KeyError if the model has none."""
        for segment in self.segments:
            if segment.segment == name:
                return segment
        raise KeyError(name)


def stopwatch_for(device: str, threads: int = 1) -> Stopwatch:
    """The stopwatch of a torch device: CUDA events, or a pinned CPU thread."""
    return CudaStopwatch(device) if device.startswith("cuda") else CpuStopwatch(threads)


def profile_task(
    task: Task,
    device: str = "cpu",
    *,
    execution: Execution | None = None,
    policy: TimingPolicy | None = None,
    on_segment: SegmentCallback | None = None,
    on_progress: ProgressCallback | None = None,
    whole_step: bool = False,
    overhead_bytes: int | None = None,
) -> TaskProfile:
    """Analyse and time a task on this machine.

    Args:
        device: torch device, "cpu" or "cuda[:N]".
        execution: None resolves it for the device.
        policy: when to stop; its budget_s is for the whole profile.
        on_segment: called with the records of each finished segment.
        on_progress: called after every sample.
        whole_step: also measure a real step in a child process, where it fits.
        overhead_bytes: resident memory before any weight; None measures it in a child process.

    Raises OutOfMemoryError in the middle; finished segments were given to `on_segment`.
    """
    from cardlab.profilers.runtime.analysis import analyse
    from cardlab.profilers.runtime.overhead import measure_overhead

    execution = execution or resolve_execution(device)
    overhead_bytes = measure_overhead(execution, device) if overhead_bytes is None else overhead_bytes
    analysis = analyse(task, execution, overhead_bytes=overhead_bytes)
    records: list[Measurement] = []
    for finished in measure_segments(
        task, execution, analysis, device, policy=policy, on_progress=on_progress, whole_step=whole_step
    ):
        records.extend(finished)
        if on_segment is not None:
            on_segment(finished)
    return summarise(task, execution, analysis, tuple(records))


def measure_segments(
    task: Task,
    execution: Execution,
    analysis: Analysis,
    device: str = "cpu",
    *,
    stopwatch: Stopwatch | None = None,
    policy: TimingPolicy | None = None,
    clock: Clock | None = None,
    on_progress: ProgressCallback | None = None,
    extras: bool = True,
    whole_step: bool = False,
    skip: frozenset[str] = frozenset(),
) -> Iterator[tuple[Measurement, ...]]:
    """The records of each segment as it is finished, then those of the works beside them.

    Args:
        analysis: as `analyse` gave it for this task and execution.
        stopwatch: None takes the device's own.
        extras: also time optimizer step, copies and loading a layer.
        whole_step: also a real step in a child process, where it fits; last.
        skip: segments that were measured before (a resumed run).

    Raises OutOfMemoryError when a segment does not fit; what was yielded before stays valid.
    """
    from cardlab.profilers.runtime.torch_workbench import TorchWorkbench

    timer = stopwatch or stopwatch_for(device, execution.threads)
    bench = TorchWorkbench(Workload(execution=execution, task=task, analysis=analysis), device, timer)
    tools = TimingTools(
        stopwatch=timer,
        clock=clock or WallClock(),
        policy=policy or TimingPolicy(),
        on_progress=on_progress,
    )
    for timing in time_segments(bench, tools, skip=skip, extras=extras):
        yield measurements(timing)
    if whole_step and "whole_step" not in skip:
        whole = bench.whole_step()
        if whole is not None:
            yield measurements(whole)


def summarise(task: Task, execution: Execution, analysis: Analysis, records: tuple[Measurement, ...]) -> TaskProfile:
    """The profile that these records make, measured now or read from a store."""
    latency = {(r.segment, r.phase): r for r in records if r.quantity == "latency"}

    def segment(name: str) -> SegmentProfile:
        cost = analysis.segment(name)
        found = [latency.get((name, phase)) for phase in PHASES]
        forward_s, backward_s = (None if r is None else r.estimate for r in found)
        return SegmentProfile(
            segment=name,
            count=cost.count,
            forward_s=forward_s,
            backward_s=backward_s,
            forward_flop=cost.forward_flop,
            backward_flop=cost.backward_flop,
            contended=any("contended" in r.flags for r in found if r is not None),
        )

    segments = tuple(segment(name) for name in SEGMENTS)
    whole = {phase: latency.get(("whole_step", phase)) for phase in PHASES}
    return TaskProfile(
        task=task,
        execution=execution,
        analysis=analysis,
        segments=segments,
        measurements=records,
        check=_check(segments, {p: None if r is None else r.estimate for p, r in whole.items()}),
    )


def _check(segments: tuple[SegmentProfile, ...], whole: dict[str, Estimate | None]) -> StepCheck:
    sums = {phase: phase_sum(segments, phase) for phase in PHASES}
    forward, backward = (None if e is None else e.value for e in (whole["forward"], whole["backward"]))
    return StepCheck(
        sum_of_segments_s=_plus(_value(sums["forward"]), _value(sums["backward"])),
        whole_step_s=_plus(forward, backward),
        sum_forward_s=_value(sums["forward"]),
        sum_backward_s=_value(sums["backward"]),
        whole_forward_s=forward,
        whole_backward_s=backward,
    )


def phase_sum(segments: tuple[SegmentProfile, ...], phase: str) -> Estimate | None:
    """Seconds of one phase of the whole model; None if a segment with work in it has no value."""
    terms: list[Estimate] = []
    for segment in segments:
        if segment.count == 0 or (phase == "backward" and segment.backward_flop == 0.0):
            continue
        estimate = segment.forward_s if phase == "forward" else segment.backward_s
        if estimate is None:
            return None
        terms.append(estimate.scaled(segment.count))
    stderr = math.hypot(*(t.stderr for t in terms if t.stderr is not None)) if terms else 0.0
    value = math.fsum(t.value for t in terms)
    return Estimate(value, stderr, (value - 1.96 * stderr, value + 1.96 * stderr), None, _joined(terms))


def _joined(terms: list[Estimate]) -> Any:
    return union_of(term.provenance for term in terms)


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _plus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b
