"""Bad databases are named in one line with the remedy, and never touched."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from cardlab.core.errors import (
    MissingDependencyError,
    NotFoundError,
    SchemaTooNewError,
    SchemaTooOldError,
    StoreError,
)
from cardlab.db import open_store
from cardlab.db.engine import connect
from cardlab.db.migrate import revision_of, upgrade
from cardlab.db.schema import HEAD_REVISION, KNOWN_REVISIONS, Base
from tests import records
from tests.conftest import as_user_without_rights, need


def test_a_new_database_and_a_migrated_one_have_the_same_schema(tmp_path: Path) -> None:
    upgrade(tmp_path / "migrated.db")
    for name in ("migrated.db", "created.db"):
        engine = connect(tmp_path / name, create=True)
        with engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == [], name
        assert revision_of(tmp_path / name) == HEAD_REVISION


def test_the_newest_migration_is_the_head_that_the_code_expects() -> None:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "cardlab.db:migrations")
    script = ScriptDirectory.from_config(config)
    assert script.get_current_head() == HEAD_REVISION
    assert [r.revision for r in script.walk_revisions()][::-1] == list(KNOWN_REVISIONS)


def test_every_constraint_and_index_has_a_name() -> None:
    for table in Base.metadata.tables.values():
        for constraint in table.constraints:
            assert constraint.name, f"{table.name}: unnamed {type(constraint).__name__}"


def test_upgrade_keeps_a_backup_and_the_rows(database: Path) -> None:
    run = records.run()
    with open_store(database) as store:
        store.runs.begin(run)
    backup = upgrade(database)
    assert backup is not None
    for path in (database, backup):
        with open_store(path, create=False) as store:
            assert store.runs.get(run.uid).run == run


def _set_revision(path: Path, revision: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))


def test_a_newer_schema_is_refused_with_the_version_it_needs(database: Path) -> None:
    open_store(database).close()
    _set_revision(database, "v9_2_0")
    with pytest.raises(SchemaTooNewError, match=r"v9\.2\.0 or later"):
        open_store(database)


def test_an_older_schema_is_refused_with_the_command(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(database).close()
    monkeypatch.setattr("cardlab.db.engine.KNOWN_REVISIONS", ("v0_0_9", *KNOWN_REVISIONS))
    _set_revision(database, "v0_0_9")
    with pytest.raises(SchemaTooOldError, match="cardlab db upgrade --db"):
        open_store(database)


def test_reading_does_not_create(database: Path) -> None:
    with pytest.raises(NotFoundError, match="no database at"):
        open_store(database, create=False)
    assert not database.exists()


def test_a_file_of_something_else_is_left_alone(database: Path) -> None:
    database.write_text("precious notes\n" * 100)
    with pytest.raises(StoreError, match="not a database file"):
        open_store(database)
    assert database.read_text().startswith("precious notes")


def test_a_database_of_another_program_is_left_alone(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    with pytest.raises(StoreError, match="another program.*bookmarks"):
        open_store(database)
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("bookmarks",)]


@pytest.mark.parametrize("kind", ["folder", "lost"])
def test_wrong_places_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path if kind == "folder" else tmp_path / "no" / "such" / "x.db"
    with pytest.raises(StoreError, match="is a folder" if kind == "folder" else "does not exist"):
        open_store(path)


def test_a_url_that_is_none_is_named() -> None:
    with pytest.raises(StoreError, match="not a database URL"):
        open_store("://nonsense")


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingDependencyError, match=r"cardlab\[postgres\]"):
        open_store("postgresql+psycopg://host/name")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgres://u:secret@127.0.0.1:5/x", "write postgresql+psycopg://USER@HOST/NAME"),
        ("postgresql://u:secret@127.0.0.1:5/x", "write postgresql+psycopg://USER@HOST/NAME"),
        ("postgresql+psycopg2://u:secret@127.0.0.1:5/x", "write postgresql+psycopg://USER@HOST/NAME"),
        ("mysql://u:secret@127.0.0.1/x", "give a path (SQLite), or postgresql+psycopg://"),
        ("http://u:secret@host/x.db", "give a path (SQLite), or postgresql+psycopg://"),
        ("file:///home/x.db", "give a path (SQLite), or postgresql+psycopg://"),
        ("sqlite+aiosqlite:///x.db", "give a path (SQLite), or postgresql+psycopg://"),
    ],
)
def test_another_url_is_refused_with_the_form_to_write(url: str, words: str) -> None:
    with pytest.raises(StoreError) as caught:
        open_store(url)
    assert words in str(caught.value) and "secret" not in str(caught.value)


# What libraries of the C library's name answer where the file system cannot: locks of NFS, mappings of 9p.
LACKING = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#ifdef LOCKS
static int go(const char *name, int fd, int cmd, void *arg) {
    int (*real)(int, int, ...) = dlsym(RTLD_NEXT, name);
    int sets = cmd == F_SETLK || cmd == F_SETLKW || cmd == F_OFD_SETLK;
    if (sets && ((struct flock *)arg)->l_type != F_UNLCK) { errno = ENOLCK; return -1; }
    return real(fd, cmd, arg);
}
int fcntl(int fd, int cmd, ...) {
    va_list v;
    va_start(v, cmd);
    void *a = va_arg(v, void *);
    va_end(v);
    return go("fcntl", fd, cmd, a);
}
int fcntl64(int fd, int cmd, ...) {
    va_list v;
    va_start(v, cmd);
    void *a = va_arg(v, void *);
    va_end(v);
    return go("fcntl64", fd, cmd, a);
}
#else
void *mmap64(void *a, size_t n, int p, int f, int fd, off_t o) {
    void *(*real)(void *, size_t, int, int, int, off_t) = dlsym(RTLD_NEXT, "mmap64");
    if (fd >= 0 && (f & MAP_SHARED) && (p & PROT_WRITE)) { errno = ENODEV; return MAP_FAILED; }
    return real(a, n, p, f, fd, o);
}
void *mmap(void *a, size_t n, int p, int f, int fd, off_t o) { return mmap64(a, n, p, f, fd, o); }
#endif
"""


