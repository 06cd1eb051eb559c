# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, rounds over the network are not those of the model, or their times do not add up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

from cardlab.core.records.plan import TERMS
from cardlab.split.adapters import averaged, copied, initial_adapters
from cardlab.split.schedule import Assignment
from tests.split.models import halves, largest_difference, replay, small_task
from tests.split.processes import Cuts, Trial


@pytest.fixture
def trials() -> Iterator[list[Trial]]:
    started: list[Trial] = []
    yield started
    for trial in started:
        trial.end()


def finished(trial: Trial, **options: Any):
    """Run the trial to its end; its journal."""
    server = trial.server()
    devices = [trial.device(name, **options) for name in trial.names]
    codes = [trial.wait(server), *(trial.wait(d) for d in devices)]
    assert codes == [0] * len(codes), (trial.log("server"), [trial.log(n) for n in trial.names])
    return trial.journal()


@pytest.mark.parametrize(
    ("family", "optimizer", "cuts"),
    [
        ("llama", "sgd", {"a": [2]}),
        ("gpt2", "adamw", {"a": [3, 1]}),
        ("llama", "adamw", {"a": [1, 3, 2], "b": [3, 2, 1]}),
    ],
    ids=str,
)
def test_rounds_over_zeromq_equal_the_unsplit_run(tmp_path: Path, trials, family, optimizer, cuts) -> None:
    trial = Trial(tmp_path, small_task(tmp_path, family, optimizer=optimizer), cuts, rounds=5, epochs=3)
    trials.append(trial)
    journal = finished(trial)
    turns = [(t.round, t.device) for t in journal.progress.turns]
    assert turns == [(n, name) for n in range(1, 6) for name in sorted(cuts)]
    losses, adapters = replay(trial.task, turns, trial.data(), 3)
    assert [t.losses for t in journal.progress.turns] == losses
    assert largest_difference(journal.adapters(), adapters) == 0.0
    assert [t.cut for t in journal.progress.turns if t.device == "a"] == (cuts["a"] * 5)[:5]


def test_the_terms_of_a_round_add_up_to_what_passed(tmp_path: Path, trials) -> None:
    trial = Trial(tmp_path, small_task(tmp_path, sequence=96), {"a": [2]}, rounds=4)
    trials.append(trial)
    for turn in finished(trial, link="50mbit,3ms").progress.turns:
        assert set(turn.terms) == set(TERMS) and min(turn.terms.values()) >= 0.0
        assert turn.delay_s + turn.waiting_s == pytest.approx(turn.elapsed_s, rel=0.01, abs=2e-4)
        sent = 2 * (2 * 96 * 48 * 4)
        for term, size in (("uplink", sent + 2 * (2 * 96 * 4)), ("downlink", sent)):
            ideal_s = size * 8 / 50e6 + 2 * 3e-3
            assert ideal_s * 0.95 < turn.terms[term] < ideal_s * 1.3 + 0.02
        # Adapters wait for the link twice a round: with two messages a mini-batch that is all that is waited for.
        assert turn.terms["adapters"] > 2 * 3e-3 * 0.95
        assert turn.up_bytes == sent + 2 * (2 * 96 * 4) and turn.down_bytes == sent


def test_a_frequency_that_cannot_be_held_is_said_before_the_first_round(tmp_path: Path, trials) -> None:
    """After the last one the run had been made at another frequency than it was planned for."""

    class Fast(Cuts):
        def at(self, number: int, device: str, key: str | None = None) -> Assignment:
            return replace(super().at(number, device, key), frequency_hz=1.5e9)

    trial = Trial(tmp_path, small_task(tmp_path), {"a": [2]}, rounds=2)
    trials.append(trial)
    server, device = trial.server(schedule=Fast(trial.cuts, {})), trial.device("a")
    assert [trial.wait(server), trial.wait(device)] == [0, 0], trial.log("server")
    said = [line for line in trial.log("server").splitlines() if "frequency is not the planned one" in line]
    stored = [line for line in trial.log("a").splitlines() if "round 1 is stored" in line]
    assert len(said) == len(stored) == 1
    assert float(said[0].split()[0]) < float(stored[0].split()[0])


