"""If these fail, what a user of a released version has on disk can no longer be upgraded, merged, read or used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cardlab.calibrate.service import fit_store
from cardlab.core.records.measurement import RunKind
from cardlab.db import open_store
from cardlab.db.bundle import export_bundle, merge_bundle
from cardlab.db.check import check
from cardlab.db.migrate import upgrade_existing
from cardlab.db.schema import HEAD_REVISION, KNOWN_REVISIONS
from tests import records
from tests.cli.run import command

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
RUN = "0123456789abcdef0123456789abcdef"
# The head is released, and gets its golden database, when the next revision is begun.
RELEASED = tuple(r for r in KNOWN_REVISIONS if r != HEAD_REVISION)
EVERY_KIND = GOLDEN / "v0_1_0_every_kind.db"
BUNDLE = GOLDEN / "v0_1_0_every_kind.cardlab"
PARTIES = ("--server", "server", "--device", "orin-1", "--device", "nano-1", "--device", "orin-2")
ASKED = (*PARTIES, "--uplink-mbps", "50", "--downlink-mbps", "100")


def test_every_released_schema_has_a_golden_database() -> None:
    assert {r for r in RELEASED if not (GOLDEN / f"{r}.db").exists()} == set()
    assert RELEASED == ("v0_1_0",)


@pytest.mark.parametrize("revision", RELEASED)
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


@pytest.fixture
def upgraded(tmp_path: Path) -> Path:
    """The 0.1.0 database that holds a run of every kind, upgraded."""
    path = tmp_path / "every.db"
    shutil.copy(EVERY_KIND, path)
    upgrade_existing(path)
    return path


def _planned(path: Path) -> dict[str, object]:
    found = command("card", "plan", "--from-db", *ASKED, "--db", str(path), "--json")
    assert found.code == 0, found.err
    rounds = found.document["rounds"][0]["devices"]
    assert isinstance(rounds, list)
    return {d["device"]: d for d in rounds}


def test_every_kind_of_run_keeps_what_others_compute_with(upgraded: Path) -> None:
    with open_store(upgraded, create=False) as store:
        # Release 0.1.0 rehearsed nothing.
        assert {s.kind for s in store.runs.summaries()} == set(RunKind) - {RunKind.REHEARSAL}
        server = next(p for p in store.runs.select() if p.run.device.name == "server")
        assert server.run.offered_hz is not None and len(server.run.offered_hz) == 156
        assert server.run.device.power_limit_w == 160.0 and server.run.memory_budget_bytes == 16 * 2**30
        best = server.best_point
        assert best is not None and best.operating is not None and best.operating.cores_active == 4352
        power = best.total_power()
        assert power is not None and power.rail == "board" and power.meter is not None and power.meter.total
        assert power.meter.quantisation_w == 0.01 and power.meter.source == "simulated sensor"
        [codecs] = store.runs.select(kind=RunKind.CODEC)
        costs = [m.codec for p in codecs.points for m in p.measurements]
        assert all(c is not None for c in costs) and {c.cut for c in costs if c} == {1, 2, 3}
        first = next(c for c in costs if c and c.codec == "none" and c.tensor == "activation" and c.cut == 1)
        assert (first.values, first.encoded_bytes) == (2048, 8192)
        assert first.encode_s == pytest.approx(8.963e-6, rel=1e-3)
        [accuracy] = [s.fit for s in store.fits.newest(quantity="accuracy")]
        assert accuracy.cut == 2 and accuracy.segment is None
        [link] = store.links.all()
        assert link.uplink_range_bps == pytest.approx((833493104.0, 3381172571.0), rel=1e-6)
        [train] = store.runs.select(kind=RunKind.TRAIN)
        rounds = store.rounds.of_run(train.run.uid)
        assert [r.number for r in rounds] == [1, 1, 2, 2] and all(r.up_bytes == 8320 for r in rounds)
        assert all(len(r.losses) == 1 and r.codec == "none" and r.elapsed_s for r in rounds)
        assert check(store) == ()
        # 0.1.0 kept what each constant's uncertainty costs under another key.
        named = [set(plan.uncertainty) for plan in store.plans.all()]
        assert [bool(names) for names in named] == [True, True, False, True]
        assert all("server waiting power" in names for names in named if names)


def test_it_is_fitted_and_planned_as_before_and_reported_from(upgraded: Path, tmp_path: Path) -> None:
    asked = json.loads((GOLDEN / "v0_1_0_every_kind_plan.json").read_text())["rounds"][0]["devices"]
    planned = _planned(upgraded)
    for old in asked:
        new = planned[old["device"]]
        assert isinstance(new, dict)
        for key in ("cut", "frequency_hz", "delay_s", "server_energy_j", "device_energy_j", "cost"):
            assert new[key] == pytest.approx(old[key], rel=1e-9), (old["device"], key)
    assert command("calibrate", "fit", "--db", str(upgraded), "--json").code == 0
    meter = command("calibrate", "show", "--device", "server", "--db", str(upgraded), "--json")
    assert meter.code == 0
    for words in (("calibrate", "report"), ("card", "report")):
        page = tmp_path / f"{words[0]}.html"
        done = command(*words, "--db", str(upgraded), "--out", str(page))
        assert done.code == 0 and page.stat().st_size > 10_000, done.err
    assert command("card", "validate", "--db", str(upgraded), "--json").code == 0


def test_its_bundle_merges_to_the_same_database(upgraded: Path, tmp_path: Path) -> None:
    with open_store(tmp_path / "home.db") as home:
        merged = merge_bundle(home, BUNDLE)
        assert merged.added["run"] == 11 and check(home) == ()
        assert not merge_bundle(home, BUNDLE).added
        export_bundle(home, tmp_path / "new.cardlab")
    with open_store(upgraded, create=False) as store:
        # The same rows under the same uids: nothing is new, nothing conflicts.
        assert not merge_bundle(store, tmp_path / "new.cardlab").added
    assert _planned(tmp_path / "home.db") == _planned(upgraded)


def test_a_plan_without_the_offered_frequencies_is_refused(upgraded: Path) -> None:
    """W1: at an unknown frequency a law was evaluated at 1 Hz, and the plan said 9 kJ with certainty 100 %."""
    import sqlite3

    with sqlite3.connect(upgraded) as connection:
        connection.execute("UPDATE run SET offered_hz = NULL")
    refused = command("card", "plan", "--from-db", *ASKED, "--db", str(upgraded))
    refused.failed_in_one_line(1, "offered", "profile-device")
