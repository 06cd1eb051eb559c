"""A task on this machine, as a session profiles it, without a file; and only its segments, without a session."""

from __future__ import annotations

from collections.abc import Iterator

from cardlab.core.records.measurement import Measurement, Profile
from cardlab.core.records.task import Execution, Task
from cardlab.core.records.workload import Analysis
from cardlab.db import open_store
from cardlab.profilers.board.cpu_timer import CpuLapTimer
from cardlab.profilers.board.series import TimingPolicy
from cardlab.profilers.board.timer import LapTimer
from cardlab.profilers.devices import open_platform
from cardlab.profilers.measure.environment import gather_environment
from cardlab.profilers.measure.samples import measurements
from cardlab.profilers.measure.segments import time_segments
from cardlab.profilers.measure.session import Observer, Request, run_session
from cardlab.profilers.measure.sweep import plan_points
from cardlab.profilers.measure.timing import ProgressCallback, TimingTools
from cardlab.profilers.runtime import analyse
from cardlab.profilers.runtime.overhead import measure_overhead
from cardlab.profilers.runtime.torch_workbench import TorchWorkbench
from cardlab.profilers.runtime.workbench import Workload
from tests.profilers.observing import Silent


def profile_here(
    task: Task,
    execution: Execution,
    *,
    policy: TimingPolicy | None = None,
    whole_step: bool = False,
    overhead_bytes: int | None = 0,
    observer: Observer | None = None,
) -> Profile:
    """One point at the frequency as found, on this CPU; `overhead_bytes` None measures it in a child process."""
    if overhead_bytes is None:
        overhead_bytes = measure_overhead(execution)
    analysis = analyse(task, execution, overhead_bytes=overhead_bytes)
    device = open_platform("cpu")
    request = Request(
        workload=Workload(execution=execution, task=task, analysis=analysis),
        planned=plan_points((), seed=0),
        policy=policy or TimingPolicy(),
        environment=gather_environment(device),
        whole_step=whole_step,
    )
    with open_store(":memory:") as store:
        return run_session(store, device, request, observer or Silent())


def batches(
    task: Task,
    execution: Execution,
    analysis: Analysis,
    *,
    lap_timer: LapTimer | None = None,
    policy: TimingPolicy | None = None,
    on_progress: ProgressCallback | None = None,
    skip: frozenset[str] = frozenset(),
    extras: bool = True,
) -> Iterator[tuple[Measurement, ...]]:
    """Records of each segment on this CPU as it is finished."""
    lap_timer = lap_timer or CpuLapTimer(execution.threads)
    bench = TorchWorkbench(Workload(execution=execution, task=task, analysis=analysis), "cpu", lap_timer)
    tools = TimingTools(lap_timer=lap_timer, policy=policy or TimingPolicy(), on_progress=on_progress)
    for timing in time_segments(bench, tools, skip=skip, extras=extras):
        yield measurements(timing)
