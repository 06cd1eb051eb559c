# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, devices of a plan with bandwidth shares do not have the rates that the plan gave them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

from cardlab.db import open_store
from cardlab.split.journal import FinishedTurn
from tests.cli.run import command
from tests.split.models import small_task
from tests.split.processes import Trial
from tests.split.test_commands import ended, listening, plan_of, port, role, roles  # noqa: F401 - two are fixtures

# Rates up and down, bit/s, of odd and of even rounds: `a` and `b` change places.
RATES = {"a": [(1e6, 4e6), (4e6, 1e6)], "b": [(4e6, 2e6), (1e6, 8e6)]}
SENT_BYTES = 2 * (2 * 96 * 48 * 4)
LABEL_BYTES = 2 * (2 * 96 * 4)


@pytest.fixture
def trials() -> Iterator[list[Trial]]:
    started: list[Trial] = []
    yield started
    for trial in started:
        trial.end()


def run_shaped(folder: Path, trials: list[Trial], link: str | None, parallel: bool) -> list[FinishedTurn]:
    """Four rounds of two devices: those of the journal."""
    cuts = {"a": [1], "b": [3]}
    task = small_task(folder, sequence=96)
    trial = Trial(folder, task, cuts, rounds=4, epochs=2, parallel=parallel, rates=RATES)
    trials.append(trial)
    server = trial.server()
    devices = [trial.device(name, link=link) for name in trial.names]
    assert [trial.wait(p) for p in (server, *devices)] == [0, 0, 0], (trial.log("server"), trial.log("a"))
    for name in trial.names:
        said = trial.log(name).count("shaped as planned (simulated)")
        assert said == (4 if link == "planned" else 0)
    return list(trial.journal().progress.turns)


@pytest.mark.alone
@pytest.mark.parametrize("parallel", [False, True], ids=["one after the other", "parallel"])
def test_each_device_has_the_rates_of_its_round(tmp_path: Path, trials, parallel) -> None:
    turns = run_shaped(tmp_path, trials, "planned", parallel)
    for name, rates in RATES.items():
        for odd_or_even, (up_bps, down_bps) in enumerate(rates):
            alike = [t for t in turns if t.device == name and (t.round - 1) % 2 == odd_or_even]
            assert len(alike) == 2
            adapters = alike[0].adapter_bytes
            for term, ideal_s in (
                ("uplink", (SENT_BYTES + LABEL_BYTES) * 8 / up_bps),
                ("downlink", SENT_BYTES * 8 / down_bps),
                ("adapters", adapters * 8 / up_bps + adapters * 8 / down_bps),
            ):
                took_s = [t.terms[term] for t in alike]
                # Never quicker than the rate (but for the uncertainty of the timers' offset); a loaded machine may be
                # slower, so the quicker of two is held against it from above.
                assert min(took_s) > ideal_s * 0.97 - 2e-3, (name, term, took_s, ideal_s)
                assert min(took_s) < ideal_s * 1.15 + 0.05, (name, term, took_s, ideal_s)


@pytest.mark.alone
def test_a_device_that_does_not_shape_is_not_slowed_by_what_was_planned(tmp_path: Path, trials) -> None:
    for turn in run_shaped(tmp_path, trials, None, False):
        up_bps = RATES[turn.device][(turn.round - 1) % 2][0]
        if up_bps == 1e6:
            assert turn.terms["uplink"] < 0.5 * (SENT_BYTES + LABEL_BYTES) * 8 / up_bps


def test_planned_rates_that_no_plan_gives_end_the_device_in_one_line(tmp_path: Path, trials) -> None:
    trial = Trial(tmp_path, small_task(tmp_path), {"a": [2], "b": [1]}, rounds=3)
    trials.append(trial)
    server, shaped, plain = trial.server(), trial.device("a", link="planned"), trial.device("b", link="4mbit")
    assert [trial.wait(p) for p in (server, plain, shaped)] == [0, 0, 1], trial.log("server")
    assert "gives this device no rates" in (tmp_path / "a.err").read_text()