def test_parallel_devices_start_alike_and_are_averaged(tmp_path: Path, trials) -> None:
    task = small_task(tmp_path, optimizer="adamw")
    cuts = {"a": [1], "b": [2], "c": [3], "d": [2]}
    trial = Trial(tmp_path, task, cuts, rounds=2, epochs=2, parallel=True)
    trials.append(trial)
    journal = finished(trial)
    state = initial_adapters(task, 0)
    for number in (1, 2):
        ends = []
        for name in trial.names:
            device, server = halves(task)
            for half in (device, server):
                half.set_cut(cuts[name][0])
                half.load(copied(state))
            losses = []
            for epoch in range(2):
                ids = trial.data()[name].batch((number - 1) * 2 + epoch)
                sent = device.forward(ids)
                step = server.train(sent.detach().clone(), ids)
                device.backward(sent, step.gradient)
                losses.append(step.loss)
            ends.append({**device.export(), **server.export()})
            assert [t.losses for t in journal.progress.turns if (t.round, t.device) == (number, name)] == [
                tuple(losses)
            ]
        state = averaged(ends)
    assert largest_difference(journal.adapters(), state) == 0.0


def _gloo_rank(rank: int, folder: str, task, cut: int, steps: int, result) -> None:
    import torch.distributed as dist

    from tests.split.models import batches

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/gloo", rank=rank, world_size=2)
    device, server = halves(task)
    half = device if rank == 1 else server
    half.set_cut(cut)
    half.load(initial_adapters(task, 0))
    shape = (task.batch, task.sequence, task.architecture.hidden_size)
    losses = []
    for step in range(steps):
        if rank == 1:
            ids = batches(task).batch(step)
            sent = half.forward(ids)
            dist.send(sent.detach().contiguous(), 0)
            dist.send(ids, 0)
            gradient = torch.empty(shape)
            dist.recv(gradient, 0)
            half.backward(sent, gradient)
        else:
            came, ids = torch.empty(shape), torch.empty(shape[:2], dtype=torch.int64)
            dist.recv(came, 1)
            dist.recv(ids, 1)
            done = half.train(came, ids)
            dist.send(done.gradient.contiguous(), 1)
            losses.append(done.loss)
    if rank == 0:
        result.put(losses)
    dist.destroy_process_group()


def test_gloo_gives_the_same_numbers(tmp_path: Path, trials) -> None:
    """Another transport, other code around the halves: the same losses to the last bit."""
    import torch.multiprocessing as mp

    task = small_task(tmp_path, optimizer="adamw")
    trial = Trial(tmp_path, task, {"a": [2]}, rounds=3, epochs=4)
    trials.append(trial)
    losses = [loss for turn in finished(trial).progress.turns for loss in turn.losses]
    context = mp.get_context("fork")
    result = context.SimpleQueue()
    ranks = [context.Process(target=_gloo_rank, args=(r, str(tmp_path), task, 2, 12, result)) for r in (0, 1)]
    for rank in ranks:
        rank.start()
    theirs = result.get()
    for rank in ranks:
        rank.join(30)
    assert theirs == losses and [rank.exitcode for rank in ranks] == [0, 0]


def test_a_device_joins_while_the_run_goes_on(tmp_path: Path, trials) -> None:
    trial = Trial(tmp_path, small_task(tmp_path), {"a": [2], "b": [1]}, rounds=6)
    trials.append(trial)
    server = trial.server(devices=1)
    first = trial.device("a", link="2mbit")
    trial.until(lambda: (trial.out / "journal.json").exists() and bool(trial.journal().progress.turns))
    late = trial.device("b")
    assert [trial.wait(p) for p in (server, first, late)] == [0, 0, 0], trial.log("server")
    turns = [(t.round, t.device) for t in trial.journal().progress.turns]
    assert [t for t in turns if t[1] == "a"] == [(n, "a") for n in range(1, 7)]
    assert any(t[1] == "b" for t in turns)
    losses, adapters = replay(trial.task, turns, trial.data(), 2)
    assert [t.losses for t in trial.journal().progress.turns] == losses
    assert largest_difference(trial.journal().adapters(), adapters) == 0.0
