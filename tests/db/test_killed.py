"""If these fail, a power cut in mid-sweep, mid-fit, mid-merge or mid-upgrade costs what was measured."""

from __future__ import annotations

import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cardlab.db import migrate, open_store
from cardlab.db.check import check
from cardlab.db.migrate import upgrade
from cardlab.db.schema import Base
from tests.db import victims
from tests.db.test_bundle import make_board

pytestmark = pytest.mark.once

ROUNDS = 3
FULL = 50


def both_counts(test: Callable[..., None]) -> Callable[..., None]:
    """The test with a sampled count, and with its full one in `make accept`."""
    counts = [pytest.param(ROUNDS, id="sample"), pytest.param(FULL, id="full", marks=pytest.mark.accept)]
    return pytest.mark.parametrize("count", counts)(test)


def whole(path: Path) -> None:
    with open_store(path, create=False) as store:
        assert check(store) == ()


def moments(work: Callable[..., None], path: Path, count: int, seed: int) -> list[float]:
    """Random moments within the time the work takes when nobody kills it."""
    start = time.perf_counter()
    victims.killed(work, path, None)
    took_s = time.perf_counter() - start
    source = random.Random(seed)
    return [source.uniform(0.0, took_s) for _ in range(count)]


@both_counts
def test_sweep_loses_no_point_that_it_reported(count: int, tmp_path: Path) -> None:
    (tmp_path / "trial").mkdir()
    kept = resumed = 0
    for number, after_s in enumerate(moments(victims.sweep, tmp_path / "trial" / "x.db", count, seed=1)):
        path = tmp_path / f"{number}.db"
        said = victims.killed(victims.sweep, path, after_s)
        done = {int(line.split()[1]) for line in said if line.startswith("done")}
        measured = {line.split()[1] for line in said if line.startswith("measured")}
        if path.exists() and any(line.startswith("run") for line in said):
            whole(path)
            with open_store(path, create=False) as store:
                profile = store.runs.latest()
            assert done <= {p.index for p in profile.points if p.done}
            assert measured <= {m.uid for p in profile.points for m in p.measurements}
            kept += len(done)
        victims.killed(victims.sweep, path, None)
        whole(path)
        with open_store(path, create=False) as store:
            runs = store.runs.summaries()
            assert store.runs.latest().complete
            assert all(run.points_done == run.points_planned for run in runs), "--resume left one unfinished"
        resumed += bool(done) and len(runs) == 1
    print(f"{count} sweeps killed: {kept} reported points kept, {resumed} runs gone on with")


@both_counts
def test_fits_are_there_whole_or_not_at_all(count: int, tmp_path: Path) -> None:
    make_board(tmp_path, 1)
    (tmp_path / "trial").mkdir()
    shutil.copy(tmp_path / "1.db", tmp_path / "trial" / "x.db")
    kept = 0
    for number, after_s in enumerate(moments(victims.fit, tmp_path / "trial" / "x.db", count, seed=2)):
        path = tmp_path / f"fit-{number}.db"
        shutil.copy(tmp_path / "1.db", path)
        said = victims.killed(victims.fit, path, after_s)
        whole(path)
        with open_store(path, create=False) as store:
            for line in said:
                assert store.fits.get(line.split()[1]).inputs
        kept += len(said)
    print(f"{count} series of fits killed: {kept} reported fits kept")


@both_counts
def test_merge_is_whole_or_absent_and_a_second_one_completes_it(count: int, tmp_path: Path) -> None:
    for number in range(4):
        make_board(tmp_path, number)
    trial = tmp_path / "trial"
    trial.mkdir()
    for bundle in tmp_path.glob("*.bundle"):
        shutil.copy(bundle, trial)
    for number, after_s in enumerate(moments(victims.merge, trial / "x.db", count, seed=3)):
        path = trial / f"m{number}.db"
        said = victims.killed(victims.merge, path, after_s)
        if path.exists() and said:
            whole(path)
            with open_store(path, create=False) as store:
                runs = store.runs.summaries()
            assert len(runs) >= 2 * len(said)
            assert len(runs) % 2 == 0 and all(run.points_done == run.points_planned for run in runs), "half a bundle"
        victims.killed(victims.merge, path, None)
        whole(path)
        with open_store(path, create=False) as store:
            assert len(store.runs.summaries()) == 8
    print(f"{count} merges of 4 bundles killed: each whole or absent, all complete after the next")


REVISION = """
from alembic import op
import sqlalchemy as sa

revision = "v9_9_9"
down_revision = "v0_2_0"

def upgrade():
    with op.batch_alter_table("measurement") as batch:
        batch.add_column(sa.Column("grade", sa.String(40)))
    op.execute("UPDATE measurement SET grade = 'fine'")
    with op.batch_alter_table("run", recreate="always") as batch:
        batch.add_column(sa.Column("grade", sa.String(40)))
    op.create_table("grade", sa.Column("id", sa.Integer(), primary_key=True))
"""


@pytest.fixture
def next_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The migrations with one more revision, as a later release will have them."""
    folder = tmp_path / "migrations"
    shutil.copytree(Path(migrate.__file__).parent / "migrations", folder)
    (folder / "versions" / "v9_9_9.py").write_text(REVISION)
    monkeypatch.setattr(migrate, "SCRIPTS", str(folder))
    return "v9_9_9"


@both_counts
def test_upgrade_leaves_the_old_schema_or_the_new_one(count: int, tmp_path: Path, next_schema: str) -> None:
    make_board(tmp_path, 1)
    columns = len(Base.metadata.tables["measurement"].columns)

    def work(path: Path, say: victims.Say) -> None:
        say(f"backup {upgrade(path, next_schema)}")

    (tmp_path / "trial").mkdir()
    shutil.copy(tmp_path / "1.db", tmp_path / "trial" / "x.db")
    outcomes = {"old": 0, "new": 0}
    for number, after_s in enumerate(moments(work, tmp_path / "trial" / "x.db", count, seed=4)):
        path = tmp_path / f"u{number}.db"
        shutil.copy(tmp_path / "1.db", path)
        said = victims.killed(work, path, after_s)
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            [(revision,)] = connection.execute("SELECT version_num FROM alembic_version")
            found = connection.execute("PRAGMA table_info(measurement)").fetchall()
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        new = revision == next_schema
        assert len(found) == columns + new, "the schema and its number disagree"
        assert ("grade" in tables) == new
        assert not [name for name in tables if name.startswith("_alembic_tmp")]
        assert new or not said
        outcomes["new" if new else "old"] += 1
        if not new:
            whole(path)
            upgrade(path, next_schema)
        backups = list(tmp_path.glob(f"u{number}.db.backup-*[0-9]"))
        assert backups
        for backup in backups:
            whole(backup)
    print(f"{count} upgrades killed: {outcomes['old']} still old and whole, {outcomes['new']} new")
