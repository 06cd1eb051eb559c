"""If these fail, what a run found out about a throttled board is lost, is used by a plan that nobody asked, or is taken
for something it is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import cardlab
from cardlab.core.errors import NotFoundError, PlanError, UsageError
from cardlab.core.identity import new_uid
from cardlab.core.quantity import Provenance
from cardlab.core.records.link import Link
from cardlab.core.records.measurement import RunKind
from cardlab.core.records.plan import Plan
from cardlab.db.check import check
from cardlab.db.store import Store
from cardlab.workflows import LearnOptions, PlanOptions
from tests import records
from tests.card.database import BOARD, SERVER, add_device, whole
from tests.cli.run import command
from tests.workflows.planned_rounds import ran

PARTIES = {"from_db": True, "server": "gpu", "devices": ("board",), "weight": 1.0}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with whole(tmp_path / "cardlab.db") as found:
        found.links.add(
            Link(
                uid=new_uid(),
                name="lab",
                uplink_bps=2e7,
                downlink_bps=4e7,
                rtt_s=2e-3,
                message_bytes=2**16,
                provenance=Provenance.of("measured"),
                measured_at="2026-11-21T11:00:00.000000Z",
            )
        )
        yield found


def planned(store: Store, **options: object) -> Plan:
    return cardlab.plan(store, PlanOptions(**{**PARTIES, **options}))  # type: ignore[arg-type]


THROTTLED = {"device": [1.0] * 6 + [2.0] * 8, "uplink": [1.5] * 14, "server": [1.1] * 14}


def test_what_a_run_taught_is_said_stored_and_used_where_it_is_asked_for(store: Store) -> None:
    first = planned(store)
    run = ran(store, first, THROTTLED)
    found = cardlab.learn(store, LearnOptions(run=run[:10]))
    rows = {(row["device"], row["term"]): row for row in found.rows()}
    assert set(rows) == {("board", "device"), ("board", "uplink"), ("board", "downlink"), ("gpu", "server")}
    board = rows["board", "device"]
    assert board["ratio"] == pytest.approx(2.0, rel=0.02) and board["ci95_low"] < 2.0 < board["ci95_high"]
    # Rounds before the change say nothing of the level there is now.
    assert (board["first_round"], board["last_round"], board["changed_in_rounds"]) == (7, 14, "7")
    assert rows["gpu", "server"]["ratio"] == pytest.approx(1.1, rel=0.02)
    assert rows["board", "uplink"]["ratio"] == pytest.approx(1.5, rel=0.02)
    (kept,) = [s.fit for s in store.fits.newest(quantity="ratio", device=BOARD.key) if s.fit.segment == "device"]
    assert (kept.learnt_from, kept.window) == (run, (7, 14)) and kept.provenance.how.value == "fitted"
    assert kept.fit_id == board["fit_id"] and kept.draws.shape == (200, 1)

    same, learnt = planned(store), planned(store, learnt=True)
    assert same.rounds[0].devices[0].delay_terms == first.rounds[0].devices[0].delay_terms
    assert not any("learnt" in note for note in (*same.notes, *same.assumptions))
    told = [note for note in learnt.notes if note.startswith("learnt: the device term of board is 2")]
    assert told and f"run {run[:12]}, rounds 7 to 14" in told[0]
    assert kept.fit_id in learnt.fits and kept.fit_id not in same.fits
    decision = learnt.rounds[0].devices[0]
    assert decision.terms_ci95["device"][0] < decision.delay_terms.device < decision.terms_ci95["device"][1]
    assert any("learnt" in name for name in learnt.uncertainty)


def test_learnt_terms_are_the_plans_terms_times_their_ratios(store: Store) -> None:
    """Held to one cut, so that terms can be compared; the law at every frequency is scaled alike."""
    first = planned(store, min_device_layers=3)
    run = ran(store, first, THROTTLED)
    found = {row["term"]: row["ratio"] for row in cardlab.learn(store, LearnOptions(run=run)).rows()}
    before, after = (planned(store, min_device_layers=3, learnt=on).rounds[0].devices[0] for on in (False, True))
    for term in ("device", "server"):
        assert getattr(after.delay_terms, term) / getattr(before.delay_terms, term) == pytest.approx(found[term])
    # Latency is that of both ways, so each way's term moves a little towards the other's; together they are exact.
    both = [d.delay_terms.uplink + d.delay_terms.downlink for d in (before, after)]
    meant = before.delay_terms.uplink * found["uplink"] + before.delay_terms.downlink * found["downlink"]
    assert both[1] == pytest.approx(meant, rel=1e-3)


def test_a_run_of_a_learnt_plan_teaches_on_top_of_it(store: Store) -> None:
    run = ran(store, planned(store), {"device": [2.0] * 8})
    cardlab.learn(store, LearnOptions(run=run))
    again = ran(store, planned(store, learnt=True), {"device": [1.25] * 8})
    cardlab.learn(store, LearnOptions(run=again))
    (kept,) = [s.fit for s in store.fits.newest(quantity="ratio", device=BOARD.key) if s.fit.segment == "device"]
    assert kept.values[0] == pytest.approx(2.5, rel=0.03) and kept.learnt_from == again


def test_rounds_predicted_from_what_was_learnt_count_against_the_profile(store: Store) -> None:
    """A run that adapts predicts 2 x the profile and sees it come true: that is no ratio of 1."""
    plan = planned(store)
    run = ran(store, plan, {"device": [1.0] * 8})
    finished = [replace(r, uid=new_uid()) for r in store.rounds.of_run(run)]
    adapted = records.run(uid=new_uid(), kind=RunKind.TRAIN, device=SERVER)
    store.runs.begin(adapted)
    for r in finished:
        phases = tuple(replace(p, predicted_ratio=2.0 if p.term == "device" else None) for p in r.phases)
        store.rounds.add(replace(r, run=adapted.uid, phases=phases))
    assert store.rounds.of_run(adapted.uid)[0].phases[0].predicted_ratio == 2.0
    found = {row["term"]: row["ratio"] for row in cardlab.learn(store, LearnOptions(run=adapted.uid)).rows()}
    assert found["device"] == pytest.approx(2.0, rel=0.02) and found["server"] == pytest.approx(1.0, rel=0.03)


def test_a_ratio_is_not_used_with_other_constants_than_it_was_learnt_of(store: Store) -> None:
    run = ran(store, planned(store), THROTTLED)
    cardlab.learn(store, LearnOptions(run=run))
    # Profiled again, throttled as it was: twice the ratio would be counted.
    add_device(store, seconds=0.04, started_at="2026-11-22T10:00:00.000000Z")
    notes = planned(store, learnt=True).notes
    assert any("device term of board" in note and "of other constants than these: not used" in note for note in notes)
    assert any(note.startswith("learnt: the server term of gpu") for note in notes)


def test_rates_that_are_given_are_no_constants_to_learn(store: Store) -> None:
    plan = planned(store, uplink_mbps=50.0, downlink_mbps=80.0)
    found = cardlab.learn(store, LearnOptions(run=ran(store, plan, THROTTLED)))
    reasons = {row.learnt.term: row.reason for row in found.terms}
    assert reasons["uplink"] is not None and "given" in reasons["uplink"] and reasons["device"] is None
    kept = {s.fit.segment for s in store.fits.newest(quantity="ratio")}
    assert kept == {"device", "server"}


def test_ratios_are_no_curves(store: Store) -> None:
    """A report or a prediction that took one for a latency would be off by the units alone."""
    cardlab.learn(store, LearnOptions(run=ran(store, planned(store), THROTTLED)))
    assert not [f for f in cardlab.stored_fits(store) if f.quantity == "ratio"]
    assert not [s for s in store.fits.newest(selected_only=True) if s.fit.quantity == "ratio"]


def test_what_was_not_learnt_is_refused_and_not_left_out(store: Store) -> None:
    with pytest.raises(PlanError, match="--learnt has no effect: no run taught anything"):
        planned(store, learnt=True)


def test_runs_that_teach_nothing_are_refused(store: Store) -> None:
    plan = planned(store)
    profile = plan.runs[0]
    with pytest.raises(UsageError, match="is a profile, no split run"):
        cardlab.learn(store, LearnOptions(run=profile))
    empty = records.run(uid=new_uid(), kind=RunKind.TRAIN, device=SERVER)
    store.runs.begin(empty)
    with pytest.raises(NotFoundError, match="no finished round"):
        cardlab.learn(store, LearnOptions(run=empty.uid))
    other = ran(store, plan, THROTTLED, execution=replace(records.EXECUTION, dtype="bfloat16"))
    with pytest.raises(UsageError, match=r"teaches nothing .*dtype float32 and not bfloat16"):
        cardlab.learn(store, LearnOptions(run=other))
    unpredicted = ran(store, plan, THROTTLED)
    bare = records.run(uid=new_uid(), kind=RunKind.TRAIN, device=SERVER)
    store.runs.begin(bare)
    for r in store.rounds.of_run(unpredicted):
        store.rounds.add(
            replace(r, uid=new_uid(), run=bare.uid, phases=tuple(replace(p, predicted_s=None) for p in r.phases))
        )
    with pytest.raises(UsageError, match="nothing of run .* was predicted"):
        cardlab.learn(store, LearnOptions(run=bare.uid))
    planless = records.run(uid=new_uid(), kind=RunKind.TRAIN, device=SERVER)
    store.runs.begin(planless)
    for r in store.rounds.of_run(unpredicted)[:1]:
        store.rounds.add(replace(r, uid=new_uid(), run=planless.uid, plan=None))
    with pytest.raises(UsageError, match="followed no plan"):
        cardlab.learn(store, LearnOptions(run=planless.uid))


def test_the_database_is_whole_with_what_was_learnt(store: Store) -> None:
    cardlab.learn(store, LearnOptions(run=ran(store, planned(store), THROTTLED)))
    assert [f for f in check(store) if f.table == "fit"] == []


def test_from_the_command_line(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = ran(store, planned(store), THROTTLED)
    said = command("calibrate", "learn", run[:8], "--db", "cardlab.db")
    assert said.code == 0, said.err
    assert "board: the device term changed in round 7, from 1.00 to 2.0" in said.out
    assert "card plan --from-db --learnt" in said.out
    document = command("calibrate", "learn", run[:8], "--db", "cardlab.db", "--json").document
    assert {t["term"] for t in document["terms"]} == {"device", "uplink", "downlink", "server"}
    words = ("card", "plan", "--from-db", "--server", "gpu", "--device", "board", "--weight", "1", "--db", "cardlab.db")
    plain, learnt = command(*words, "--json").document, command(*words, "--learnt", "--json").document
    assert not any("learnt" in note for note in plain["notes"])
    assert any(f"from run {run[:12]}, rounds 7 to 14" in note for note in learnt["notes"])
    command("card", "plan", "--scenario", "card-letter", "--learnt").failed_in_one_line(2, "--learnt")
    unweighted = [word for word in words if word not in ("--weight", "1")]
    command(*unweighted, "--learnt", "--scheme", "sft").failed_in_one_line(2, "--learnt is for --scheme card")
