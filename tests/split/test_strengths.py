# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, devices of different strength spoil each other's rounds, or count for what they are not."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

from cardlab.core.order import natural
from cardlab.split.adapters import averaged, copied, flat, initial_adapters
from cardlab.split.journal import Journal
from cardlab.split.refusals import RefusalError
from cardlab.split.schedule import Schedule
from tests.cli.run import command
from tests.split.models import Unsplit, largest_difference, small_task
from tests.split.processes import Trial
from tests.split.test_commands import plan_of


@pytest.fixture
def trials() -> Iterator[list[Trial]]:
    started: list[Trial] = []
    yield started
    for trial in started:
        trial.end()


def test_a_device_counts_by_the_rows_of_its_data(tmp_path: Path) -> None:
    task = small_task(tmp_path)
    one, other = (initial_adapters(task, seed) for seed in (1, 2))
    mean = flat(averaged([one, other], [300, 100]))
    for name, tensor in mean.items():
        expected = 0.75 * flat(one)[name].double() + 0.25 * flat(other)[name].double()
        assert torch.allclose(tensor.double(), expected, rtol=0.0, atol=1e-7)
    # Of equal ones the plain mean, to the last bit.
    assert largest_difference(averaged([one, other], [7, 7]), averaged([one, other])) == 0.0
    assert largest_difference(averaged([copied(one)], [9]), one) == 0.0


def test_parallel_rounds_are_averaged_by_rows(tmp_path: Path, trials: list[Trial]) -> None:
    task = small_task(tmp_path, optimizer="adamw")
    trial = Trial(tmp_path, task, {"a": [1], "b": [3]}, rounds=1, epochs=2, parallel=True, rows={"a": 300, "b": 100})
    trials.append(trial)
    children = [trial.server(), *(trial.device(name) for name in trial.names)]
    assert [trial.wait(child) for child in children] == [0, 0, 0], trial.log("server")
    wholes = []
    for name in trial.names:
        whole = Unsplit(task)
        for epoch in range(trial.epochs):
            whole.step(trial.data()[name].batch(epoch))
        wholes.append(whole.adapters())
    expected = averaged(wholes, [300, 100])
    assert largest_difference(trial.journal().adapters(), expected) == 0.0
    assert {turn.device: turn.rows for turn in trial.journal().progress.turns} == {"a": 300, "b": 100}


def test_a_slow_device_loses_its_round_and_no_other(tmp_path: Path, trials: list[Trial]) -> None:
    trial = Trial(tmp_path, small_task(tmp_path), {"a": [1], "b": [1]}, rounds=2, epochs=2, parallel=True)
    trial.deadline_s = 4.0
    trials.append(trial)

    def sleeps(_transport, half) -> None:
        real, first = half.forward, [True]

        def slow(ids, rows):
            if first.pop() if first else False:
                time.sleep(9.0)
            return real(ids, rows)

        half.forward = slow

    children = [trial.server(), trial.device("a"), trial.device("b", doom=sleeps)]
    assert [trial.wait(child) for child in children] == [0, 0, 0], trial.log("server")
    assert "round 1 of b is abandoned: it took longer than --deadline 4 s" in trial.log("server")
    turns = trial.journal().progress.turns
    assert [turn.device for turn in turns if turn.round == 1] == ["a"]
    assert {turn.round for turn in turns} == {1, 2}


def test_a_deadline_that_nobody_meets_ends_the_run(tmp_path: Path, trials: list[Trial]) -> None:
    trial = Trial(tmp_path, small_task(tmp_path), {"a": [1]}, rounds=2, epochs=2)
    trial.deadline_s = 0.3
    trials.append(trial)

    def sleeps(_transport, half) -> None:
        real = half.forward

        def slow(ids, rows):
            time.sleep(1.0)
            return real(ids, rows)

        half.forward = slow

    server, device = trial.server(), trial.device("a", doom=sleeps, server_s=3.0)
    assert trial.wait(server) == 1
    assert "no device finished round 1 within --deadline 0.3 s, 3 times" in (tmp_path / "server.err").read_text()
    trial.wait(device)


