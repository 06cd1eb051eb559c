"""If these fail, what differs between runs of one point is lost, or a device that was renamed becomes two curves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cardlab.calibrate.service import fit_store, gather
from cardlab.core.records.measurement import PlannedPoint
from cardlab.db import open_store
from cardlab.db.store import Store
from tests import records
from tests.cli.run import command

HZ = (0.6e9, 0.9e9, 1.2e9, 1.5e9)
AT = "2026-11-22T00:00:00.000000Z"


def add_run(store: Store, factor: float, name: str = "bench-1", contended: bool = False) -> None:
    """A sweep whose latencies are `factor` times 1e7 / f."""
    planned = tuple(PlannedPoint(index=i, requested_hz=f) for i, f in enumerate(HZ))
    run = records.run(device=replace(records.DEVICE, name=name), planned=planned)
    store.runs.begin(run)
    for p, hz in zip(planned, HZ, strict=True):
        uid = store.runs.begin_point(run.uid, p)
        store.runs.add(uid, records.latency("layer", "forward", factor * 1e7 / hz))
        store.runs.finish_point(uid, replace(records.operating(hz), contended=contended))


def test_two_runs_tell_how_far_runs_lie_apart(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        add_run(store, 1.0)
        assert {(f.runs, f.run_spread) for f in fit_store(store, created_at=AT)} == {(1, None)}
        add_run(store, 1.02)
        fit = next(f for f in fit_store(store, created_at="2026-11-23T00:00:00.000000Z") if f.selected)
        # Two runs 2 % apart: each deviates by 1 % / 1.01, so the standard deviation is sqrt(2) times that.
        assert fit.runs == 2 and fit.run_spread == pytest.approx(2**0.5 * 0.01 / 1.01, rel=1e-6)
        assert next(s.fit for s in store.fits.newest(selected_only=True)).run_spread == fit.run_spread


def test_a_renamed_device_is_one_subject(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        add_run(store, 1.0, "before")
        add_run(store, 1.0, "after")
        [group] = gather(store)
        assert len(group.readings) == 2 * len(HZ) and group.subject.device_name == "after"


def test_contended_points_are_told(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        add_run(store, 1.0, contended=True)
        fits = fit_store(store, created_at=AT)
        assert all(any("4 of 4 points were contended" in w for w in f.warnings) for f in fits)


@pytest.mark.parametrize(("factor", "told"), [(1.02, False), (1.2, True)])
def test_runs_of_two_states_are_told(tmp_path: Path, factor: float, told: bool) -> None:
    """A driver, a fan or a power mode changed in between: the mean of both is of no machine that there is."""
    with open_store(tmp_path / "x.db") as store:
        add_run(store, 1.0)
        add_run(store, factor)
        fits = fit_store(store, created_at=AT)
    assert all(any("its 2 runs differ by" in w for w in f.warnings) is told for f in fits)


def test_a_named_law_is_fitted_to_what_it_is_a_law_of(tmp_path: Path, database: Path) -> None:
    """If this fails, no law of power can be chosen for a device whose times were measured too."""
    sweep = tmp_path / "sweep.csv"
    rows = (f"{mhz},{20 + 3e-8 * mhz**3},{100 / mhz}" for mhz in range(400, 1601, 200))
    sweep.write_text("frequency_mhz,power_w,latency_s\n" + "\n".join(rows))
    db = ("--db", str(database))
    assert command("calibrate", "import", str(sweep), "--device", "card", *db).code == 0
    assert command("calibrate", "fit", *db).code == 0
    named = command("calibrate", "fit", "--law", "static_cubic", *db, "--json").document
    assert {(fit["quantity"], fit["law"]) for fit in named["fits"]} == {("power", "static_cubic")}
    assert named["notes"] == ["static_cubic is no law of latency, which keeps the fits it had"]
    command("calibrate", "fit", "--law", "square", *db).failed_in_one_line(2, "no law 'square'")
