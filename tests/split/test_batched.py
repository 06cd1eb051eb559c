# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a server that computes all devices at once trains another model, or hangs on a device that died."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

from cardlab.core.errors import RunError, UsageError
from cardlab.core.records.plan import TERMS
from cardlab.db import open_store
from cardlab.split.adapters import averaged, copied, initial_adapters
from cardlab.split.batched import common_cut, sharing_of
from tests.cli.run import command
from tests.split.models import RATE, halves, largest_difference, small_task
from tests.split.processes import Trial
from tests.split.test_commands import plan_of
from tests.split.test_faults import dies_in

CUTS = {"a": [2], "b": [2], "c": [2]}


@pytest.fixture
def trials() -> Iterator[list[Trial]]:
    started: list[Trial] = []
    yield started
    for trial in started:
        trial.end()


def begun(folder: Path, trials: list[Trial], cuts=CUTS, *, optimizer: str = "sgd", family: str = "llama", **options):
    folder.mkdir(exist_ok=True)
    task = small_task(folder, family, optimizer=optimizer)
    trial = Trial(folder, task, cuts, **{"parallel": True, "sharing": "batched", **options})
    trials.append(trial)
    return trial


def finished(trial: Trial, **options):
    server = trial.server()
    devices = [trial.device(name, **options) for name in trial.names]
    codes = [trial.wait(server), *(trial.wait(d) for d in devices)]
    assert codes == [0] * len(codes), (trial.log("server"), [trial.log(n) for n in trial.names])
    return trial.journal()


def replayed(trial: Trial, taking_part: list[list[str]]):
    """Losses and adapters of round 1, devices by epoch, each device and one server half called by hand with
    transformers' own loss of the concatenated mini-batch."""
    state = initial_adapters(trial.task, 0)
    devices = {name: halves(trial.task)[0] for name in trial.names}
    _, server = halves(trial.task)
    for half in (*devices.values(), server):
        half.set_cut(2)
        half.load(copied(state))
    losses = []
    for epoch, names in enumerate(taking_part):
        ids = [trial.data()[n].batch(epoch) for n in names]
        sent = [devices[n].forward(row) for n, row in zip(names, ids, strict=True)]
        step = server.train(torch.cat([s.detach() for s in sent]), torch.cat(ids))
        for name, own, gradient in zip(names, sent, step.gradient.chunk(len(names)), strict=True):
            devices[name].backward(own, gradient * len(names))
        losses.append(step.loss)
    return losses, averaged([{**devices[n].export(), **server.export()} for n in taking_part[-1]])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_one_epoch_of_sgd_gives_the_adapters_of_the_averaged_run(tmp_path: Path, trials, family) -> None:
    serial = finished(begun(tmp_path / "s", trials, family=family, epochs=1, rounds=2, sharing="serial"))
    batched = finished(begun(tmp_path / "b", trials, family=family, epochs=1, rounds=2))
    moved = largest_difference(serial.adapters(), initial_adapters(trials[0].task, 0))
    assert largest_difference(serial.adapters(), batched.adapters()) < 1e-4 * moved
    for one, other in zip(serial.progress.turns, batched.progress.turns, strict=True):
        assert (one.round, one.device) == (other.round, other.device)
        assert one.losses == pytest.approx(other.losses, rel=1e-5)


def test_several_epochs_are_steps_on_the_concatenated_mini_batches(tmp_path: Path, trials) -> None:
    trial = begun(tmp_path, trials, optimizer="adamw", rounds=1, epochs=3)
    journal = finished(trial)
    losses, adapters = replayed(trial, [list("abc")] * 3)
    assert largest_difference(journal.adapters(), adapters) < 1e-3 * RATE
    own = [t.losses for t in journal.progress.turns]
    assert [sum(epoch) / 3 for epoch in zip(*own, strict=True)] == pytest.approx(losses, rel=1e-5)
    assert len({row[0] for row in own}) == 3


@pytest.mark.alone
def test_the_terms_add_up_and_a_quick_device_waits_for_a_slow_one(tmp_path: Path, trials) -> None:
    trial = begun(tmp_path, trials, {"a": [2], "b": [2]}, rounds=3)
    server = trial.server()
    children = [trial.device("a"), trial.device("b", link="1mbit")]
    assert [trial.wait(c) for c in (server, *children)] == [0, 0, 0], trial.log("server")
    for turn in trial.journal().progress.turns:
        assert set(turn.terms) == set(TERMS) and min(turn.terms.values()) >= 0.0
        assert turn.delay_s + turn.waiting_s == pytest.approx(turn.elapsed_s, rel=0.01, abs=2e-4)
        if turn.device == "a":
            # 2 x 24 x 48 values of 4 bytes take b 74 ms, twice a round.
            assert turn.waiting_s > 0.12
    by_round = {n: [t for t in trial.journal().progress.turns if t.round == n] for n in (1, 2, 3)}
    for turns in by_round.values():
        assert turns[0].terms["server"] == pytest.approx(turns[1].terms["server"], rel=0.2, abs=2e-3)


