"""Devices by label or key. The newest run of a key supplies its label."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cardlab.core.errors import AmbiguousNameError, NotFoundError
from cardlab.core.records.device import Device
from cardlab.db.schema import DeviceRow, RunRow
from cardlab.db.store.repository import Repository, find_or_add


class Devices(Repository):
    """The devices that have a run in this database."""

    def all(self) -> tuple[Device, ...]:
        """Each device once, by its newest description, sorted by name."""
        with self.reading() as session:
            rows = _newest(session)
        return tuple(sorted((to_device(row) for row in rows), key=lambda d: (d.name, d.key)))

    def resolve(self, label: str) -> Device:
        """The device of that key or label.

        Raises NotFoundError (listing what there is) or AmbiguousNameError (listing the keys).
        """
        devices = self.all()
        # Keys are unique and win; a label may have been given to several boards.
        found = [d for d in devices if d.key == label] or [d for d in devices if d.name == label]
        if not found:
            known = ", ".join(d.name for d in devices) or "none"
            raise NotFoundError(f"no device called {label!r} in {self._location}", remedy=f"known devices: {known}")
        if len(found) > 1:
            keys = ", ".join(d.key for d in found)
            raise AmbiguousNameError(f"several devices are called {label!r}", remedy=f"use a key: {keys}")
        return found[0]


def _newest(session: Session) -> list[DeviceRow]:
    newest = (
        select(DeviceRow.key, func.max(RunRow.started_at).label("started_at"))
        .join(RunRow, RunRow.device_id == DeviceRow.id)
        .group_by(DeviceRow.key)
        .subquery()
    )
    query = (
        select(DeviceRow)
        .join(RunRow, RunRow.device_id == DeviceRow.id)
        .join(newest, (newest.c.key == DeviceRow.key) & (newest.c.started_at == RunRow.started_at))
    )
    # Two descriptions may share the newest time, as after a merge of imports: one of them is enough.
    by_key = {row.key: row for row in session.scalars(query)}
    return list(by_key.values())


def store_device(session: Session, device: Device) -> DeviceRow:
    """The row of this description, added if it is new."""
    row = DeviceRow(
        uid=device.uid,
        key=device.key,
        name=device.name,
        platform=device.platform,
        model=device.model,
        cores=device.cores,
        frequency_min_hz=device.frequency_min_hz,
        frequency_max_hz=device.frequency_max_hz,
        memory_bytes=device.memory_bytes,
        power_limit_w=device.power_limit_w,
        driver=device.driver,
        details=dict(device.details),
    )
    return find_or_add(session, row)


def to_device(row: DeviceRow) -> Device:
    """Row to record."""
    return Device(
        key=row.key,
        name=row.name,
        platform=row.platform,
        model=row.model,
        cores=row.cores,
        frequency_min_hz=row.frequency_min_hz,
        frequency_max_hz=row.frequency_max_hz,
        memory_bytes=row.memory_bytes,
        power_limit_w=row.power_limit_w,
        driver=row.driver,
        details=row.details,
    )
