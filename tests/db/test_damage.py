"""If these fail, a full disk, a lost file or a bad sector costs more than the one thing that was being written."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cardlab.core.errors import NotFoundError, StoreError
from cardlab.db import open_store
from cardlab.db.bundle import merge_bundle
from cardlab.db.check import check
from tests import records
from tests.cli.run import command
from tests.conftest import missing
from tests.db.test_bundle import make_board

pytestmark = pytest.mark.once


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB; only root may make one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        missing("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(store, wide) -> int:
    """Points finished until the disk was full."""
    finished = 0
    for planned in wide.planned:
        point = store.runs.begin_point(wide.uid, planned)
        store.runs.add(point, *(records.latency("layer", "forward", 1.0 + i) for i in range(40)))
        store.runs.finish_point(point, records.OPERATING)
        finished += 1
    return finished


def test_a_full_disk_keeps_every_finished_point(small_disk: Path) -> None:
    from cardlab.core.records.measurement import PlannedPoint

    wide = records.run(planned=tuple(PlannedPoint(index=i) for i in range(500)))
    with open_store(small_disk / "x.db") as store:
        store.runs.begin(wide)
        with pytest.raises(StoreError, match="disk is full.*finished points are kept"):
            fill(store, wide)
    with open_store(small_disk / "x.db", create=False) as store:
        done = [p for p in store.runs.get(wide.uid).points if p.done]
        assert 1 <= len(done) < 500
        assert all(len(p.measurements) == 40 for p in done)
        assert check(store) == ()


def test_a_bundle_for_a_full_disk_leaves_no_half_file(small_disk: Path, tmp_path: Path) -> None:
    make_board(tmp_path, 1)
    (small_disk / "ballast").write_bytes(b"x" * (2**20 - 8192))
    done = command("calibrate", "export", "--out", str(small_disk / "b.zip"), "--db", str(tmp_path / "1.db"))
    assert done.code == 1
    assert len(done.err.strip().splitlines()) == 1 and "No space left" in done.err
    assert [f.name for f in small_disk.iterdir()] == ["ballast"]


def test_a_removed_file_is_named_and_no_empty_one_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with open_store(path) as store:
        store.runs.begin(records.run())
    path.unlink()
    with pytest.raises(NotFoundError, match="no database at"):
        open_store(path, create=False)
    assert not path.exists()


def test_a_bad_page_is_found_and_named_and_the_rest_is_left_alone(tmp_path: Path) -> None:
    make_board(tmp_path, 1)
    path = tmp_path / "1.db"
    open_store(path, create=False).run_outside_transactions(["PRAGMA wal_checkpoint(TRUNCATE)"])
    data = bytearray(path.read_bytes())
    page = 4096
    for number in range(8, len(data) // page):
        data[number * page : number * page + 64] = b"\xff" * 64
    path.write_bytes(data)
    done = command("cardlab", "db", "check", "--db", str(path))
    assert done.code == 1
    assert "Traceback" not in done.err
    assert done.err.strip().splitlines()[-1].count("restore a backup") == 1
    assert path.read_bytes() == bytes(data), "a check changes nothing"


def test_a_bundle_with_a_hostile_content_harms_nothing(tmp_path: Path) -> None:
    bundle = make_board(tmp_path, 1)
    with zipfile.ZipFile(bundle) as old:
        manifest = json.loads(old.read("manifest.json"))
    hostile = tmp_path / "hostile"
    with zipfile.ZipFile(hostile, "w") as new:
        manifest["files"] = {"../../outside": "0" * 64}
        new.writestr("../../outside", "x")
        new.writestr("manifest.json", json.dumps(manifest))
    with open_store(tmp_path / "home.db") as store, pytest.raises(StoreError, match="checksum"):
        merge_bundle(store, hostile)
    assert not (tmp_path.parent / "outside").exists()


_LARGE = """
import resource, sys, time
from cardlab.cli.main import {entry}
start = time.perf_counter()
code = 0
try:
    {entry}()
except SystemExit as end:
    code = end.code
print("took", time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, code)
"""


def timed(entry: str, *words: str) -> tuple[float, float]:
    """Seconds and peak MiB of one command in a process of its own."""
    line = [sys.executable, "-c", _LARGE.format(entry=entry), *words]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    last = next(text for text in reversed(done.stdout.splitlines()) if text.startswith("took"))
    _, seconds, mib, code = last.split()
    assert code in ("0", "None"), done.stdout + done.stderr
    return float(seconds), float(mib)


@pytest.mark.accept
def test_two_million_samples_slow_nothing_down(tmp_path: Path) -> None:
    from tests.db.large import fill_fleet

    path = str(tmp_path / "large.db")
    samples = fill_fleet(path)
    assert samples >= 2_000_000
    fit_s, fit_mib = timed("calibrate", "fit", "--db", path)
    link = ("--uplink-mbps", "50", "--downlink-mbps", "100")
    plan_s, plan_mib = timed("card", "plan", "--from-db", "--db", path, *link)
    read_s = read_for_fit_s(path)
    # The same fleet without them: what forty boards and two hundred draws cost is not the samples' doing.
    lean = str(shutil.copy(path, tmp_path / "lean.db"))
    with contextlib.closing(sqlite3.connect(lean)) as connection, connection:
        connection.execute("DELETE FROM sample_block")
    lean_s, _ = timed("card", "plan", "--from-db", "--db", lean, *link)
    print(
        f"{samples} samples: calibrate fit reads in {read_s:.2f} s (whole command {fit_s:.1f} s, {fit_mib:.0f} MiB),"
        f" card plan --from-db {plan_s:.2f} s, {plan_mib:.0f} MiB (without the samples {lean_s:.2f} s)"
    )
    assert read_s < 5 and plan_s < 1.3 * lean_s + 0.2
    assert max(fit_mib, plan_mib) < 500


def read_for_fit_s(path: str) -> float:
    """Seconds to gather what a fit needs."""
    import time

    from cardlab.calibrate.service import gather

    start = time.perf_counter()
    with open_store(path, create=False) as store:
        assert gather(store)
    return time.perf_counter() - start
