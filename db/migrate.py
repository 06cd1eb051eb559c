"""Bringing an older database to this version's schema, with a backup beside it first."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from cardlab.core.errors import SchemaTooOldError
from cardlab.db.engine import connect, database_url, lock_exclusively, migration_engine, translated
from cardlab.db.schema import HEAD_REVISION

SCRIPTS = "cardlab.db:migrations"


def revision_of(location: str | Path) -> str | None:
    """The schema revision a database says it has, None if it says nothing."""
    # Not through connect(), which refuses every schema but the newest.
    with translated(location), sa.create_engine(database_url(location)).connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(location: str | Path, revision: str = HEAD_REVISION) -> Path | None:
    """Run the missing revisions in one transaction; returns the backup's path (SQLite only).

    Raises StoreError if the database cannot be read or written; the old state then remains.
    """
    with translated(location):
        backup = backup_file(location)
        config = Config()
        config.set_main_option("script_location", SCRIPTS)
        with migration_engine(location).begin() as connection:
            lock_exclusively(connection)
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    return backup


def backup_file(location: str | Path) -> Path | None:
    """A consistent copy beside an SQLite file, journal included; None where there is no file.

    A PostgreSQL database is backed up with its own tools (pg_dump).
    """
    url = database_url(location)
    path = Path(str(url.database))
    return _copy(path) if url.get_backend_name() == "sqlite" and path.exists() else None


def _copy(path: Path) -> Path:
    """Copied by SQLite itself, also while others write; it appears whole or not at all."""
    number = 1
    # Never over an earlier backup, which may be the only good one.
    while (target := path.with_name(f"{path.name}.backup-{number}")).exists():
        number += 1
    draft = target.with_name(target.name + ".part")
    source, copy = sqlite3.connect(path), sqlite3.connect(draft)
    try:
        source.backup(copy)
    finally:
        copy.close()
        source.close()
    draft.replace(target)
    return target


def upgrade_existing(location: str | Path) -> tuple[str, str, Path | None]:
    """Upgrade a database that exists; returns the revision before, after, and the backup's path.

    The backup is None where nothing had to be done. Raises NotFoundError if there is no database,
    SchemaTooNewError if a newer version wrote it, StoreError if it is none of ours.
    """
    try:
        connect(location, create=False).dispose()
    except SchemaTooOldError:
        before = revision_of(location)
        return str(before), HEAD_REVISION, upgrade(location)
    return HEAD_REVISION, HEAD_REVISION, None
