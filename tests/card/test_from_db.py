"""Plans from a database: who takes part, what is missing and how to give it, and an independent check."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import Engine, event

from cardlab.calibrate.service import fit_store
from cardlab.card.link.channel import rates_by_round
from cardlab.card.problem.from_db import Request, gather
from cardlab.card.problem.scenario import Constraints, LinkSpec, Objective
from cardlab.card.schemes.card.planning import plan_rounds
from cardlab.card.solvers.enumeration import extents_of
from cardlab.card.uncertainty import with_guard
from cardlab.core.errors import CardlabError, NotFoundError, PlanError
from cardlab.core.quantity import Provenance
from cardlab.core.records.link import Link
from cardlab.db import open_store
from tests import records
from tests.card.database import (
    BOARD,
    CLOCKS,
    SERVER,
    add_device,
    add_server,
    layer_s,
    other_task,
    power_w,
    whole,
)

LINKED = Request(uplink_bps=5e7, downlink_bps=1e8, objective=Objective(weight=0.3, local_epochs=4))


def planned(store, request=LINKED, rounds=1):
    found = gather(store, request, rounds)
    return found, plan_rounds(found.problems, uncertainty=found.uncertainty, inputs=found.inputs)


def test_the_plan_equals_a_brute_force_over_all_cuts_and_clocks(database):
    with whole(database) as store:
        found, made = planned(store)
    best, value = None, np.inf
    rows = {}
    for cut in (1, 2, 3):
        device = 0.002 + 0.04 + (cut - 1) * 0.044
        link = 8192 * 8 / 5e7 + 8192 * 8 / 1e8
        adapters = cut * 100 * 8 * (1 / 5e7 + 1 / 1e8)
        for f in CLOCKS:
            busy = 4 * ((4 - cut) * 2.1 * layer_s(f) + 6 * layer_s(f))
            delay = 4 * (device + link) + adapters + busy
            energy = power_w(f) * busy + (25 + 5 * f / 2.4e9) * (delay - busy)
            rows[cut, f] = (delay, energy)
    delays, energies = zip(*rows.values(), strict=True)
    for place, (delay, energy) in rows.items():
        cost = 0.3 * (delay - min(delays)) / np.ptp(delays) + 0.7 * (energy - min(energies)) / np.ptp(energies)
        if cost < value:
            best, value = place, cost
    decision = made.rounds[0].devices[0]
    assert (decision.cut, decision.frequency_hz) == best
    assert decision.cost == pytest.approx(value, abs=2e-3)
    assert decision.delay_s == pytest.approx(rows[best][0], rel=1e-3)
    assert decision.server_energy_j == pytest.approx(rows[best][1], rel=5e-3)
    assert decision.delay_terms.total == pytest.approx(decision.delay_s, rel=1e-12)
    assert made.energy == "round" and found.problem.power_w is not None


def test_certainty_comes_with_the_plan(database):
    with whole(database) as store:
        _, made = planned(store)
        _, again = planned(store)
    decision = made.rounds[0].devices[0]
    assert 0.0 <= decision.cut_probability <= 1.0
    assert decision.delay_ci95[0] < decision.delay_s < decision.delay_ci95[1]
    assert decision.server_energy_ci95[0] < decision.server_energy_j < decision.server_energy_ci95[1]
    assert set(made.uncertainty) >= {"server layer forward", "server power", "times of board"}
    assert list(made.uncertainty.values()) == sorted(made.uncertainty.values(), reverse=True)
    assert again.rounds[0].devices[0] == decision


def test_the_same_data_fitted_again_give_the_same_plan(database):
    """Intervals were drawn with each fit's own id."""
    with whole(database) as store:
        _, made = planned(store)
        fit_store(store, device=SERVER.key, created_at="2026-11-22T10:10:00.000000Z")
        _, again = planned(store)
    assert again.fits != made.fits and again.rounds == made.rounds