@pytest.mark.alone
@pytest.mark.parametrize(("stage", "at", "parts"), [("backward", 1, ["abc", "bc"]), ("forward", 1, ["bc", "bc"])])
def test_a_device_killed_in_the_round_is_dropped_and_the_others_go_on(tmp_path, trials, stage, at, parts) -> None:
    trial = begun(tmp_path, trials, rounds=1)
    server = trial.server()
    victim = trial.device("a", doom=dies_in(stage, at))
    others = [trial.device(name) for name in "bc"]
    assert trial.wait(victim) == -signal.SIGKILL
    assert [trial.wait(p) for p in (server, *others)] == [0, 0, 0], trial.log("server")
    journal = trial.journal()
    assert [(t.round, t.device) for t in journal.progress.turns] == [(1, "b"), (1, "c")] and journal.progress.done
    _, adapters = replayed(trial, [list(names) for names in parts])
    assert largest_difference(journal.adapters(), adapters) < 1e-4 * RATE


def test_a_device_whose_loss_is_not_finite_spoils_nobody_elses_round(tmp_path: Path, trials) -> None:
    trial = begun(tmp_path, trials, rounds=1)

    def broken(_transport, half) -> None:
        forward = half.forward
        half.forward = lambda *given: forward(*given) * float("nan")

    server = trial.server()
    children = [trial.device("a", doom=broken), trial.device("b"), trial.device("c")]
    assert [trial.wait(c) for c in (server, *children)] == [0, 1, 0, 0], trial.log("server")
    assert "not finite" in (tmp_path / "a.err").read_text()
    _, adapters = replayed(trial, [["b", "c"]] * 2)
    assert largest_difference(trial.journal().adapters(), adapters) < 1e-4 * RATE


def test_different_cuts_are_refused_with_what_to_do(tmp_path: Path, trials) -> None:
    trial = begun(tmp_path, trials, {"a": [1], "b": [2]}, rounds=1)
    server = trial.server()
    for name in trial.names:
        trial.device(name)
    assert trial.wait(server) == 1
    assert 'blocks = "common"' in (tmp_path / "server.err").read_text()
    assert common_cut({"a": 3, "b": 3}, 1) == 3
    with pytest.raises(RunError, match="1 for a, 2 for b"):
        common_cut({"a": 1, "b": 2}, 4)


def test_what_the_plan_says_makes_the_run(tmp_path: Path) -> None:
    sft = plan_of(tmp_path, uid="e" * 32, scheme="sft", server_sharing="batched")
    with pytest.raises(RunError, match="blocks"):
        sharing_of(None, sft, True)
    from dataclasses import replace

    same = tuple(replace(r, devices=tuple(replace(d, cut=2) for d in r.devices)) for r in sft.rounds)
    assert sharing_of(None, replace(sft, rounds=same), True) == "batched"
    assert sharing_of(None, None, True) == "serial"
    with pytest.raises(UsageError, match="leave --server-sharing out"):
        sharing_of("serial", replace(sft, rounds=same), True)
    for asked, parallel, words in (("both", True, "serial, batched"), ("batched", False, "--parallel")):
        with pytest.raises(UsageError, match=words):
            sharing_of(asked, None, parallel)


def test_the_command_runs_a_batched_plan(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_of(tmp_path, uid="d" * 32)
    from dataclasses import replace

    same = tuple(replace(r, devices=tuple(replace(d, cut=2) for d in r.devices)) for r in plan.rounds)
    plan_of(tmp_path, uid="f" * 32, scheme="sft", server_sharing="batched", rounds=same)
    result = command(
        "card",
        "run",
        "--local",
        "--plan",
        "f" * 32,
        "--seq",
        "32",
        "--dtype",
        "float32",
        "--json",
    )
    assert result.code == 0, result.err
    with open_store(tmp_path / "cardlab.db") as store:
        run = store.runs.get(str(result.document["run_id"])).run
    assert run.options["server_sharing"] == "batched" and run.options["parallel"]
