"""Makes the golden database of the schema that this checkout has; run once when a schema is released.

    python -m tests.golden.make

A released one is never made again: its file is what users of that release have on disk.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from cardlab.calibrate.service import fit_store
from cardlab.card import load_scenario, solve
from cardlab.core.records.measurement import PlannedPoint
from cardlab.db import open_store
from cardlab.db.schema import HEAD_REVISION
from tests import records

FOLDER = Path(__file__).parent
CLOCKS = (0.4e9, 0.7e9, 1.0e9, 1.3e9, 1.6e9)


def make(path: Path) -> None:
    """One device with a swept, fitted run, and a plan."""
    planned = tuple(PlannedPoint(index=i, requested_hz=f) for i, f in enumerate(CLOCKS))
    run = records.run(uid="0123456789abcdef0123456789abcdef", planned=planned)
    with open_store(path) as store:
        store.runs.begin(run)
        for point, clock in zip(planned, CLOCKS, strict=True):
            uid = store.runs.begin_point(run.uid, point)
            store.runs.add(uid, records.latency("layer", "forward", 0.01 + 2e7 / clock))
            store.runs.finish_point(uid, records.operating(clock), records.power(20.0 + 30e-27 * clock**3))
        fit_store(store, created_at="2026-11-21T12:00:00.000000Z")
        store.plans.add(solve(load_scenario("card-letter")), "2026-11-21T12:30:00.000000Z")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")


if __name__ == "__main__":
    target = FOLDER / f"{HEAD_REVISION}.db"
    if target.exists():
        raise SystemExit(f"{target} is released and stays as it is")
    make(target)