def test_power_of_a_partial_rail_is_not_taken_for_the_whole(database):
    with whole(database) as store:
        found, _ = planned(store)
    assert found.problem.power_w.min() > 25.0


def test_no_raw_sample_is_read(database):
    statements = []

    def note(connection, cursor, statement, *rest):
        statements.append(statement)

    with whole(database) as store:
        event.listen(Engine, "before_cursor_execute", note)
        try:
            gather(store, LINKED)
        finally:
            event.remove(Engine, "before_cursor_execute", note)
    assert statements and not any("sample_block" in sql for sql in statements)


@pytest.mark.parametrize(
    ("request_", "option"),
    [
        (Request(), "--uplink-mbps"),
        (Request(uplink_bps=1e6), "--downlink-mbps"),
        (Request(uplink_bps=0.0, downlink_bps=1e6), "--uplink-mbps"),
        (replace(LINKED, server="nobody"), "known devices"),
        (replace(LINKED, devices=("nobody",)), "known devices"),
        (replace(LINKED, devices=("board@25W",)), "profile-device"),
        (replace(LINKED, devices=("board", "board")), "--device"),
        (replace(LINKED, model="llama-3.2-1b"), "--model llama-3.2-1b"),
        (replace(LINKED, server="board"), "calibrate fit"),
        (replace(LINKED, link_name="lab"), "known links"),
    ],
)
def test_what_is_missing_is_named_with_what_gives_it(database, request_, option):
    with whole(database) as store, pytest.raises(CardlabError) as caught:
        gather(store, request_)
    assert option in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_database_and_one_without_server_say_so(database):
    with open_store(database) as store:
        with pytest.raises(PlanError, match="--server LABEL; known devices: none"):
            gather(store, LINKED)
        add_device(store)
        with pytest.raises(PlanError, match="--server LABEL; known devices: board"):
            gather(store, LINKED)


def test_a_server_alone_asks_for_a_device_and_may_be_one(database):
    with open_store(database) as store:
        add_server(store)
        with pytest.raises(PlanError, match="--device LABEL"):
            gather(store, LINKED)
        _, made = planned(store, replace(LINKED, devices=("gpu",)))
    assert [d.device for d in made.rounds[0].devices] == ["gpu"]


def test_two_servers_must_be_told_apart(database):
    with whole(database) as store:
        add_server(store, replace(SERVER, key="simulated:rtx-4060:two", name="two"))
        with pytest.raises(PlanError, match="2 devices"):
            gather(store, LINKED)
        found = gather(store, replace(LINKED, server="two"))
    assert found.server.name == "two"


def test_a_server_without_fits(database):
    with open_store(database) as store:
        add_server(store, fit=False)
        add_device(store)
        with pytest.raises(PlanError, match="calibrate fit --device gpu"):
            gather(store, LINKED)


def test_different_tasks(database):
    with open_store(database) as store:
        add_server(store)
        add_device(store, task=other_task(batch=8))
        with pytest.raises(PlanError, match="share no task.*board: tiny-llama 8x32"):
            gather(store, LINKED)


def test_several_shared_tasks_need_a_name(database):
    with whole(database) as store:
        add_server(store, task=other_task(batch=8))
        add_device(store, task=other_task(batch=8))
        with pytest.raises(PlanError, match="--model, --batch and --seq"):
            gather(store, LINKED)
        assert gather(store, replace(LINKED, batch=8)).task.batch == 8


def test_an_unfinished_run_is_no_profile(database):
    with open_store(database) as store:
        add_server(store)
        add_device(store, finish=False)
        with pytest.raises(NotFoundError, match="--resume"):
            gather(store, LINKED)


def test_a_server_without_a_meter_plans_delay_only(database):
    with open_store(database) as store:
        add_server(store, power=False)
        add_device(store)
        with pytest.raises(PlanError, match="--weight 1"):
            planned(store)
        _, made = planned(store, replace(LINKED, objective=Objective(weight=1.0)))
    decision = made.rounds[0].devices[0]
    assert decision.server_energy_j is None and made.outcome.server_energy_j is None and made.energy is None
    assert any("energy is N/A" in note for note in made.notes)


