"""Fits: stored with the measurements they came from, found again by what they are about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import InstrumentedAttribute, Session

from cardlab.core.errors import NotFoundError
from cardlab.core.records.fit import RATIO, SUBJECT, Fit
from cardlab.db.schema import (
    DeviceRow,
    ExecutionRow,
    FitInputRow,
    FitRow,
    MeasurementRow,
    RunRow,
    TaskRow,
)
from cardlab.db.store.repository import Repository, find_prefix, find_uid

_DESCRIBED = ("device", "task", "execution")
# SQLite takes no more than some hundred values in one question everywhere.
_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFit:
    """A fit, when it was made, and the measurements it came from (uids)."""

    fit: Fit
    created_at: str
    inputs: tuple[str, ...]


class Fits(Repository):
    """Fitted laws."""

    def add(self, fits: Iterable[tuple[Fit, Sequence[str]]], created_at: str) -> None:
        """Store fits with the uids of the measurements each was made of, all or none."""
        with self.writing() as session:
            for fit, inputs in fits:
                row = _row(session, fit, created_at)
                session.add(row)
                session.flush()
                _add_inputs(session, row.id, inputs)

    def get(self, fit_id: str) -> StoredFit:
        """The fit whose id begins with `fit_id`."""
        with self.reading() as session:
            return _stored(session, find_prefix(session, FitRow, fit_id, "fit"))

    def newest(
        self,
        *,
        device: str | None = None,
        quantity: str | None = None,
        task: str | None = None,
        selected_only: bool = False,
    ) -> tuple[StoredFit, ...]:
        """The newest fit of each subject and law, oldest subject first; ratios that runs taught only where asked for.

        Args:
            device: key of the device.
            quantity: "power", "wait_power", "latency", "accuracy" or "ratio".
            task: uid of the task.
            selected_only: leave out the laws that were compared and not chosen.
        """
        # Which fits are the newest is asked first: laws and draws of the others are not read.
        query = (
            select(FitRow.id, FitRow.created_at, FitRow.selected, *subject_columns())
            .join(DeviceRow, DeviceRow.id == FitRow.device_id)
            .order_by(FitRow.created_at)
        )
        if device is not None:
            query = query.where(DeviceRow.key == device)
        # A ratio is no curve of a device: what shows or uses curves must not take it for one.
        query = query.where(FitRow.quantity != RATIO if quantity is None else FitRow.quantity == quantity)
        if task is not None:
            query = query.join(TaskRow, TaskRow.id == FitRow.task_id).where(TaskRow.uid == task)
        with self.reading() as session:
            # A later fit of a subject replaces all laws of the earlier comparison.
            stamps: dict[tuple[object, ...], str] = {}
            rows = session.execute(query).all()
            for _, created_at, _, *subject in rows:
                stamps[tuple(subject)] = created_at
            wanted = [
                number
                for number, created_at, selected, *subject in rows
                if created_at == stamps[tuple(subject)] and (selected or not selected_only)
            ]
            return tuple(_all_stored(session, wanted))

    def devices_of(self, fit_ids: Iterable[str]) -> tuple[str, ...]:
        """Keys of the devices that fits of these ids describe; the laws are not read."""
        wanted, found = sorted(set(fit_ids)), set()
        with self.reading() as session:
            for start in range(0, len(wanted), _AT_ONCE):
                query = select(DeviceRow.key).join(FitRow, FitRow.device_id == DeviceRow.id).distinct()
                found |= set(session.scalars(query.where(FitRow.uid.in_(wanted[start : start + _AT_ONCE]))))
        return tuple(sorted(found))


def subject_columns() -> tuple[InstrumentedAttribute[Any], ...]:
    """Columns that tell subjects apart: those named by SUBJECT, descriptions by their keys."""
    return tuple(getattr(FitRow, f"{name}_id" if name in _DESCRIBED else name) for name in SUBJECT)


def _row(session: Session, fit: Fit, created_at: str) -> FitRow:
    return FitRow(
        uid=fit.fit_id,
        device_id=_device_id(session, fit.device),
        task_id=_id_of(session, TaskRow, fit.task),
        execution_id=_id_of(session, ExecutionRow, fit.execution),
        workload=fit.workload,
        quantity=fit.quantity,
        segment=fit.segment,
        phase=fit.phase,
        rail=fit.rail,
        cut=fit.cut,
        codec=fit.codec,
        power_mode=fit.power_mode,
        memory_hz=fit.memory_hz,
        law=fit.law,
        selected=fit.selected,
        data_hash=fit.data_hash,
        learnt_from=fit.learnt_from,
        learnt_first=None if fit.window is None else fit.window[0],
        learnt_last=None if fit.window is None else fit.window[1],
        created_at=created_at,
        document=fit.document(),
        draws=fit.packed_draws or None,
    )


def _device_id(session: Session, key: str) -> int:
    """The description in the newest run of that hardware."""
    query = (
        select(DeviceRow.id)
        .join(RunRow, RunRow.device_id == DeviceRow.id)
        .where(DeviceRow.key == key)
        .order_by(RunRow.started_at.desc())
        .limit(1)
    )
    found = session.scalar(query)
    if found is None:
        raise NotFoundError(f"no device {key!r} is stored", remedy="measure or import it first")
    return found


def _id_of(session: Session, kind: type[TaskRow] | type[ExecutionRow], uid: str | None) -> int | None:
    if uid is None:
        return None
    row = find_uid(session, kind, uid)
    if row is None:
        raise NotFoundError(f"no {kind.__tablename__} {uid!r} is stored", remedy="measure or import it first")
    return int(row.id)


def _add_inputs(session: Session, fit_id: int, inputs: Sequence[str]) -> None:
    # An input that is not stored here is passed over; `cardlab db check` compares the number with the fit's.
    ids = session.scalars(select(MeasurementRow.id).where(MeasurementRow.uid.in_(list(inputs)))).all()
    session.add_all(FitInputRow(fit_id=fit_id, measurement_id=i) for i in ids)


def _stored(session: Session, row: FitRow) -> StoredFit:
    return next(_all_stored(session, [row.id]))


def _all_stored(session: Session, numbers: Sequence[int]) -> Iterator[StoredFit]:
    """The fits of these rows, in that order."""
    for start in range(0, len(numbers), _AT_ONCE):
        some = numbers[start : start + _AT_ONCE]
        rows = {row.id: row for row in session.scalars(select(FitRow).where(FitRow.id.in_(some)))}
        inputs: dict[int, list[str]] = {}
        for number, uid in session.execute(
            select(FitInputRow.fit_id, MeasurementRow.uid)
            .join(MeasurementRow, MeasurementRow.id == FitInputRow.measurement_id)
            .where(FitInputRow.fit_id.in_(some))
            .order_by(MeasurementRow.uid)
        ):
            inputs.setdefault(number, []).append(uid)
        for number in some:
            row = rows[number]
            fit = Fit.from_document(row.document, row.draws or b"")
            yield StoredFit(fit=fit, created_at=row.created_at, inputs=tuple(inputs.get(number, ())))
