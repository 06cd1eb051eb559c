# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, `card run --adapt` does not follow what its rounds observe, or goes on otherwise after a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

from cardlab.core.records.plan import TERMS, DelayTerms
from cardlab.db import open_store
from cardlab.split.halves import Half
from cardlab.split.journal import FinishedTurn, Journal
from cardlab.split.laps import now_s
from cardlab.split.recording import round_record
from cardlab.split.schedule import Schedule
from cardlab.workflows.adapting import Adaptation
from cardlab.workflows.run_adapting import RunAdapting
from tests import records
from tests.cli.run import Result, command
from tests.split.test_parts import run_settings, turn
from tests.workflows.drift import ROUNDS, World, mattering, observed, plan

PARTIES = ("--server", "here", "--device", "here", "--weight", "1")
RATES = ("--uplink-mbps", "2000", "--downlink-mbps", "2000")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def done(*words: str) -> Result:
    result = command(*words)
    assert result.code == 0, f"{' '.join(words)}: {result.err}"
    return result


def finished(made: World, schedule: Schedule, number: int, m: int) -> FinishedTurn:
    """The turn of a device as the server would have kept it."""
    label = made.base.devices[m]
    expected = schedule.at(number, label).expected
    terms = DelayTerms(**{term: expected.terms.get(term, 1e-3) for term in TERMS})
    decision = replace(plan(made.base).rounds[0].devices[m], delay_terms=terms)
    seen = observed(made, decision, m, number, dict(expected.ratios))
    base = turn(number, label)
    return replace(
        base,
        cut=schedule.at(number, label).cut,
        terms={p.term: p.observed_s or 0.0 for p in seen.phases},
        predicted=dict(expected.terms),
        predicted_ratios=dict(expected.ratios),
    )


def gone_on(made: World, folder: Path, killed: set[float]) -> tuple[list[tuple[Any, ...]], list[str]]:
    """A run in virtual time whose server dies after these rounds: what each device was given, and what was said."""
    decided = plan(made.base)
    settings = run_settings(records.TASK, rounds=ROUNDS, plan=decided.uid, cut=None, adapt=True)
    Journal.begin(folder, settings, "2026-11-21T10:00:00.000000Z")
    given: list[tuple[Any, ...]] = []
    said: list[str] = []

    def begun() -> tuple[Journal, Schedule, RunAdapting]:
        journal, schedule = Journal.resume(folder), Schedule(decided)
        adapting = RunAdapting(Adaptation(made.base, decided.rounds[0].devices), journal, schedule, said.append)
        adapting.closed(journal.closed)
        return journal, schedule, adapting

    journal, schedule, adapting = begun()
    for number in range(1, ROUNDS + 1):
        for m, label in enumerate(made.base.devices):
            at = schedule.at(number, label)
            given.append((number, label, at.cut, at.frequency_hz, at.device_frequency_hz, at.expected))
            journal.commit({}, finished(made, schedule, number, m))
            # Killed between two devices of a round too.
            if number + 0.5 in killed and m == 0:
                journal, schedule, adapting = begun()
        journal.close_round()
        if number not in killed:
            adapting.closed(number)
        else:
            journal, schedule, adapting = begun()
    return given, said


def test_a_killed_run_goes_on_with_exactly_the_decisions_it_would_have_made(tmp_path: Path) -> None:
    made = mattering("throttling", 1)[0]
    assert made.changed is not None
    whole, said = gone_on(made, tmp_path / "whole", set())
    after = made.changed + 2
    deaths: list[set[float]] = [{4}, {made.changed, after}, {after + 0.5}, {after, after + 1.5, after + 4}]
    for n, killed in enumerate(deaths):
        parts, _ = gone_on(made, tmp_path / f"killed-{n}", killed)
        assert parts == whole, killed
    cuts = {(label, cut, own) for _, label, cut, _, own, _ in whole}
    assert len(cuts) > len(made.base.devices) and said


