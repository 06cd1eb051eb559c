"""What the views say of records whose numbers are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cardlab.core.records.plan import TERMS
from cardlab.core.records.training import Quality
from cardlab.core.tables import Cell
from cardlab.db import open_store
from cardlab.reports.views.decisions import plan_sections
from cardlab.reports.views.device import device_sections
from cardlab.reports.views.fleet import fleet_sections
from cardlab.reports.views.inputs import DeviceData
from cardlab.reports.views.parts import Bars, Chart, Section, Table, pictures
from cardlab.reports.views.points import top_point
from cardlab.reports.views.roofline import reached, roofline
from cardlab.reports.views.run import run_sections
from cardlab.workflows.report_data import fleet_data, split_run
from tests.card import database
from tests.reports import world


@pytest.fixture(scope="module")
def fleet(world_db: Path) -> dict[str, DeviceData]:
    with open_store(world_db, create=False) as store:
        return {d.device.key: d for d in fleet_data(store)}


def chart(sections: tuple[Section, ...], title: str) -> Chart:
    [found] = [p for p in pictures(sections) if p.title.endswith(title)]
    assert isinstance(found, Chart)
    return found


def table(sections: tuple[Section, ...], key: str) -> list[dict[str, object]]:
    [found] = [p for s in sections for p in s.parts if isinstance(p, Table) and p.key.endswith(key)]
    return [dict(zip((c.name for c in found.columns), row, strict=True)) for row in found.rows]


def test_a_power_chart_has_points_law_interval_cubic_best_clock_and_throttled_points(fleet) -> None:
    found = chart(device_sections(fleet[world.SERVER.key]), ": power board")
    series = {s.name: s for s in found.series}
    measured, throttled = series["simulated"], series["simulated, throttled: not fitted"]
    assert len(measured.x) == len(database.MEASURED) - 1 and throttled.x == (database.MEASURED[-1],)
    law = next(s for s in found.series if s.style == "line")
    for x, y in zip(law.x, law.y, strict=True):
        assert y == pytest.approx(database.power_w(x), rel=0.03)
    band, cubic = series["95 % interval of the law"], series["the paper's cubic"]
    assert all(low <= y <= high for low, y, high in zip(band.y, law.y, band.upper, strict=True))
    assert cubic.y[0] < 0.2 * law.y[0]
    [mark] = found.marks
    assert min(law.x) <= mark.x <= max(law.x) and mark.ci95 is not None and mark.ci95[0] <= mark.x <= mark.ci95[1]
    assert "held out" in found.note and "simulated" in found.note


def test_the_law_behind_delta_is_drawn_through_the_points_it_was_measured_at(fleet) -> None:
    """delta = flop / (t f cores), and t = a + b / f: the curve is what the latency's law makes of it."""
    data = fleet[world.SERVER.key]
    found = chart(device_sections(data), ": layer forward delta")
    law, points = found.series
    assert len(points.x) == len(database.MEASURED) - 1
    flop = next(s for s in data.profiles[0].run.analysis.segments if s.segment == "layer").forward_flop
    for hz, delta in zip(points.x, points.y, strict=True):
        _, at = min((abs(x - hz), i) for i, x in enumerate(law.x))
        assert delta == pytest.approx(flop / (database.layer_s(hz) * hz * data.device.cores), rel=0.06)
        assert law.y[at] == pytest.approx(delta, rel=0.06)
    assert "flop / (t f cores)" in found.note
    # Without cores there is no delta, and none is drawn.
    assert not any("delta" in p.title for p in pictures(device_sections(fleet[world.METERLESS.key])))


def test_the_best_clock_is_the_least_of_the_energy_that_is_drawn(fleet) -> None:
    sections = device_sections(fleet[world.SERVER.key])
    energy = chart(sections, "energy of one training step, rail board")
    [line] = energy.series
    least = line.x[min(range(len(line.y)), key=line.y.__getitem__)]
    assert energy.marks[0].x == pytest.approx(least, rel=0.03)
    [row] = table(sections, "least-energy")
    assert row["frequency"] == energy.marks[0].x and row["origin"] == "simulated, derived"