def local(folder: Path, *words: str):
    common = ["--model", "tiny-llama", "--cut", "1", "--seq", "16", "--out", str(folder / "out")]
    done = command("card", "run", "--local", *common, "--db", str(folder / "x.db"), "--json", *words)
    assert done.code == 0, done.err
    return done


def test_some_devices_of_all_take_part_and_others_in_the_next_round(tmp_path: Path) -> None:
    done = local(tmp_path, "--devices", "3", "--participants", "2", "--rounds", "4", "--parallel")
    assert "4 round(s) of 1 step(s) of each device that takes part\n" in done.err
    took = [tuple(d["device"] for d in r["devices"]) for r in done.document["rounds"]]
    assert all(len(names) == 2 for names in took) and len(set(took)) > 1
    # Drawn by the seed: the same again.
    (tmp_path / "again").mkdir()
    again = local(tmp_path / "again", "--devices", "3", "--participants", "2", "--rounds", "4")
    assert [{d["device"] for d in r["devices"]} for r in again.document["rounds"]] == [set(names) for names in took]


def test_each_device_has_its_own_cut(tmp_path: Path) -> None:
    done = local(tmp_path, "--devices", "3", "--cuts", "device-2=3,device-3=2", "--rounds", "1", "--parallel")
    assert [d["cut"] for d in done.document["rounds"][0]["devices"]] == [1, 3, 2]


def test_a_device_with_mini_batches_of_its_own(tmp_path: Path, trials: list[Trial]) -> None:
    task = small_task(tmp_path)
    trial = Trial(tmp_path, task, {"a": [1], "b": [2]}, rounds=1, epochs=2, sizes={"b": 5})
    trials.append(trial)
    children = [trial.server(), *(trial.device(name) for name in trial.names)]
    assert [trial.wait(child) for child in children] == [0, 0, 0], trial.log("server")
    whole = Unsplit(task)
    losses = [tuple(whole.step(trial.data()[name].batch(epoch)) for epoch in range(2)) for name in trial.names]
    turns = trial.journal().progress.turns
    assert [turn.losses for turn in turns] == losses
    assert largest_difference(trial.journal().adapters(), whole.adapters()) == 0.0
    assert [turn.tokens for turn in turns] == [2 * 2 * task.sequence, 2 * 5 * task.sequence]
    assert Journal.resume(trial.out).progress.inputs["b"].batch == 5


def test_a_plans_devices_are_known_by_their_hardware_before_their_label(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    schedule = Schedule(plan, keys={"hw:east": "east", "hw:west": "west"})
    # Labels were changed since, or swapped.
    assert schedule.planned("kitchen", "hw:east") == "east"
    assert schedule.planned("west", "hw:east") == "east"
    # Other hardware under a planned label stands for it, and is named.
    assert schedule.planned("east", "hw:new") == "east"
    assert "measured on other hardware (hw:east, here hw:new)" in (schedule.mismatch("east", "hw:new") or "")
    assert schedule.mismatch("east", "hw:east") is None
    # A second process on the same hardware takes the label that is its own.
    assert schedule.planned("west", "hw:east", {"east"}) == "west"
    with pytest.raises(RefusalError, match="the plan names no device 'guest'"):
        schedule.planned("guest", "hw:guest")


def test_joules_planned_without_a_codec_are_not_those_of_a_run_with_one(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    decided = tuple(
        replace(each, devices=tuple(replace(d, server_energy_j=3.0) for d in each.devices)) for each in plan.rounds
    )
    plan = replace(plan, energy="round", rounds=decided)
    assert Schedule(plan).at(2, "east").expected.server_energy_j == 3.0
    packed = Schedule(plan, codec="dense:8").at(2, "east").expected
    assert packed.server_energy_j is None and set(packed.terms) == {"device", "server", "adapters", "switch"}


def test_labels_are_in_the_order_in_which_people_count() -> None:
    names = ["device-10", "device-2", "a", "device-1", "10", "9"]
    assert sorted(names, key=natural) == ["9", "10", "a", "device-1", "device-2", "device-10"]
    assert json.dumps(sorted(["b2", "b10"], key=natural)) == '["b2", "b10"]'