def sft_plan(folder: Path, *, rates: bool = True) -> None:
    """Plan abc..., of scheme sft: west has three times the rates of east, and in round 2 the other way round."""
    plan = plan_of(folder)
    rounds = []
    for number, planned in enumerate(plan.rounds):
        shares = (0.25, 0.75) if number == 0 else (0.75, 0.25)
        devices = [
            replace(
                d,
                bandwidth_share=share,
                uplink_bps=share * 1e6 if rates else None,
                downlink_bps=share * 4e6 if rates else None,
            )
            for d, share in zip(planned.devices, shares, strict=True)
        ]
        rounds.append(replace(planned, devices=tuple(devices)))
    plan_of(folder / "sft", scheme="sft", rounds=tuple(rounds))


LOCAL = ("run", "--local", "--plan", "abc", "--seq", "32", "--dtype", "float32", "--db", "sft/cardlab.db")


@pytest.fixture
def sft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sft").mkdir()
    return tmp_path


@pytest.mark.alone
def test_a_local_run_of_an_sft_plan_has_its_rates(sft) -> None:
    sft_plan(sft)
    result = command("card", *LOCAL, "--json")
    assert result.code == 0, result.err
    assert result.err.count("links are shaped as planned") == 1 and "simulated" in result.err
    with open_store(sft / "sft" / "cardlab.db") as store:
        run = store.runs.get(result.document["run_id"]).run
        rounds = store.rounds.of_run(run.uid)
    assert run.options["link"] == "planned" and len(rounds) == 4
    for made in rounds:
        share = 0.25 if (made.number == 1) == (made.device.name == "east") else 0.75
        uplink_s = next(p.observed_s for p in made.phases if p.term == "uplink")
        ideal_s = made.up_bytes * 8 / (share * 1e6)
        assert ideal_s * 0.97 - 2e-3 < uplink_s < ideal_s * 1.5 + 0.2
    assert "shaped as planned" in (sft / "card-run" / "east.log").read_text()


def test_a_link_that_is_given_wins_and_a_line_says_so(sft) -> None:
    sft_plan(sft)
    result = command("card", *LOCAL, "--rounds", "1", "--link", "50mbit")
    assert result.code == 0, result.err
    assert "the planned shares of the band are not imposed" in result.err and "50mbit" in result.err
    assert "shaped as planned" not in result.err + (sft / "card-run" / "east.log").read_text()


def test_a_plan_with_shares_but_no_rates_is_run_and_says_so(sft) -> None:
    sft_plan(sft, rates=False)
    result = command("card", *LOCAL, "--rounds", "1")
    assert result.code == 0 and "none is imposed; plan again" in result.err
    command("card", *LOCAL, "--link", "planned", "--out", "b").failed_in_one_line(2, "no plan gives the rates")
    command("card", "run", "--local", "--cut", "1", "--link", "planned").failed_in_one_line(2, "100mbit,5ms")


def test_roles_of_their_own_are_not_shaped_and_a_line_says_so(sft, port, roles) -> None:  # noqa: F811
    sft_plan(sft)
    words = ("--plan", "abc", "--seq", "32", "--dtype", "float32", "--rounds", "1", "--db", "sft/cardlab.db")
    server = role(roles, "run", "server", "--bind", f"127.0.0.1:{port}", *words)
    listening(port)
    devices = [
        role(roles, "run", "device", "--server", f"127.0.0.1:{port}", "--name", name, "--dtype", "float32")
        for name in ("east", "west")
    ]
    done, *theirs = (ended(process) for process in (server, *devices))
    assert [r.code for r in (done, *theirs)] == [0, 0, 0], (done.err, [t.err for t in theirs])
    assert "planned shares of the band are not imposed" in done.err
    assert not any("shaped as planned" in t.err for t in theirs)