def test_the_roofline_divides_counted_work_by_time_and_its_roofs_touch_the_best_segments(fleet) -> None:
    [profile] = fleet[world.SERVER.key].profiles
    point = top_point(profile)
    assert point is not None and point.operating is not None and point.operating.throttled is False
    assert point.operating.frequency_hz == database.MEASURED[-2]
    found = {r.segment: r for r in reached(profile, point)}
    assert set(found) == {"first_layer", "layer", "head"}
    seconds = point.find("latency", "layer", "forward").estimate.value
    assert found["layer"].intensity == 1e9 / world.TRAFFIC["layer"]
    assert found["layer"].flop_per_s == pytest.approx(1e9 / seconds)
    drawn = roofline(profile, point)
    assert drawn is not None
    roof = next(s for s in drawn.series if s.style == "line")
    assert max(roof.y) == max(r.flop_per_s for r in found.values())
    for r in found.values():
        slope = max(x.bytes_per_s for x in found.values())
        assert r.flop_per_s <= min(max(roof.y), slope * r.intensity) * (1 + 1e-9)
    assert roofline(profile, replace(point, measurements=())) is None


def test_devices_stand_side_by_side_and_what_was_not_measured_is_none(fleet) -> None:
    sections = fleet_sections(list(fleet.values()))
    [side] = [s for s in sections if s.title.startswith("Side by side")]
    bars = {p.key: p for p in side.parts if isinstance(p, Bars)}
    assert len(bars["fleet-step-time"].rows) == 3
    by_name = {r["device"]: r for r in table(sections, side.parts[-1].key)}
    bench, server = by_name["bench"], by_name[world.HOSTILE]
    assert bench["power"] is None and bench["energy of one step"] is None and bench["frequency of least energy"] is None
    assert server["energy of one step"] == pytest.approx(server["power"] * server["one step"])
    seconds = 0.03 * (0.1 + 2.0 + 3 * 2.2 + 2.0)
    assert bench["one step"] == pytest.approx(seconds)
    assert bars["fleet-step-energy"].total(bars["fleet-step-energy"].rows.index("bench")) is None


def test_a_plan_shows_terms_that_add_up_its_front_and_its_baselines(world_db: Path) -> None:
    with open_store(world_db, create=False) as store:
        plan = store.plans.latest()
    sections = plan_sections(plan)
    for row in table(sections, "delay-terms"):
        terms = [value for t in TERMS if isinstance(value := row[t], float)]
        assert len(terms) == len(TERMS) and sum(terms) == pytest.approx(row["delay"])
    trade = chart(sections, "delay against server energy")
    front = next(s for s in trade.series if s.name.startswith("Pareto"))
    assert list(front.y) == sorted(front.y, reverse=True) and list(front.x) == sorted(front.x)
    assert {"server only", "device only"} <= {s.name.split(",")[0] for s in trade.series}
    assert {r["plan"] for r in table(sections, "baselines")} >= {"this plan", "server only", "device only"}
    assert all(r["origin"] for r in table(sections, "decisions"))
    without = plan_sections(replace(plan, pareto=(), sensitivity=(), baselines={}))
    assert not any(p.title == "delay against server energy" for p in pictures(without))


def test_a_plan_whose_rounds_differ_is_drawn_round_by_round(world_db: Path) -> None:
    with open_store(world_db, create=False) as store:
        plan = store.plans.latest()
    moved = tuple(replace(d, cut=3) for d in plan.rounds[0].devices)
    second = replace(plan.rounds[0], round=2, devices=moved)
    sections = plan_sections(replace(plan, rounds=(plan.rounds[0], second)))
    cuts = chart(sections, "cut by round")
    assert [s.y for s in cuts.series] == [(float(d.cut), 3.0) for d in plan.rounds[0].devices]


