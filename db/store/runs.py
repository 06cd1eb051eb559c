"""Runs: begun, extended point by point, read back as profiles.

Each call that writes is one short transaction, so what it returned is on disk whatever happens next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Subquery, func, select
from sqlalchemy.orm import Session

from cardlab.core.errors import NotFoundError
from cardlab.core.identity import new_uid
from cardlab.core.plain import to_plain
from cardlab.core.records.measurement import Measurement, OperatingPoint, PlannedPoint, Profile, Run, RunKind
from cardlab.core.records.presence import Presence
from cardlab.core.records.task import Task
from cardlab.db.schema import (
    CodecCostRow,
    DeviceRow,
    EnvironmentRow,
    ExecutionRow,
    MeasurementRow,
    OperatingPointRow,
    PointRow,
    RunRow,
    SampleBlockRow,
    TaskRow,
)
from cardlab.db.store.convert import (
    PointRows,
    codec_row,
    measurement_row,
    operating_row,
    point_records,
    run_record,
    sample_rows,
    task_document,
    task_record,
)
from cardlab.db.store.devices import store_device
from cardlab.db.store.repository import Repository, find_or_add, find_prefix, find_uid

Visit = tuple[PlannedPoint, OperatingPoint, Sequence[Measurement]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One line about a run, without its measurements."""

    uid: str
    kind: RunKind
    device_key: str
    device_name: str
    task_label: str | None
    workload: str | None
    started_at: str
    points_planned: int
    points_done: int


