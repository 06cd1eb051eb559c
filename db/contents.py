"""What a database holds, without reading what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cardlab.db.engine import database_url
from cardlab.db.schema import HEAD_REVISION, Base, DeviceRow, RunRow, SampleBlockRow
from cardlab.db.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardLine:
    """One piece of hardware: its key, every label it ever had, runs, and when it was last measured."""

    key: str
    names: tuple[str, ...]
    platform: str
    runs: int
    last_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A database in numbers.

    Attributes:
        backend: "sqlite" or "postgresql".
        schema: revision of the schema.
        size_bytes: of the file with its journal, or of the database on the server.
        rows: by table.
        samples, sample_bytes: raw samples of all measurements.
        boards: by key, newest last.
    """

    backend: str
    schema: str
    size_bytes: int | None
    rows: Mapping[str, int]
    samples: int
    sample_bytes: int
    boards: tuple[BoardLine, ...]


def contents(store: Store) -> Contents:
    """Count everything. Raises StoreError when the database cannot be read."""
    with store.connection() as connection:
        rows = {
            table.name: int(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)
            for table in Base.metadata.sorted_tables
        }
        # The database adds up the lengths: the samples themselves may be gigabytes.
        count, size = connection.execute(
            sa.select(sa.func.sum(SampleBlockRow.count), sa.func.sum(sa.func.length(SampleBlockRow.data)))
        ).one()
        return Contents(
            backend=connection.dialect.name,
            schema=HEAD_REVISION,
            size_bytes=_size_bytes(store, connection),
            rows=rows,
            samples=int(count or 0),
            sample_bytes=int(size or 0),
            boards=_boards(connection),
        )


def _size_bytes(store: Store, connection: Connection) -> int | None:
    if connection.dialect.name == "postgresql":
        size = connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar()
        return None if size is None else int(size)
    file = Path(str(database_url(store.location).database))
    # What was written last may stand in the journal only.
    parts = (file, file.with_name(file.name + "-wal"))
    return sum(part.stat().st_size for part in parts if part.exists())


def _boards(connection: Connection) -> tuple[BoardLine, ...]:
    query = (
        sa.select(DeviceRow.key, DeviceRow.name, DeviceRow.platform, RunRow.started_at)
        .join(RunRow, RunRow.device_id == DeviceRow.id)
        .order_by(RunRow.started_at)
    )
    found: dict[str, BoardLine] = {}
    for key, name, platform, started_at in connection.execute(query):
        # Taken out and put in anew, so that the order ends with the device measured last.
        before = found.pop(key, None)
        names = (*(n for n in (before.names if before else ()) if n != name), name)
        runs = 1 + (before.runs if before else 0)
        found[key] = BoardLine(key=key, names=names, platform=platform, runs=runs, last_at=started_at)
    return tuple(found.values())