def test_a_run_holds_every_term_of_every_round_against_its_prediction(world_db: Path) -> None:
    with open_store(world_db, create=False) as store:
        ran = split_run(store, world.RUN_UID[:6])
    sections = run_sections(ran.run, ran.rounds, ran.checks)
    rows = table(sections, "run-all-terms")
    assert len(rows) == world.ROUNDS * 2 * (len(TERMS) + 1)
    for row in rows:
        if row["observed"] and row["predicted"] is not None:
            assert row["error"] == pytest.approx((row["predicted"] - row["observed"]) / row["observed"])
    server = next(r for r in table(sections, "run-checks") if r["device"] == "bench" and r["term"] == "server")
    assert server["error"] == pytest.approx(-0.09, abs=0.02) and server["inside the interval"] is False
    delay = chart(sections, "bench: delay by round")
    assert {s.style for s in delay.series} == {"band", "dashed", "points"} and len(delay.series[-1].x) == world.ROUNDS
    nothing = tuple(replace(r, phases=tuple(replace(p, predicted_s=None) for p in r.phases)) for r in ran.rounds)
    lines = run_sections(ran.run, nothing, ())[0].lines
    assert "Nothing was predicted." in lines[-1]
    assert "No round was finished." in run_sections(ran.run, (), ())[0].warnings


def test_held_out_rows_stand_beside_the_loss_of_the_rounds(world_db: Path) -> None:
    with open_store(world_db, create=False) as store:
        ran = split_run(store, world.RUN_UID[:6])
    assert not ran.judged and not any(
        getattr(p, "key", "") == "run-held-out" for s in run_sections(ran.run, ran.rounds, ran.checks) for p in s.parts
    )
    told = {
        number: Quality(
            number=number,
            loss=loss,
            accuracy=0.5,
            tokens=64,
            elapsed_s=0.25,
            up_bytes=4096,
            devices=frozenset({"bench"}),
        )
        for number, loss in ((0, 3.0), (2, 1.0))
    }
    sections = run_sections(ran.run, ran.rounds, ran.checks, told)
    held_out = next(s for s in chart(sections, "loss by round").series if s.name == "held-out rows")
    assert (held_out.x, held_out.y) == ((0.0, 2.0), (3.0, 1.0))
    first, second = table(sections, "run-held-out")
    assert (first["round"], first["loss"], first["sent"], first["rows of"]) == ("0", 3.0, 4096.0, "bench")
    assert second["perplexity"] == pytest.approx(2.718281828)


def test_a_prediction_has_the_origin_of_what_predicted_it(world_db: Path) -> None:
    """The server is simulated: its predicted terms stood there as measured, like what was observed."""
    with open_store(world_db, create=False) as store:
        ran = split_run(store, world.RUN_UID[:6])
    assert str(ran.run.provenance) == "measured, direct"
    sections = run_sections(ran.run, ran.rounds, ran.checks)
    for key in ("run-checks", "run-rounds", "run-all-terms"):
        for row in table(sections, key):
            predicted = row.get("predicted", row.get("predicted delay")) is not None
            assert row["origin of the observed"] == "measured, direct"
            assert row["origin of the predicted"] == ("measured+simulated, derived" if predicted else "N/A")
    assert "Predicted terms: measured+simulated, derived" in sections[0].lines[-1]
    assert {str(c.predicted_provenance) for c in ran.checks} == {"measured+simulated, derived"}


def test_a_page_without_anything_optional_is_still_a_page(fleet) -> None:
    bare = DeviceData(device=fleet[world.SERVER.key].device)
    assert [s.level for s in device_sections(bare)] == [1]


def test_side_by_side_the_best_frequency_is_of_the_rail_that_the_row_is_of(fleet) -> None:
    """An AGX Orin's best frequency was that of its GPU rail beside totals of the whole board."""
    server = fleet[world.SERVER.key]
    [whole] = [o for o in server.optima if o.rail == server.profiles[0].total_rail]
    part = replace(whole, rail="a part", optimum=replace(whole.optimum, frequency_hz=whole.optimum.frequency_hz / 2))
    data = {**fleet, world.SERVER.key: replace(server, optima=(part, *server.optima))}
    rows = [
        row for t in tables(fleet_sections(list(data.values()))) for row in t if row["device"] == server.device.name
    ]
    assert [row["frequency of least energy"] for row in rows if row["frequency of least energy"]] == [
        whole.optimum.frequency_hz
    ]


def tables(sections: tuple[Section, ...]) -> list[list[dict[str, Cell]]]:
    """Every table that has a best frequency, as rows."""
    found = [p for s in sections for p in s.parts if isinstance(p, Table)]
    heads = [[dict(zip((c.name for c in t.columns), row, strict=True)) for row in t.rows] for t in found]
    return [rows for rows in heads if rows and "frequency of least energy" in rows[0]]
