"""Opening a database: path or URL to engine, pragmas, schema version, errors in words.

SQLite runs in WAL mode with foreign keys on. A writing transaction takes its lock at BEGIN
(`BEGIN IMMEDIATE`): a reader that turns writer in mid-transaction would fail at once instead of
waiting out the busy timeout.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from cardlab.core.errors import (
    MissingDependencyError,
    NotFoundError,
    SchemaTooNewError,
    SchemaTooOldError,
    StoreError,
)
from cardlab.db.filesystem import check_folder
from cardlab.db.schema import HEAD_REVISION, KNOWN_REVISIONS, Base

# The drivers that the schema, its migrations and the tests know.
DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql+psycopg")
_POSTGRESQL = "postgresql+psycopg://USER@HOST/NAME"
# Merging a large bundle holds the write lock for seconds. A sweep that waits for it loses nothing; one that
# fails loses its point.
BUSY_TIMEOUT_S = 30.0
# Any fixed number: it names the lock among all programs of a PostgreSQL database ("cardlab" in ASCII).
_ADVISORY_LOCK = 0x636172646C6162


def database_url(location: str | Path) -> URL:
    """The SQLAlchemy URL of a path or URL; a path means SQLite.

    Raises StoreError if the text looks like a URL and is none.
    """
    text = str(location)
    if text == ":memory:":
        return URL.create("sqlite")
    if "://" not in text:
        # Absolute, so that a later change of the working folder does not lead to another file.
        return URL.create("sqlite", database=str(Path(text).expanduser().absolute()))
    try:
        url = make_url(text)
    except ArgumentError as error:
        # A password may stand in it.
        raise StoreError("that is not a database URL", remedy=f"give a path, or {_POSTGRESQL}") from error
    if url.drivername in DRIVERS:
        return url
    scheme = text.partition("://")[0]
    if url.get_backend_name() in ("postgres", "postgresql"):
        raise StoreError(f"databases are not opened by {scheme}://", remedy=f"write {_POSTGRESQL}")
    raise StoreError(f"{scheme}:// is no database of cardlab", remedy=f"give a path (SQLite), or {_POSTGRESQL}")


def connect(location: str | Path, *, create: bool) -> Engine:
    """An engine on a database of this version's schema; a missing one is made if `create`.

    Raises StoreError and its kinds: unreadable, no database, older or newer schema.
    """
    url = database_url(location)
    is_sqlite = url.get_backend_name() == "sqlite"
    if is_sqlite:
        _check_file(url, create)
        url = _readable_anyway(url)
    engine = _engine(url)
    if is_sqlite:
        _install_sqlite(engine)
    with translated(location):
        _prepare_schema(engine, location, create)
    return engine


def migration_engine(location: str | Path) -> Engine:
    """An engine of any schema whose whole migration is one transaction; references are not enforced meanwhile."""
    url = database_url(location)
    engine = _engine(url)
    if url.get_backend_name() == "sqlite":
        # To change a table SQLite drops it and puts its copy in place, which an enforced reference would
        # refuse.
        _install_sqlite(engine, foreign_keys=False)
    return engine.execution_options(cardlab_write=True)


def write_session(engine: Engine) -> Session:
    """A session whose transaction writes; committed by `with session.begin()`."""
    # Rows are still read after the commit; expired ones would be fetched again one by one.
    return Session(engine.execution_options(cardlab_write=True), expire_on_commit=False)


def read_session(engine: Engine) -> Session:
    """A session that only reads."""
    return Session(engine, expire_on_commit=False)


@contextlib.contextmanager
def translated(location: str | Path) -> Iterator[None]:
    """Turn driver errors inside the block into one StoreError with a remedy."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise _in_words(error, location) from error


def _engine(url: URL) -> Engine:
    try:
        if url.get_backend_name() == "sqlite" and url.database is None:
            # Each connection to a memory database would be another database: all of this engine share one.
            return sa.create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
        return sa.create_engine(url)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise MissingDependencyError(
            f"no driver for {url.drivername} databases",
            remedy="install it with: pip install 'cardlab[postgres]'",
        ) from error


def _check_file(url: URL, create: bool) -> None:
    if url.database in (None, "", ":memory:"):
        return
    path = Path(str(url.database))
    if path.is_dir():
        raise StoreError(f"{path} is a folder", remedy="name a database file with --db")
    if not path.exists():
        if not create:
            raise NotFoundError(
                f"there is no database at {path}",
                remedy="measure something first with profile-device, or name another file with --db",
            )
        # SQLite makes a missing file but no folder, and its own message does not say which of them it lacks.
        if not path.parent.is_dir():
            raise StoreError(f"the folder {path.parent} does not exist", remedy="create it or name another with --db")
    check_folder(path.parent)