def test_power_modes_are_devices_of_their_own(database):
    with open_store(database) as store:
        add_server(store)
        add_device(store, mode="15W", seconds=0.08)
        add_device(store, mode="MAXN", seconds=0.02, started_at="2026-11-21T11:00:00.000000Z")
        found = gather(store, replace(LINKED, devices=("board@15W", "board@MAXN")))
        newest = gather(store, LINKED)
    assert found.problem.devices == ("board@15W", "board@MAXN")
    assert found.problem.device_s[0] == pytest.approx(4 * found.problem.device_s[1])
    assert newest.problem.device_s[0] == pytest.approx(found.problem.device_s[1])


def test_a_throttled_or_contended_point_does_not_speak_for_a_device(database):
    with open_store(database) as store:
        add_server(store)
        run = records.run(
            device=BOARD,
            options={},
            planned=tuple(replace(records.run().planned[0], index=i) for i in range(3)),
        )
        store.runs.begin(run)
        for index, (clock, throttled, contended, seconds) in enumerate(
            ((1.2e9, True, False, 9.0), (1.1e9, False, True, 7.0), (1.0e9, False, False, 0.01))
        ):
            uid = store.runs.begin_point(run.uid, run.planned[index])
            rows = [records.latency(s, p, seconds) for s in ("first_layer", "layer") for p in ("forward", "backward")]
            state = records.OperatingPoint(frequency_hz=clock, throttled=throttled, contended=contended)
            store.runs.finish_point(uid, state, records.latency("embedding", "forward", 0.0), *rows)
        found = gather(store, LINKED)
    np.testing.assert_allclose(found.problem.device_s[0], 0.02 * found.problem.cuts)


def test_a_stored_link_gives_the_rates(database):
    with whole(database) as store:
        link = Link(
            uid="1" * 8,
            name="lab",
            uplink_bps=2e7,
            downlink_bps=4e7,
            provenance=Provenance.of("imported"),
            measured_at="2026-11-21T10:00:00.000000Z",
        )
        store.links.add(link)
        found, made = planned(store, replace(LINKED, uplink_bps=None, downlink_bps=None))
        assert store.plans.add(made, "2026-11-21T12:00:00.000000Z").links == (link.uid,)
        assert store.plans.latest().rounds == made.rounds
    assert found.problem.uplink_bps.tolist() == [2e7] and found.problem.downlink_bps.tolist() == [4e7]
    assert "imported" in {o.value for o in made.provenance.origins}


def test_a_named_link_of_which_nothing_would_be_used_is_refused(database):
    with whole(database) as store:
        link = Link(
            uid="1" * 8,
            name="lab",
            uplink_bps=2e7,
            downlink_bps=4e7,
            provenance=Provenance.of("imported"),
            measured_at="2026-11-21T10:00:00.000000Z",
        )
        store.links.add(link)
        with pytest.raises(PlanError, match="link 'lab' has no round trip, and both rates are given"):
            planned(store, replace(LINKED, link_name="lab"))
        store.links.add(replace(link, uid="2" * 8, measured_at="2026-11-21T11:00:00.000000Z", rtt_s=0.02))
        assert planned(store, replace(LINKED, link_name="lab"))[0].problem.latency_s.tolist() == [0.01]


