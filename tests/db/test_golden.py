"""A database of every released schema can still be upgraded, read and used."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cardlab.calibrate.service import fit_store
from cardlab.db import open_store
from cardlab.db.migrate import upgrade_existing
from cardlab.db.schema import KNOWN_REVISIONS
from tests import records

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
RUN = "0123456789abcdef0123456789abcdef"


def test_every_released_schema_has_a_golden_database() -> None:
    assert {p.stem for p in GOLDEN.glob("*.db")} == set(KNOWN_REVISIONS)


@pytest.mark.parametrize("revision", KNOWN_REVISIONS)
def test_it_is_upgraded_and_then_used(revision: str, tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    shutil.copy(GOLDEN / f"{revision}.db", path)
    upgrade_existing(path)
    with open_store(path, create=False) as store:
        profile = store.runs.get(RUN[:8], samples=True)
        assert profile.complete and len(profile.points) == 5
        assert profile.run.task == records.TASK and profile.run.device == records.DEVICE
        first = profile.points[0].find("latency", "layer", "forward")
        assert first is not None and first.samples["wall_s"][0] == pytest.approx(0.06)
        [power] = [s.fit for s in store.fits.newest(quantity="power", selected_only=True)]
        assert power.predict(1.0e9).value == pytest.approx(50.0, rel=0.01)
        assert power.draws.shape[0] == 200
        assert store.plans.latest().rounds[0].devices[0].device == "agx-orin-1"
        store.runs.begin(records.run())
        assert fit_store(store, created_at="2026-11-22T00:00:00.000000Z")