def _readable_anyway(url: URL) -> URL:
    """A WAL database in a folder one may not write cannot make its shared memory: open it unchanging."""
    path = Path(str(url.database))
    journal = path.with_name(path.name + "-wal")
    if not path.exists() or os.access(path.parent, os.W_OK):
        return url
    # The journal holds what the file does not have yet: opened as unchanging, the newest rows would be missing.
    if journal.exists() and journal.stat().st_size > 0:
        return url
    return url.set(database=f"file:{quote(str(path))}", query={"uri": "true", "mode": "ro", "immutable": "1"})


def _install_sqlite(engine: Engine, *, foreign_keys: bool = True) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, _record: Any) -> None:
        # Else the driver begins transactions by itself: too late for BEGIN IMMEDIATE, and never before a CREATE
        # TABLE.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
        # Off by default in SQLite, and a matter of each connection.
        connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
        # With NORMAL a WAL database may lose its last commits when the power fails; a finished point has to
        # stay.
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("cardlab_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _prepare_schema(engine: Engine, location: str | Path, create: bool) -> None:
    revision = _revision(engine)
    if revision is None and create:
        _set_journal(engine)
        with engine.execution_options(cardlab_write=True).begin() as connection:
            lock_exclusively(connection)
            # Another process may have created it between the look and the lock.
            if _revision_on(connection) is None:
                _refuse_foreign(connection, location)
                _create_all(connection)
        revision = _revision(engine)
    if revision is None:
        raise StoreError(f"{_shown(location)} is not a cardlab database", remedy="name another file with --db")
    if revision == HEAD_REVISION:
        return
    if revision in KNOWN_REVISIONS:
        raise SchemaTooOldError(
            f"{_shown(location)} has the older schema {revision}",
            remedy=f"upgrade it with: cardlab db upgrade --db {_shown(location)}",
        )
    raise SchemaTooNewError(
        f"{_shown(location)} has schema {revision}, this version knows {HEAD_REVISION}",
        remedy=f"install the cardlab release that wrote it ({revision.replace('_', '.')} or later)",
    )


def lock_exclusively(connection: Connection) -> None:
    """Keep other schema changes and merges out until the transaction ends; on SQLite any write does that."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")


def _set_journal(engine: Engine) -> None:
    """WAL stays with the file; it is set once, when the file is made, and outside any transaction."""
    if engine.dialect.name == "sqlite":
        connection = engine.raw_connection()
        try:
            connection.cursor().execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()


def _revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return _revision_on(connection)


def _revision_on(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first()
    return None if row is None else str(row[0])


def _refuse_foreign(connection: Connection, location: str | Path) -> None:
    names = sa.inspect(connection).get_table_names()
    if names:
        raise StoreError(
            f"{_shown(location)} is a database of another program (table {names[0]!r})",
            remedy="name another file with --db",
        )


def _create_all(connection: Connection) -> None:
    Base.metadata.create_all(connection)
    # As Alembic itself would make it, so that an upgrade finds its starting point. Alembic is not asked to:
    # importing it takes a second, which every first use would pay.
    connection.exec_driver_sql(
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL,"
        " CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
    )
    connection.execute(
        sa.text("INSERT INTO alembic_version (version_num) VALUES (:revision)"), {"revision": HEAD_REVISION}
    )


def _shown(location: str | Path) -> str:
    # Messages end in logs, where a password must not.
    text = str(location)
    return make_url(text).render_as_string(hide_password=True) if "://" in text else text


# Drivers share no error codes, so their words are searched. The first that fits counts: what is exact stands
# before a word like "connection", which is part of many messages.
_CAUSES = (
    (
        "readonly database",
        "cannot be written: it is read-only",
        "make it writable or name another file with --db",
    ),
    ("unable to open", "cannot be opened", "check that you may read and write it and its folder"),
    ("not a database", "is not a database file", "name another file with --db"),
    ("malformed", "is damaged", "restore a backup, or merge the bundles again into a new file"),
    ("locked", "is locked by another process", "wait for it to finish, or stop it"),
    (
        "disk is full",
        "cannot grow: the disk is full",
        "free some space and start again; finished points are kept",
    ),
    ("no space left", "cannot grow: the disk is full", "free some space and start again; finished points are kept"),
    ("value too long", "was given a name that is too long", "shorten it to 200 characters (--name, --load-command)"),
    ("no such table", "is not whole: a table is missing", "restore a backup, or merge the bundles again"),
    ("authentication failed", "refuses this user or password", "check user and password in the URL"),
    ("does not exist", "does not exist on the server", "create it with: createdb NAME"),
    ("permission denied", "may not be changed by this user", "ask its owner for the right to write"),
    ("connection", "cannot be reached", "check host, port, user and password in the URL"),
    ("could not translate host", "cannot be reached", "check the host's name in the URL"),
)


def _in_words(error: Exception, location: str | Path) -> StoreError:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    # PostgreSQL adds hints and positions on further lines.
    text = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    for sign, message, remedy in _CAUSES:
        if sign in text.lower():
            return StoreError(f"{_shown(location)} {message}", remedy=remedy)
    return StoreError(f"{_shown(location)}: {text}", remedy="run: cardlab doctor")