def test_what_messages_of_a_link_differed_by_widens_the_plan(database):
    """Messages took 30 % more or less than the median: so will a round's, and a deadline keeps its distance."""
    request = replace(LINKED, uplink_bps=None, downlink_bps=None)
    found = {}
    for name, range_bps in (("plain", None), ("spread", (2e7 / 1.3, 2e7 / 0.7))):
        path = database.with_name(f"{name}.db")
        with whole(path) as store:
            store.links.add(
                Link(
                    uid="1" * 8,
                    name="lab",
                    uplink_bps=2e7,
                    downlink_bps=4e7,
                    provenance=Provenance.of("measured"),
                    measured_at="2026-11-21T10:00:00.000000Z",
                    uplink_range_bps=range_bps,
                )
            )
            gathered, made = planned(store, request)
        limits = Constraints(deadline_s=1.0, deadline_confidence=0.99)
        guarded = with_guard(replace(gathered.problem, constraints=limits), gathered.uncertainty)
        found[name] = (made.rounds[0].devices[0], guarded.guard_s)
    plain, spread = found["plain"][0], found["spread"][0]
    assert set(plain.terms_mean_ci95) == {"device", "server"}
    assert set(spread.terms_mean_ci95) == {"device", "server", "uplink", "downlink", "adapters"}
    low, high = spread.terms_mean_ci95["uplink"]
    uplink_s = spread.delay_terms.uplink
    assert 0.6 * uplink_s < low < 0.8 * uplink_s and 1.2 * uplink_s < high < 1.4 * uplink_s
    assert spread.terms_mean_ci95["downlink"] == pytest.approx((spread.delay_terms.downlink,) * 2)
    assert np.ptp(spread.delay_ci95) > np.ptp(plain.delay_ci95)
    assert (found["spread"][1] > found["plain"][1]).all()


def test_a_channel_is_drawn_for_every_round_and_a_given_rate_stands(database):
    link = LinkSpec(channel="good", seed=3)
    with whole(database) as store:
        found = gather(store, replace(LINKED, downlink_bps=None, link=link), rounds=4)
    assert [p.uplink_bps[0] for p in found.problems] == [5e7] * 4
    drawn = [p.downlink_bps[0] for p in found.problems]
    assert len(set(drawn)) > 1
    assert drawn == [d[0] for _, d in rates_by_round(link, ("board",), [(5e7, None)], 4)]


def test_a_guard_band_is_wider_with_more_confidence(database):
    with whole(database) as store:
        free = planned(store)[1].rounds[0].devices[0].delay_s
        limits = Constraints(deadline_s=free * 0.98, deadline_confidence=0.9)
        sure = planned(store, replace(LINKED, constraints=limits))[1].rounds[0].devices[0]
        limits = replace(limits, deadline_confidence=0.999)
        surer = planned(store, replace(LINKED, constraints=limits))[1].rounds[0].devices[0]
    assert surer.delay_s <= sure.delay_s < free * 0.98
    assert "deadline with its guard band" in sure.binding


def test_what_datasheet_constants_decide_stands_beside_the_plan(database):
    with open_store(database) as store:
        add_server(store)
        add_device(store, replace(BOARD, cores=256, frequency_max_hz=1e9))
        found = gather(store, LINKED)
        made = plan_rounds(found.problems, uncertainty=found.uncertainty, datasheet=found.datasheet)
    sheet = found.datasheet
    assert sheet.device_s[0] == pytest.approx(np.array([1, 2, 3]) * 2e9 / (2 * 256 * 1e9), rel=1e-7)
    assert sheet.power_w[0] == pytest.approx(sheet.power_w[-1] * (CLOCKS[0] / CLOCKS[-1]) ** 3)
    beside, own = made.baselines["datasheet_constants"], made.outcome
    extent = extents_of(found.problem)[0]
    weighed = [
        0.3 * (o.delay_s - extent.delay_s[0]) / (extent.delay_s[1] - extent.delay_s[0])
        + 0.7 * (o.server_energy_j - extent.energy_j[0]) / (extent.energy_j[1] - extent.energy_j[0])
        for o in (own, beside)
    ]
    assert weighed[0] == pytest.approx(made.rounds[0].devices[0].cost) and weighed[1] > weighed[0]


def test_without_cores_there_is_no_datasheet_to_compare_with(database):
    with whole(database) as store:
        found, made = planned(store)
    assert found.datasheet is None and "datasheet_constants" not in made.baselines
    assert made.outcome.device_energy_j == pytest.approx(15.0 * made.rounds[0].devices[0].delay_terms.device)
