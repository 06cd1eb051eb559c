"""What the processes of test_concurrency do; a module of its own, which a spawned child finds by its name."""

from __future__ import annotations

import time

from cardlab.db import open_store
from cardlab.db.bundle import merge_bundle
from tests import records


def write(location: str, number: int, count: int, start: float) -> None:
    """One profiler: a run of its own, a measurement a transaction; all describe the same device and task."""
    while time.time() < start:
        time.sleep(0.01)
    run = records.run(uid=f"{number:032x}")
    with open_store(location) as store:
        store.runs.begin(run)
        point = store.runs.begin_point(run.uid, run.planned[0])
        for i in range(count):
            store.runs.add(point, records.latency("layer", "forward", 1.0 + i))
        store.runs.finish_point(point, records.OPERATING)


def merge(location: str, bundle: str, start: float) -> None:
    while time.time() < start:
        time.sleep(0.01)
    with open_store(location) as store:
        merge_bundle(store, bundle)