class Runs(Repository):
    """Profiles and other visits to devices."""

    def begin(self, run: Run) -> None:
        """Store the run and its descriptions; nothing is measured yet."""
        with self.writing() as session:
            session.add(_run_row(session, run))

    def begin_point(self, run_uid: str, planned: PlannedPoint) -> str:
        """Announce that a planned point begins; returns the uid of the point."""
        uid = new_uid()
        with self.writing() as session:
            run = find_uid(session, RunRow, run_uid)
            if run is None:
                raise NotFoundError(f"there is no run {run_uid!r}", remedy="begin the run first")
            session.add(_point_row(run.id, uid, planned))
        return uid

    def add(self, point_uid: str, *measurements: Measurement) -> None:
        """Append measurements with their samples to a point, all or none."""
        with self.writing() as session:
            _append(session, point_uid, measurements)

    def finish_point(self, point_uid: str, operating: OperatingPoint, *measurements: Measurement) -> None:
        """Append the last measurements and the operating point: the point is done."""
        with self.writing() as session:
            point = _append(session, point_uid, measurements)
            session.add(operating_row(point.id, operating))

    def add_whole(self, visits: Sequence[tuple[Run, Sequence[Visit]]]) -> None:
        """Store whole runs, each with its finished points, all or none (imports)."""
        with self.writing() as session:
            for run, points in visits:
                row = _run_row(session, run)
                session.add(row)
                session.flush()
                for planned, operating, measurements in points:
                    point = _point_row(row.id, new_uid(), planned)
                    session.add(point)
                    session.flush()
                    _append(session, point.uid, measurements)
                    session.add(operating_row(point.id, operating))

    def get(self, uid: str, *, samples: bool = False) -> Profile:
        """The run whose uid begins with `uid`, with what it measured; raw samples only on request."""
        with self.reading() as session:
            return _profile(session, find_prefix(session, RunRow, uid, "run"), samples)

    def latest(self, kind: RunKind = RunKind.PROFILE) -> Profile:
        """The newest run of that kind. Raises NotFoundError on an empty database."""
        with self.reading() as session:
            query = select(RunRow).where(RunRow.kind == kind.value).order_by(RunRow.started_at.desc()).limit(1)
            row = session.scalars(query).one_or_none()
            if row is None:
                raise NotFoundError(f"{self._location} holds no {kind.value}", remedy="measure one with profile-device")
            return _profile(session, row, False)

    def select(
        self, *, kind: RunKind = RunKind.PROFILE, device: str | None = None, task: str | None = None
    ) -> tuple[Profile, ...]:
        """Runs of that kind, oldest first, without samples; `device` is a key, `task` a uid."""
        query = (
            select(RunRow)
            .join(DeviceRow, DeviceRow.id == RunRow.device_id)
            .outerjoin(TaskRow, TaskRow.id == RunRow.task_id)
            .where(RunRow.kind == kind.value)
            .order_by(RunRow.started_at)
        )
        if device is not None:
            query = query.where(DeviceRow.key == device)
        if task is not None:
            query = query.where(TaskRow.uid == task)
        with self.reading() as session:
            return tuple(_profile(session, row, False) for row in session.scalars(query).all())

    def finished(self, device: str, *, kind: RunKind = RunKind.PROFILE) -> tuple[tuple[str, Task | None], ...]:
        """Uid and task of each complete run of a device (its key); measurements are not read.

        Oldest first, and those that held no frequency before all others: the last one is what a plan is made from.
        """
        done = _points_done()
        query = (
            select(RunRow, TaskRow, done.c.done)
            .join(DeviceRow, DeviceRow.id == RunRow.device_id)
            .outerjoin(TaskRow, TaskRow.id == RunRow.task_id)
            .outerjoin(done, done.c.run_id == RunRow.id)
            .where(RunRow.kind == kind.value, DeviceRow.key == device)
            .order_by(RunRow.started_at)
        )
        with self.reading() as session:
            found = [row for row in session.execute(query) if (row[2] or 0) >= len(row[0].planned)]
            # What the governor did, measured after a sweep, must not take the sweep's place.
            found.sort(key=lambda row: _holds(row[0]))
            return tuple(
                (run.uid, None if task is None else task_record(task, run.task_label)) for run, task, _ in found
            )

    def governed(self, device: str, task: str) -> tuple[str, ...]:
        """Uids of profiles of a device (its key) and a task with a point left to the governor, oldest first."""
        query = (
            select(RunRow)
            .join(DeviceRow, DeviceRow.id == RunRow.device_id)
            .join(TaskRow, TaskRow.id == RunRow.task_id)
            .where(RunRow.kind == RunKind.PROFILE.value, DeviceRow.key == device, TaskRow.uid == task)
            .order_by(RunRow.started_at)
        )
        with self.reading() as session:
            runs = session.scalars(query).all()
            return tuple(run.uid for run in runs if any(p.get("requested_hz") is None for p in run.planned))

    def rails(self, device: str) -> tuple[str, ...]:
        """Rails that a power of a device (its key) was measured on, by name."""
        query = (
            select(MeasurementRow.rail)
            .join(PointRow, PointRow.id == MeasurementRow.point_id)
            .join(RunRow, RunRow.id == PointRow.run_id)
            .join(DeviceRow, DeviceRow.id == RunRow.device_id)
            .where(DeviceRow.key == device, RunRow.kind != RunKind.METER.value)
            .where(MeasurementRow.unit == "W", MeasurementRow.rail.is_not(None))
            .distinct()
        )
        with self.reading() as session:
            return tuple(sorted(str(rail) for rail in session.scalars(query)))

    def presences(self) -> tuple[Presence, ...]:
        """When each device was measured, by the start of the host it was seen on; others are left out."""
        closed = OperatingPointRow
        query = (
            select(DeviceRow.key, func.max(DeviceRow.name), closed.boot, func.min(closed.started_at))
            .add_columns(func.max(closed.finished_at))
            .join(RunRow, RunRow.device_id == DeviceRow.id)
            .join(PointRow, PointRow.run_id == RunRow.id)
            .join(closed, closed.point_id == PointRow.id)
            .where(closed.boot.is_not(None), closed.started_at.is_not(None), closed.finished_at.is_not(None))
            .group_by(DeviceRow.key, closed.boot)
        )
        with self.reading() as session:
            return tuple(
                Presence(device_key=key, device_name=name, boot=boot, first_at=first, last_at=last)
                for key, name, boot, first, last in session.execute(query)
            )

    def unfinished(self, run: Run, *, complete: bool = False) -> Profile | None:
        """The newest incomplete run with the same device, task, workload and execution as `run`.

        `complete`: also one that has done all it planned, where that was the same as in `run`.
        """
        # Only the newest: whoever began another run afterwards has given the older one up.
        query = (
            select(RunRow)
            .join(DeviceRow, DeviceRow.id == RunRow.device_id)
            .join(ExecutionRow, ExecutionRow.id == RunRow.execution_id)
            .outerjoin(TaskRow, TaskRow.id == RunRow.task_id)
            .where(RunRow.kind == run.kind.value, DeviceRow.key == run.device.key)
            .where(ExecutionRow.uid == run.execution.uid)
            .where(RunRow.workload.is_(None) if run.workload is None else RunRow.workload == run.workload)
            .where(TaskRow.uid.is_(None) if run.task is None else TaskRow.uid == run.task.uid)
            .order_by(RunRow.started_at.desc())
            .limit(1)
        )
        with self.reading() as session:
            row = session.scalars(query).one_or_none()
            if row is None:
                return None
            profile = _profile(session, row, False)
        same = complete and profile.run.planned == run.planned
        return None if profile.complete and not same else profile

    def summaries(self) -> tuple[RunSummary, ...]:
        """All runs, newest first."""
        done = _points_done()
        query = (
            select(RunRow, DeviceRow, done.c.done)
            .join(DeviceRow, DeviceRow.id == RunRow.device_id)
            .outerjoin(done, done.c.run_id == RunRow.id)
            .order_by(RunRow.started_at.desc())
        )
        with self.reading() as session:
            return tuple(_summary(run, device, count or 0) for run, device, count in session.execute(query))


def _holds(run: RunRow) -> bool:
    return any(planned.get("requested_hz") is not None for planned in run.planned)