@pytest.mark.parametrize(("lacking", "words"), [("LOCKS", "without file locks"), ("MAPS", "without shared mappings")])
def test_a_folder_that_sqlite_cannot_work_in_is_refused_at_once(tmp_path: Path, lacking: str, words: str) -> None:
    need("gcc")
    source, library = tmp_path / "lacking.c", tmp_path / "lacking.so"
    source.write_text(LACKING)
    subprocess.run(["gcc", f"-D{lacking}", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    code = f"from cardlab.db import open_store; open_store({str(tmp_path / 'a.db')!r})"
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, timeout=20, check=False, capture_output=True, text=True
    )
    assert words in done.stderr and "PostgreSQL" in done.stderr, done.stderr
    assert not (tmp_path / "a.db").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_read_only_database_can_be_read_and_says_why_it_cannot_be_written(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        store.runs.begin(records.run())
    (tmp_path / "x.db").chmod(0o444)

    def read_then_write() -> str:
        with open_store(tmp_path / "x.db", create=False) as store:
            count = len(store.runs.summaries())
            try:
                store.runs.begin(records.run())
            except StoreError as error:
                return f"{count} run; {error}"
        return "it could be written"

    text = as_user_without_rights(tmp_path, read_then_write)
    assert text.startswith("1 run;")
    assert "read-only" in text and "--db" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_an_unreadable_database_says_so(tmp_path: Path) -> None:
    open_store(tmp_path / "x.db").close()
    (tmp_path / "x.db").chmod(0o000)

    def read() -> str:
        try:
            open_store(tmp_path / "x.db", create=False)
        except StoreError as error:
            return str(error)
        return "it could be read"

    text = as_user_without_rights(tmp_path, read)
    assert "cannot be opened" in text and "you may read" in text


def test_engine_types_are_those_of_the_migration() -> None:
    assert isinstance(Base.metadata.tables["device"].c.memory_bytes.type, sa.BigInteger)
