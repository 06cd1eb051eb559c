"""One profile from beginning to end: visit the planned points, measure, commit each result at once.

    begin run
      for each planned point not done yet:
        begin point -> lock frequency -> settle -> time each segment (commit) -> power, waiting (commit)
        -> operating point (commit: the point is done) -> restore frequency
      whole step, where wanted and where it fits

What is on disk never depends on how the session ends. Resuming skips the points that are done and,
within the one that was cut short, the segments that were measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cardlab.core.errors import DeviceError, UsageError
from cardlab.core.identity import SITTING, new_uid
from cardlab.core.quantity import Provenance
from cardlab.core.records.device import Environment
from cardlab.core.records.measurement import Measurement, OperatingPoint, PlannedPoint, Point, Profile, Run, RunKind
from cardlab.db.store import Store
from cardlab.db.times import utc_now
from cardlab.profilers.board.series import TimingPolicy
from cardlab.profilers.devices.device import HardwareDevice
from cardlab.profilers.measure.deadline import BudgetSpent, Deadline
from cardlab.profilers.measure.point import PointMeasurer
from cardlab.profilers.measure.runtimes import open_runtime
from cardlab.profilers.measure.samples import WorkTiming
from cardlab.profilers.measure.timing import Progress
from cardlab.profilers.measure.wholestep import time_whole_step
from cardlab.profilers.runtime.workbench import Workload

# Points that a search still takes, about.
_EXPECTED_MORE = 3


class Observer(Protocol):
    """Is told what happens; the command line shows it."""

    def run_started(self, run: Run, resumed: bool) -> None:
        """The run is stored; measuring begins."""
        ...

    def point_started(self, planned: PlannedPoint, number: int, count: int) -> None:
        """A point begins, `number` of `count`."""
        ...

    def timing(self, progress: Progress) -> None:
        """A sample was taken."""
        ...

    def measured(self, measurements: tuple[Measurement, ...]) -> None:
        """These are committed."""
        ...

    def point_finished(self, planned: PlannedPoint, operating: OperatingPoint) -> None:
        """The point is done and committed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a session is asked to do.

    Attributes:
        workload: the task or load to measure.
        planned: points in the order of visit.
        policy: how long the timings go on; its budget_s is for those of one point.
        environment: versions to store with the run.
        whole_step: also measure one real training step at the last point.
        resume: go on with the newest unfinished run of the same kind, if there is one.
        memory_budget_bytes: memory that the device side of a cut may take, None if unknown.
        power_per_segment: also run each segment alone under the meter.
        deadline: when the command's time ends; what it does not hold is left undone, to be resumed.
        following: is asked after the planned points for one more, given what was measured; None where these are all.
        for_plan: name and digest of the scenario that the points are chosen for; None for none.
        options: resolved options to store with the run, for people.
    """

    workload: Workload
    planned: tuple[PlannedPoint, ...]
    policy: TimingPolicy
    environment: Environment
    whole_step: bool = True
    resume: bool = False
    memory_budget_bytes: int | None = None
    power_per_segment: bool = False
    deadline: Deadline | None = None
    following: Callable[[Profile], PlannedPoint | None] | None = None
    for_plan: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)


def run_session(store: Store, device: HardwareDevice, request: Request, observer: Observer) -> Profile:
    """Measure everything the request plans and return it as stored.

    A run whose deadline came first is returned as far as it went, and is not complete. Raises whatever else stops the
    measurement, after what was measured has been committed.
    """
    run, done = _begin(store, device, request, observer)
    pending = [p for p in run.planned if not (p.index in done and done[p.index].done)]
    runtime = open_runtime(device, load=request.workload.load is not None)
    bench = runtime.workbench(request.workload)

    deadline = request.deadline or Deadline(device.timer)

    def whole_step() -> WorkTiming | None:
        return time_whole_step(request.workload, runtime.torch_device, deadline=deadline)

    measurer = PointMeasurer(device, bench, request.policy, observer.timing, whole_step, deadline)
    measurer.power_per_segment = request.power_per_segment
    visitor = _Visitor(store, device, run.uid, measurer, observer)
    try:
        for number, planned in enumerate(pending, start=1):
            measurer.share_time(len(pending) - number + 1)
            observer.point_started(planned, number, len(pending))
            # At the end, because the whole model takes the most memory: should it fail, the sweep is stored.
            last = number == len(pending)
            visitor.visit(planned, done.get(planned.index), whole_step=last and request.whole_step)
        _visit_more(store, run, request, visitor, done)
    except BudgetSpent:
        # What was measured is stored; the run is not complete, which whoever asked for it says.
        pass
    return store.runs.get(run.uid)


def _visit_more(store: Store, run: Run, request: Request, visitor: _Visitor, done: Mapping[int, Point]) -> None:
    """Points that nobody planned: which ones is known only by what was measured before."""
    if request.following is None:
        return
    while (planned := request.following(store.runs.get(run.uid))) is not None:
        count = planned.index + 1
        # How many there will be is not known: each gets the time of one of a few that are left.
        visitor.measurer.share_time(_EXPECTED_MORE)
        visitor.observer.point_started(planned, count, count)
        visitor.visit(planned, done.get(planned.index), whole_step=False)


def _begin(store: Store, device: HardwareDevice, request: Request, observer: Observer) -> tuple[Run, dict[int, Point]]:
    run = new_run(device, request)
    # A run that finds its points as it goes may have done all it planned and not be at its end.
    unfinished = store.runs.unfinished(run, complete=request.following is not None) if request.resume else None
    if unfinished is None:
        store.runs.begin(run)
        observer.run_started(run, False)
        return run, {}
    if unfinished.run.for_plan != run.for_plan:
        begun, now = unfinished.run.for_plan or "none", run.for_plan or "none"
        raise UsageError(
            f"the run to go on with was begun for another plan ({begun}, now {now})",
            remedy="give --for-plan as it was begun with, or leave --resume out",
        )
    observer.run_started(unfinished.run, True)
    return unfinished.run, _by_index(unfinished.points)


def _by_index(points: Iterable[Point]) -> dict[int, Point]:
    """The done visit of each planned point, else the last one begun."""
    found: dict[int, Point] = {}
    for point in points:
        if not (point.index in found and found[point.index].done):
            found[point.index] = point
    return found


def new_run(device: HardwareDevice, request: Request) -> Run:
    """The record of a run that begins now."""
    workload = request.workload
    return Run(
        uid=new_uid(),
        kind=RunKind.PROFILE,
        device=device.identity,
        execution=workload.execution,
        environment=request.environment,
        task=workload.task,
        workload=workload.label,
        analysis=workload.analysis,
        planned=request.planned,
        offered_hz=device.frequencies(),
        memory_budget_bytes=request.memory_budget_bytes,
        sitting=SITTING,
        for_plan=request.for_plan,
        options=request.options,
        provenance=Provenance(device.provenance.origins),
        started_at=utc_now(),
    )


@dataclass(frozen=True, slots=True)
class _Visitor:
    """Visits the points of one run."""

    store: Store
    device: HardwareDevice
    run_uid: str
    measurer: PointMeasurer
    observer: Observer

    def visit(self, planned: PlannedPoint, before: Point | None, *, whole_step: bool) -> None:
        """Measure one point; what a cut-short visit measured at the same frequency is taken over."""
        uid = before.uid if before is not None else self.store.runs.begin_point(self.run_uid, planned)
        known = () if before is None else before.measurements
        for measurements in self.measurer.before_lock(known):
            self._commit(uid, measurements)
        with self.device.locked(planned.requested_hz, planned.memory_hz):
            for measurements in self.measurer.under_lock(planned.requested_hz, known, whole_step):
                self._commit(uid, measurements)
            operating = self.measurer.operating_point(planned.requested_hz)
        self.store.runs.finish_point(uid, operating)
        self.observer.point_finished(planned, operating)

    def _commit(self, point_uid: str, measurements: tuple[Measurement, ...]) -> None:
        self.store.runs.add(point_uid, *measurements)
        self.observer.measured(measurements)


def restore(device: HardwareDevice) -> bool:
    """Release a frequency that a dead process left locked; False if none was."""
    if device.guard is None:
        raise DeviceError(f"{device.identity.name} has no frequency control", remedy="nothing needs to be restored")
    return device.guard.restore_leftover()
