"""A bundle brings a board's measurements home: whole, in any order, any number of times, or not at all."""

from __future__ import annotations

import itertools
import json
import random
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from cardlab.calibrate.service import fit_store
from cardlab.card import load_scenario, solve
from cardlab.core.errors import StoreError
from cardlab.core.identity import new_uid
from cardlab.core.records.device import Device
from cardlab.core.records.link import Link
from cardlab.core.records.measurement import PlannedPoint, RunKind
from cardlab.core.records.training import TrainPhase, TrainQuality, TrainRound
from cardlab.db import open_store
from cardlab.db.bundle import BLOBS, MANIFEST, export_bundle, merge_bundle
from cardlab.db.schema import Base
from tests import records


def make_board(path: Path, number: int) -> Path:
    """A database of one board with a fitted sweep, a link, a plan and a round of a split run, as a bundle."""
    device = replace(records.DEVICE, key=f"jetson:{number:04d}", name=f"board-{number}")
    clocks = [0.4e9, 0.7e9, 1.0e9, 1.3e9]
    planned = tuple(PlannedPoint(index=i, requested_hz=f) for i, f in enumerate(clocks))
    run = records.run(device=device, planned=planned, started_at=f"2026-11-21T10:{number:02d}:00.000000Z")
    with open_store(path / f"{number}.db") as store:
        store.runs.begin(run)
        for p, clock in zip(planned, clocks, strict=True):
            point = store.runs.begin_point(run.uid, p)
            store.runs.add(point, records.latency("layer", "forward", 1e7 * (number + 1) / clock))
            state = replace(records.OPERATING, frequency_hz=clock)
            store.runs.finish_point(point, state, records.power(3.0 + 5.0 * (clock / 1e9) ** 3))
        fit_store(store, created_at="2026-11-21T11:00:00.000000Z")
        store.links.add(link(number))
        made = store.plans.add(solve(load_scenario("card-letter")), f"2026-11-21T11:{number:02d}:00.000000Z")
        trained = records.run(device=device, kind=RunKind.TRAIN, planned=(), analysis=None)
        store.runs.begin(trained)
        store.rounds.add(train_round(trained.uid, made.uid, device, number))
        store.rounds.judge(
            TrainQuality(
                uid=f"judged-{number}",
                run=trained.uid,
                device=device,
                number=1,
                cut=2,
                loss=2.5,
                tokens=100,
                correct=40,
                elapsed_s=0.5,
                up_bytes=4096,
            )
        )
        export_bundle(store, path / f"{number}.bundle")
    return path / f"{number}.bundle"


def link(number: int) -> Link:
    return Link(
        uid=new_uid(),
        name=f"link-{number}",
        uplink_bps=1e7 + number,
        downlink_bps=2e7,
        rtt_s=0.02,
        provenance=records.MEASURED,
        measured_at="2026-11-21T10:30:00.000000Z",
        uplink_range_bps=(0.9e7, 1.1e7),
    )


def train_round(run: str, plan: str | None, device: Device, number: int) -> TrainRound:
    return TrainRound(
        uid=new_uid(),
        run=run,
        plan=plan,
        device=device,
        number=1,
        cut=2,
        frequency_hz=None,
        loss=5.0,
        delay_s=0.3 + number,
        energy_j=None,
        phases=(TrainPhase(term="device", observed_s=0.1 + number, predicted_s=0.1, predicted_ci95=(0.09, 0.11)),),
        losses=(5.5, 4.5),
        up_bytes=8192,
    )


def content(path: Path, scratch: Path) -> dict[str, list[str]]:
    """Every row of a database, independent of integer keys and insertion order; numbers packed in blobs as they are."""
    with open_store(path, create=False) as store:
        export_bundle(store, scratch)
    with zipfile.ZipFile(scratch) as bundle:
        blobs = bundle.read(BLOBS)
        tables = {name.removesuffix(".jsonl"): bundle.read(name).decode() for name in bundle.namelist()[:-2]}
    packed = {t.name: [c.name for c in t.c if isinstance(c.type, sa.LargeBinary)] for t in Base.metadata.sorted_tables}
    found = {}
    for name, text in tables.items():
        rows = [json.loads(line) for line in text.splitlines()]
        for row in rows:
            for column in packed[name]:
                start, size = row[column]
                row[column] = blobs[start : start + size].hex()
        found[name] = sorted(json.dumps(row, sort_keys=True) for row in rows)
    assert set(found) == set(packed), "a table is left out"
    return found


def test_a_merge_brings_profiles_samples_and_fits(tmp_path: Path) -> None:
    bundle = make_board(tmp_path, 1)
    with open_store(tmp_path / "home.db") as store:
        merged = merge_bundle(store, bundle)
    assert merged.added["run"] == 2 and merged.added["point"] == 4 and merged.added["fit"] > 2
    home = content(tmp_path / "home.db", tmp_path / "a")
    assert home == content(tmp_path / "1.db", tmp_path / "b")
    # Plans, links and rounds too: what is compared is there.
    empty = {name for name, rows in home.items() if not rows}
    assert empty == {"codec_cost", "plan_input"}