def test_what_was_predicted_and_from_what_is_kept_with_the_round(tmp_path: Path) -> None:
    made = mattering("throttling", 1)[0]
    gone_on(made, tmp_path / "run", set())
    journal = Journal.resume(tmp_path / "run")
    record = round_record(journal.settings, journal.turns[-1])
    phases = {p.term: p for p in record.phases}
    assert phases["device"].predicted_ratio is not None and phases["encode"].predicted_ratio is None
    first = {p.term: p for p in round_record(journal.settings, journal.turns[0]).phases}
    assert first["device"].predicted_ratio is None
    (kept, *_) = journal.readjusted
    assert kept.lines and kept.after >= made.changed


def test_options_that_cannot_be_adapted_are_refused_in_one_line() -> None:
    local = ("card", "run", "--local", "--adapt")
    command(*local, "--cut", "2").failed_in_one_line(2, "--adapt solves a plan again, and this run has none")
    for flag, value in (("--codec", "dense:8"), ("--autocast", "bfloat16")):
        command(*local, "--plan", "ab", flag, value).failed_in_one_line(2, f"of {flag} {value} the plan has none")
    command(*local, "--plan", "ab", "--parallel").failed_in_one_line(2, "--adapt is for devices one after another")
    command("card", "plan", "--scenario", "card-letter", "--db", "cardlab.db")
    plans = command("card", "plans", "--json").document["plans"]
    uid = plans[0]["plan_id"]
    command(*local, "--plan", uid, "--batch", "1", "--seq", "8", "--model", "tiny-llama").failed_in_one_line(1)


@pytest.mark.alone
def test_a_host_that_gets_busy_in_the_middle_moves_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of a local run is this process: from round 6 on each of its mini-batches takes four times as long."""
    done(
        "profile-device",
        "--model",
        "tiny-llama",
        "--batch",
        "4",
        "--seq",
        "128",
        "--dtype",
        "float32",
        "--name",
        "here",
        # Both sides are one machine: by segments alone the first cut is best (fewest adapters), with room to move.
        "--no-rehearsal",
    )
    done("calibrate", "fit")
    made = done("card", "plan", "--from-db", *PARTIES, *RATES, "--local-epochs", "4", "--json").document
    train = Half.train

    def slowed(self: Half, *args: Any) -> Any:
        begun_s = now_s()
        found = train(self, *args)
        if self.clock.step >= 5 * 4:
            until_s = now_s() + 3.0 * (now_s() - begun_s)
            while now_s() < until_s:
                pass
        return found

    monkeypatch.setattr(Half, "train", slowed)
    run = done("card", "run", "--local", "--plan", made["plan_id"], "--adapt", "--rounds", "14", "--json")
    cuts = [r["devices"][0]["cut"] for r in run.document["rounds"]]
    lines = [line for line in run.err.splitlines() if "the server's server term is" in line]
    assert cuts[0] == made["rounds"][0]["devices"][0]["cut"] and cuts[-1] > cuts[4], (cuts, run.err)
    assert lines and lines[0].startswith("round "), run.err
    # Made longer, it goes on where it was and not where its plan began.
    more = done("card", "run", "--local", "--resume", "--rounds", "15", "--json").document
    assert more["rounds"][-1]["devices"][0]["cut"] == cuts[-1] and len(more["rounds"]) == 15
    checked = done("card", "validate", "--json").document
    assert any("--adapt" in note for note in checked["notes"]) or checked["notes"] == []
    learnt = done("calibrate", "learn", run.document["run_id"], "--json").document["terms"]
    server = next(row for row in learnt if row["term"] == "server")
    assert server["ratio"] > 2.5 and server["changes"]
    with open_store("cardlab.db") as store:
        last = store.rounds.of_run(run.document["run_id"])[-1]
    assert {p.term: p.predicted_ratio for p in last.phases}["server"] > 2.0
