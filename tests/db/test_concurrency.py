"""If these fail, boards that write at once lose or double measurements, or keep a planner waiting."""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest

from cardlab.db import open_store
from cardlab.db.check import check
from tests import records
from tests.db.test_bundle import make_board
from tests.db.writers import merge, write

pytestmark = pytest.mark.once

LONGEST_READ_S = 1.0


def started(target: Callable[..., None], *arguments: tuple[object, ...]) -> list[SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=target, args=each) for each in arguments]
    for process in processes:
        process.start()
    return processes


def longest_read_s(location: str, processes: list[SpawnProcess]) -> float:
    """The longest a planner's reading took while the writers were at it."""
    longest_s = 0.0
    # A collection of all that the tests have loaded takes a second itself.
    gc.disable()
    try:
        with open_store(location) as store:
            while any(process.is_alive() for process in processes):
                begin = time.perf_counter()
                store.runs.summaries()
                store.fits.newest()
                longest_s = max(longest_s, time.perf_counter() - begin)
                time.sleep(0.05)
    finally:
        gc.enable()
    return longest_s


@pytest.mark.alone
@pytest.mark.parametrize(
    ("writers", "count"),
    [pytest.param(4, 60, id="sample"), pytest.param(8, 2000, id="full", marks=pytest.mark.accept)],
)
def test_writers_at_once_lose_nothing_and_block_no_reader(any_database: str, writers: int, count: int) -> None:
    start = time.time() + 3.0
    begin = time.perf_counter()
    processes = started(write, *((any_database, n, count, start) for n in range(writers)))
    waited_s = longest_read_s(any_database, processes)
    took_s = time.perf_counter() - begin
    assert [process.exitcode for process in processes] == [0] * writers
    with open_store(any_database, create=False) as store:
        assert len(store.runs.summaries()) == writers
        for n in range(writers):
            profile = store.runs.get(f"{n:032x}")
            assert profile.complete and profile.run.device == records.DEVICE
            values = sorted(m.estimate.value for m in profile.points[0].measurements)
            assert values == [1.0 + i for i in range(count)], "lost or doubled"
        if count < 1000:
            assert check(store) == ()
    print(
        f"{writers} writers x {count} on {any_database.split(':')[0][-10:]}: all rows once, {took_s:.0f} s,"
        f" longest read {waited_s:.2f} s"
    )
    assert waited_s < LONGEST_READ_S


def test_the_same_bundle_merged_by_several_at_once_is_there_once(any_database: str, tmp_path: Path) -> None:
    bundle = make_board(tmp_path, 7)
    start = time.time() + 2.0
    processes = started(merge, *((any_database, str(bundle), start) for _ in range(4)))
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    with open_store(any_database, create=False) as store:
        assert len(store.runs.summaries()) == 2
        assert check(store) == ()