@pytest.mark.parametrize("table", ["link", "plan", "train_round", "train_phase", "fit", "measurement", "sample_block"])
def test_a_database_that_differs_in_one_value_is_not_equal(tmp_path: Path, table: str) -> None:
    """What the comparison above can see: one value of one row of each kind."""
    make_board(tmp_path, 1)
    column = {
        "link": "rtt_s = 0.03",
        "plan": "created_at = '2026-01-01T00:00:00.000000Z'",
        "train_round": "loss = 5.1",
        "train_phase": "predicted_s = 0.2",
        "fit": "created_at = '2026-01-01T00:00:00.000000Z'",
        "measurement": "value = value * 2",
        "sample_block": "data = zeroblob(length(data))",
    }[table]
    before = content(tmp_path / "1.db", tmp_path / "a")
    with open_store(tmp_path / "1.db") as store, store.connection(write=True) as connection:
        connection.exec_driver_sql(f"UPDATE {table} SET {column} WHERE id = (SELECT max(id) FROM {table})")
    after = content(tmp_path / "1.db", tmp_path / "b")
    assert {name for name in before if before[name] != after[name]} == {table}


def test_order_and_repetition_do_not_matter(tmp_path: Path) -> None:
    bundles = [make_board(tmp_path, n) for n in range(5)]
    contents = []
    for name, seed in (("one.db", 1), ("two.db", 2)):
        order = list(bundles)
        random.Random(seed).shuffle(order)
        with open_store(tmp_path / name) as store:
            for bundle in itertools.chain(order, order[:2]):
                merge_bundle(store, bundle)
            again = [merge_bundle(store, bundle) for bundle in order]
        assert all(not m.added for m in again)
        contents.append(content(tmp_path / name, tmp_path / "scratch"))
    assert contents[0] == contents[1]
    lengths = {name: len(rows) for name, rows in contents[0].items()}
    assert (lengths["run"], lengths["task"], lengths["link"], lengths["plan"], lengths["train_round"]) == (
        10,
        1,
        5,
        5,
        5,
    )


@pytest.mark.accept
def test_twenty_bundles_in_two_orders(tmp_path: Path) -> None:
    bundles = [make_board(tmp_path, n) for n in range(20)]
    found = []
    for seed in (3, 4):
        order = list(bundles)
        random.Random(seed).shuffle(order)
        with open_store(tmp_path / f"{seed}.merged") as store:
            for bundle in order:
                merge_bundle(store, bundle)
        found.append(content(tmp_path / f"{seed}.merged", tmp_path / "scratch"))
    assert found[0] == found[1]
    print(f"20 bundles in two random orders: equal content, {sum(map(len, found[0].values()))} rows")


def test_equal_databases_make_equal_bundles(tmp_path: Path) -> None:
    bundle = make_board(tmp_path, 3)
    with open_store(tmp_path / "3.db", create=False) as store:
        export_bundle(store, tmp_path / "again")
    assert bundle.read_bytes() == (tmp_path / "again").read_bytes()


def _rewritten(source: Path, target: Path, **changes: bytes) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, changes.get(name.replace(".", "_"), old.read(name)))
    return target


def _refused(tmp_path: Path, bundle: Path, *words: str) -> None:
    with open_store(tmp_path / "home.db") as store:
        with pytest.raises(StoreError) as caught:
            merge_bundle(store, bundle)
        assert store.runs.summaries() == ()
    for word in words:
        assert word in str(caught.value)


def test_damage_is_named_and_nothing_is_merged(tmp_path: Path) -> None:
    bundle = make_board(tmp_path, 1)
    whole = bundle.read_bytes()
    cut = tmp_path / "cut"
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:size])
        _refused(tmp_path, cut, "no whole bundle")
    _refused(tmp_path, tmp_path / "absent", "cannot be read")
    wrong = _rewritten(bundle, tmp_path / "wrong", run_jsonl=b"{}\n")
    _refused(tmp_path, wrong, "checksum of run.jsonl")
    newer = json.dumps({"format": "cardlab-bundle", "version": 99, "files": {}}).encode()
    _refused(tmp_path, _rewritten(bundle, tmp_path / "newer", manifest_json=newer), "version 99", "newer cardlab")
    foreign = json.dumps({"format": "holiday photos"}).encode()
    _refused(tmp_path, _rewritten(bundle, tmp_path / "foreign", manifest_json=foreign), "no cardlab bundle")
    _refused(tmp_path, _rewritten(bundle, tmp_path / "torn", manifest_json=b"{"), "damaged manifest")


def test_a_conflict_is_named_and_nothing_is_merged(tmp_path: Path) -> None:
    bundle = make_board(tmp_path, 1)
    other = make_board(tmp_path, 2)
    with open_store(tmp_path / "home.db") as store:
        merge_bundle(store, bundle)
        with store.connection(write=True) as connection:
            connection.exec_driver_sql("UPDATE measurement SET value = value * 2")
        with pytest.raises(StoreError, match="measurement .* another value"):
            merge_bundle(store, bundle)
        assert merge_bundle(store, other).added["run"] == 2


def test_an_export_that_fails_leaves_no_half_file(tmp_path: Path) -> None:
    make_board(tmp_path, 1)
    with open_store(tmp_path / "1.db", create=False) as store, pytest.raises(StoreError, match="cannot be written"):
        export_bundle(store, tmp_path / "no" / "such" / "folder")
    assert not list(tmp_path.glob("*.part"))
    assert {BLOBS, MANIFEST} <= set(zipfile.ZipFile(tmp_path / "1.bundle").namelist())
