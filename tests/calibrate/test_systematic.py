"""What a sensor is off by does not shrink with samples: it stands beside the statistical error and reaches the plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from cardlab.calibrate.report_text import fit_report
from cardlab.calibrate.service import fit_store
from cardlab.card.problem.from_db import Request, gather
from cardlab.core.records.measurement import Measurement
from cardlab.db import open_store
from cardlab.db.store import Store
from cardlab.profilers.board.ina3221 import systematic
from cardlab.profilers.measure.window import measure
from cardlab.reports.views.profile import profile_document
from tests import records
from tests.card import database
from tests.fakes.nvml.card import FakeCard


@pytest.fixture
def store() -> Iterator[Store]:
    with open_store(":memory:") as opened:
        yield opened


def measured_with(monkeypatch: pytest.MonkeyPatch, store: Store, systematic: float | None) -> None:
    """A server whose powers were read by a sensor of that class, and a board."""
    made = records.power

    def off(*given: object, **more: object) -> Measurement:
        found = made(*given, **more)  # type: ignore[arg-type]
        assert found.meter is not None
        return replace(found, meter=replace(found.meter, systematic=systematic))

    monkeypatch.setattr(records, "power", off)
    database.add_server(store)
    database.add_device(store)


def test_an_uncalibrated_sensor_widens_the_energy_of_a_plan_and_not_the_statistical_error(
    monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    measured_with(monkeypatch, store, 0.05)
    [power] = [
        s.fit for s in store.fits.newest(selected_only=True) if (s.fit.quantity, s.fit.rail) == ("power", "board")
    ]
    assert power.meter_systematic == 0.05 and "meter 5 %" in "\n".join(fit_report(power))
    at = power.predict(1.5e9)
    assert at.stderr is not None and at.stderr < 0.01 * at.value, "kept apart"
    sources = {s.name for s in gather(store, Request(uplink_bps=5e7, downlink_bps=1e8)).uncertainty.sources}
    assert "server power meter" in sources
    profile = store.runs.select(device=database.SERVER.key)[0]
    assert {p["meter_systematic"] for p in profile_document(profile)["points"]} == {0.05}


def test_a_simulated_meter_has_none(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    measured_with(monkeypatch, store, None)
    assert {s.fit.meter_systematic for s in store.fits.newest()} == {None}


@pytest.mark.once
def test_points_of_one_curve_carry_the_largest(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    measured_with(monkeypatch, store, 0.01)
    monkeypatch.undo()
    with monkeypatch.context() as other:
        measured_with(other, store, 0.03)
    fit_store(store, created_at="2026-11-22T10:10:00.000000Z")
    found = {s.fit.meter_systematic for s in store.fits.newest(selected_only=True) if s.fit.quantity == "power"}
    assert found == {0.03}


def test_a_card_that_nobody_held_against_a_meter_is_off_by_five_per_cent(fake_card: FakeCard) -> None:
    reading = measure(fake_card.platform(), fake_card.work())
    assert {trace.systematic for trace in reading.traces.values()} == {0.05}


def test_a_monitor_is_off_by_more_where_little_flows() -> None:
    """5 V over 5 mOhm: steps of 8 mA, 0.04 W; an offset of two of them is 4 % of 2 W."""
    assert systematic(2.0, 0.04) == pytest.approx((0.04**2 + 2 * 0.0025**2 + 0.01**2) ** 0.5 / 3**0.5)
    assert systematic(20.0, 0.04) == pytest.approx(0.0065, abs=2e-4)
    assert systematic(None, 0.04) is None and systematic(0.0, 0.04) is None
    assert systematic(10.0, None) == pytest.approx(0.013, abs=5e-4)