def _points_done() -> Subquery:
    """run_id and the number of its points that an operating point has closed."""
    # Counted by position, because a merged database may hold two visits of one planned point.
    return (
        select(PointRow.run_id, func.count(PointRow.position.distinct()).label("done"))
        .join(OperatingPointRow, OperatingPointRow.point_id == PointRow.id)
        .group_by(PointRow.run_id)
        .subquery()
    )


def _summary(run: RunRow, device: DeviceRow, done: int) -> RunSummary:
    return RunSummary(
        uid=run.uid,
        kind=RunKind(run.kind),
        device_key=device.key,
        device_name=device.name,
        task_label=run.task_label,
        workload=run.workload,
        started_at=run.started_at,
        points_planned=len(run.planned),
        points_done=done,
    )


def _run_row(session: Session, run: Run) -> RunRow:
    task = None
    if run.task is not None:
        task = find_or_add(session, TaskRow(uid=run.task.uid, document=task_document(run.task)))
    execution = find_or_add(session, ExecutionRow(uid=run.execution.uid, **to_plain(run.execution)))
    environment = find_or_add(session, EnvironmentRow(uid=run.environment.uid, versions=dict(run.environment.versions)))
    return RunRow(
        uid=run.uid,
        kind=run.kind.value,
        device_id=store_device(session, run.device).id,
        task_id=None if task is None else task.id,
        execution_id=execution.id,
        environment_id=environment.id,
        task_label=None if run.task is None else run.task.model,
        workload=run.workload,
        analysis=None if run.analysis is None else to_plain(run.analysis),
        planned=to_plain(run.planned),
        offered_hz=None if run.offered_hz is None else list(run.offered_hz),
        memory_budget_bytes=run.memory_budget_bytes,
        sitting=run.sitting,
        expected_notes=list(run.expected_notes) or None,
        for_plan=run.for_plan,
        options=to_plain(run.options),
        provenance=run.provenance.as_plain(),
        started_at=run.started_at,
    )


def _point_row(run_id: int, uid: str, planned: PlannedPoint) -> PointRow:
    return PointRow(
        uid=uid,
        run_id=run_id,
        position=planned.index,
        requested_hz=planned.requested_hz,
        memory_requested_hz=planned.memory_hz,
        anchor=planned.anchor,
    )


def _append(session: Session, point_uid: str, measurements: Sequence[Measurement]) -> PointRow:
    point = find_uid(session, PointRow, point_uid)
    if point is None:
        raise NotFoundError(f"there is no point {point_uid!r}", remedy="begin the point first")
    # Positions go on where an earlier call ended: one point is filled by several.
    count = select(func.count(MeasurementRow.id)).where(MeasurementRow.point_id == point.id)
    position = session.scalar(count) or 0
    rows = [measurement_row(point.id, position + i, m) for i, m in enumerate(measurements)]
    session.add_all(rows)
    session.flush()
    for row, measurement in zip(rows, measurements, strict=True):
        session.add_all(sample_rows(row.id, measurement))
        if measurement.codec is not None:
            session.add(codec_row(row.id, measurement.codec))
    return point


def _profile(session: Session, row: RunRow, samples: bool) -> Profile:
    device = session.get_one(DeviceRow, row.device_id)
    task = None if row.task_id is None else session.get_one(TaskRow, row.task_id)
    execution = session.get_one(ExecutionRow, row.execution_id)
    environment = session.get_one(EnvironmentRow, row.environment_id)
    points = session.scalars(
        select(PointRow).where(PointRow.run_id == row.id).order_by(PointRow.position, PointRow.id)
    ).all()
    # A few queries for the whole run and not a few for each point, of which a sweep has dozens.
    measured = session.scalars(
        select(MeasurementRow)
        .join(PointRow, PointRow.id == MeasurementRow.point_id)
        .where(PointRow.run_id == row.id)
        .order_by(MeasurementRow.point_id, MeasurementRow.position)
    ).all()
    operating = session.scalars(
        select(OperatingPointRow)
        .join(PointRow, PointRow.id == OperatingPointRow.point_id)
        .where(PointRow.run_id == row.id)
        .order_by(OperatingPointRow.id)
    ).all()
    # Only these runs have such rows; all others are spared the query.
    codecs: Sequence[CodecCostRow] = ()
    if row.kind in (RunKind.CODEC.value, RunKind.REHEARSAL.value):
        codecs = session.scalars(
            select(CodecCostRow)
            .join(MeasurementRow, MeasurementRow.id == CodecCostRow.measurement_id)
            .join(PointRow, PointRow.id == MeasurementRow.point_id)
            .where(PointRow.run_id == row.id)
        ).all()
    blocks: Sequence[SampleBlockRow] = ()
    if samples:
        blocks = session.scalars(
            select(SampleBlockRow)
            .join(MeasurementRow, MeasurementRow.id == SampleBlockRow.measurement_id)
            .join(PointRow, PointRow.id == MeasurementRow.point_id)
            .where(PointRow.run_id == row.id)
        ).all()
    return Profile(
        run=run_record(row, device, task, execution, environment),
        points=point_records(points, PointRows(measured=measured, operating=operating, blocks=blocks, codecs=codecs)),
    )
