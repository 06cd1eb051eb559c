# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a device or server that dies takes finished work with it, or the run hangs or goes astray."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("zmq")
# Silence counts as death after a second: a machine that others use must not look like it.
pytestmark = [pytest.mark.torch, pytest.mark.alone]

from cardlab.split.codecs.registry import pack_tensor
from cardlab.split.protocol import Activations, AdaptersReturn, End, Message, Refused
from cardlab.split.refusals import RefusalCode
from tests.split.models import largest_difference, replay, small_task
from tests.split.processes import Trial, die

STAGES = ("adapters down", "forward", "activations sent", "backward", "adapters up", "adapters sent")
EVERY_MINI_BATCH = ("forward", "activations sent", "backward")


@pytest.fixture
def trials() -> Iterator[list[Trial]]:
    started: list[Trial] = []
    yield started
    for trial in started:
        trial.end()


def dies_in(stage: str, at: int, before=lambda: None):
    """A device that is killed in that stage, the `at`-th time it comes there; `before` is called just before."""
    seen = {"count": 0}

    def strike(function):
        def run(*args, **kwargs):
            seen["count"] += 1
            if seen["count"] == at:
                before()
                die()
            return function(*args, **kwargs)

        return run

    def after_sending(function, kind):
        def send(message):
            seen["count"] += isinstance(message, kind)
            strikes = isinstance(message, kind) and seen["count"] == at
            if strikes:
                before()
            sent = function(message)
            if strikes:
                time.sleep(0.05)
                die()
            return sent

        return send

    def doom(transport, half):
        if stage == "adapters down":
            half.load = strike(half.load)
        elif stage == "forward":
            half.forward = strike(half.forward)
        elif stage == "backward":
            half.backward = strike(half.backward)
        elif stage == "adapters up":
            half.export = strike(half.export)
        else:
            kind = Activations if stage == "activations sent" else AdaptersReturn
            transport.send = after_sending(transport.send, kind)

    return doom


def assert_same_as_a_run_that_made_these_rounds(trial: Trial) -> list[tuple[int, str]]:
    journal = trial.journal()
    turns = [(t.round, t.device) for t in journal.progress.turns]
    assert len(set(turns)) == len(turns) and [t[0] for t in turns] == sorted(t[0] for t in turns)
    losses, adapters = replay(trial.task, turns, trial.data(), trial.epochs)
    assert [t.losses for t in journal.progress.turns] == losses
    assert largest_difference(journal.adapters(), adapters) == 0.0
    assert journal.progress.done
    return turns


def device_killed(folder: Path, stage: str, at: int, trials: list[Trial], count: int = 2) -> None:
    """Kill one of the devices; the others lose nothing; started again, it takes part until the end.

    From the death on, the others begin no round before the victim is ready again. So rounds are left for it however
    slow the machine is.
    """
    cuts = {f"d{n}": [1 + n % 3] for n in range(count)}
    trial = Trial(folder, small_task(folder, optimizer="adamw"), cuts, rounds=4, silence_s=1.0)
    trials.append(trial)
    struck = folder / "struck"

    def ready_count() -> int:
        return trial.log("server").count("d0 is ready")

    def waits(_transport, half):
        load = half.load

        def when_it_is_back(adapters):
            while struck.exists() and ready_count() <= int(struck.read_text()):
                time.sleep(0.02)
            return load(adapters)

        half.load = when_it_is_back

    def strike() -> None:
        partial = folder / "striking"
        partial.write_text(str(ready_count()))
        partial.rename(struck)

    server = trial.server()
    victim = trial.device("d0", doom=dies_in(stage, at, strike))
    others = [trial.device(name, doom=waits) for name in trial.names[1:]]
    assert trial.wait(victim) == -signal.SIGKILL, (trial.log("d0"), trial.log("server"))
    again = trial.device("d0")
    assert [trial.wait(p) for p in (server, again, *others)] == [0] * (2 + len(others)), trial.log("server")
    turns = assert_same_as_a_run_that_made_these_rounds(trial)
    for name in trial.names[1:]:
        assert [t for t in turns if t[1] == name] == [(n, name) for n in range(1, 5)], trial.log("server")
    # The round it died in is lost unless its adapters had left; it makes every other one.
    died_in = 1 + (at - 1) // (trial.epochs if stage in EVERY_MINI_BATCH else 1)
    missed = {1, 2, 3, 4} - {number for number, name in turns if name == "d0"}
    assert missed == {died_in} or (not missed and stage == "adapters sent"), trial.log("server")


@pytest.mark.parametrize("stage", STAGES)
def test_a_device_killed_in_any_stage(tmp_path: Path, trials, stage) -> None:
    device_killed(tmp_path, stage, 2, trials)


@pytest.mark.accept
def test_one_of_four_devices_killed_twenty_times(tmp_path: Path, trials) -> None:
    for time_number in range(20):
        folder = tmp_path / str(time_number)
        folder.mkdir()
        device_killed(folder, STAGES[time_number % len(STAGES)], 2, trials, count=4)
    print("one of four devices killed: 20 of 20 runs went on, losses equal")


def test_the_only_device_killed_and_started_again_makes_every_round(tmp_path: Path, trials) -> None:
    trial = Trial(tmp_path, small_task(tmp_path), {"a": [2]}, rounds=3, silence_s=1.0)
    trials.append(trial)
    server, victim = trial.server(), trial.device("a", doom=dies_in("forward", 4))
    assert trial.wait(victim) == -signal.SIGKILL
    again = trial.device("a")
    assert [trial.wait(server), trial.wait(again)] == [0, 0], trial.log("server")
    assert assert_same_as_a_run_that_made_these_rounds(trial) == [(1, "a"), (2, "a"), (3, "a")]


def server_killed(folder: Path, trials: list[Trial], after_s: float | None, parallel: bool = False) -> None:
    """Kill the server (in the middle of the second round, or after a time), resume it, devices stay."""
    task = small_task(folder, optimizer="adamw")
    trial = Trial(folder, task, {"a": [1, 2], "b": [3]}, rounds=4, parallel=parallel, silence_s=1.0)
    trials.append(trial)

    def doom(half):
        count, original = [0], half.train

        def train(*args):
            count[0] += 1
            if count[0] == 6:
                die()
            return original(*args)

        half.train = train

    server = trial.server(doom=doom if after_s is None else None)
    devices = [trial.device(name, link="4mbit") for name in trial.names]
    if after_s is not None:
        time.sleep(after_s)
        os.kill(server, signal.SIGKILL)
    assert trial.wait(server) == -signal.SIGKILL, trial.log("server")
    before = trial.journal().progress.turns if (trial.out / "journal.json").exists() else ()
    again = trial.server(resume=(trial.out / "journal.json").exists())
    assert [trial.wait(p) for p in (again, *devices)] == [0, 0, 0], (trial.log("server"), trial.log("a"))
    after = trial.journal().progress.turns
    assert after[: len(before)] == before
    assert {(t.round, t.device) for t in after} == {(n, d) for n in range(1, 5) for d in ("a", "b")}
    if not parallel:
        assert_same_as_a_run_that_made_these_rounds(trial)


@pytest.mark.parametrize("parallel", [False, True])
def test_the_server_killed_and_resumed(tmp_path: Path, trials, parallel) -> None:
    server_killed(tmp_path, trials, None, parallel)


class HalfWay(threading.Thread):
    """Passes bytes on to the server until one connection has sent `limit`, then kills the sender."""

    def __init__(self, port: int, target: int, limit: int, victim: int) -> None:
        super().__init__(daemon=True)
        self._target, self._limit, self._victim = target, limit, victim
        self.struck = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", port))

    def run(self) -> None:
        while not self.struck.is_set():
            near, _ = self._listening.accept()
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # the server is not there yet; the device tries again
                near.close()
                continue
            threading.Thread(target=self._pass, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, False), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        count = 0
        with source, sink:
            while data := _received(source):
                count += len(data)
                if up and count > self._limit:
                    os.kill(self._victim, signal.SIGKILL)
                    self.struck.set()
                    return
                with contextlib.suppress(OSError):
                    sink.sendall(data)


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(512)
    except OSError:  # the other direction has closed it
        return b""


def half_sent(folder: Path, trials: list[Trial], limit: int) -> None:
    trial = Trial(folder, small_task(folder), {"a": [2], "b": [1]}, rounds=3, silence_s=1.0)
    trials.append(trial)
    server = trial.server(join_s=30.0)
    other = trial.device("b", link="1mbit,20ms")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    victim = trial.device("a", port=port)
    HalfWay(port, trial.port, limit, victim).start()
    assert trial.wait(victim) == -signal.SIGKILL, (trial.log("a"), trial.log("server"))
    again = trial.device("a")
    assert [trial.wait(p) for p in (server, other, again)] == [0, 0, 0], trial.log("server")
    assert_same_as_a_run_that_made_these_rounds(trial)


def test_a_message_that_was_half_sent_when_its_device_died(tmp_path: Path, trials) -> None:
    half_sent(tmp_path, trials, 14_000)


def spoiled(message: Activations, how: str) -> Message:
    if how == "not a number":
        return replace(message, activation=pack_tensor(torch.full((2, 24, 48), float("nan"))))
    if how == "shape":
        return replace(message, activation=pack_tensor(torch.zeros(2, 24, 3)))
    if how == "vocabulary":
        return replace(message, labels=pack_tensor(torch.full((2, 24), 999, dtype=torch.int32)))
    if how == "order":
        return replace(message, epoch=7)
    if how == "never sent by a device":
        return End(rounds=1)
    return AdaptersReturn(round=message.round, sent_s=0.0, terms={}, up_bytes=0, down_bytes=0, rtt_s=None, adapters={})


# What the device is told of it; the code is what programs read.
SAID = {
    "not a number": RefusalCode.NOT_FINITE,
    "shape": RefusalCode.TENSOR,
    "vocabulary": RefusalCode.TENSOR,
    "order": RefusalCode.OUT_OF_TURN,
    "never sent by a device": RefusalCode.OUT_OF_TURN,
    "too early": RefusalCode.OUT_OF_TURN,
}


@pytest.mark.parametrize("how", SAID)
def test_nonsense_costs_its_sender_the_run_and_nobody_else(tmp_path: Path, trials, how) -> None:
    trial = Trial(tmp_path, small_task(tmp_path), {"a": [2], "b": [1]}, rounds=3, silence_s=1.0)
    trials.append(trial)
    count = [0]

    def doom(transport, half):
        send, receive = transport.send, transport.receive

        def wrong(message):
            count[0] += isinstance(message, Activations)
            return send(spoiled(message, how) if isinstance(message, Activations) and count[0] == 3 else message)

        def listening(timeout_s):
            came = receive(timeout_s)
            if came is not None and isinstance(came.message, Refused):
                (tmp_path / "code").write_text(came.message.code.value)
            return came

        transport.send, transport.receive = wrong, listening

    server, good, bad = trial.server(), trial.device("b"), trial.device("a", doom=doom)
    assert [trial.wait(p) for p in (server, good, bad)] == [0, 0, 1], trial.log("server")
    assert (tmp_path / "a.err").read_text() and (tmp_path / "code").read_text() == SAID[how].value
    turns = assert_same_as_a_run_that_made_these_rounds(trial)
    assert turns == [(1, "a"), (1, "b"), (2, "b"), (3, "b")]


def test_a_label_that_is_taken_is_refused_until_its_owner_is_silent(tmp_path: Path, trials) -> None:
    """A dead process keeps its label for a while: the next one of that label asks again and gets in."""
    trial = Trial(tmp_path, small_task(tmp_path), {"a": [2]}, rounds=3, silence_s=4.0)
    trials.append(trial)
    codes = tmp_path / "codes"

    def listens(transport):
        receive = transport.receive

        def listening(timeout_s):
            came = receive(timeout_s)
            if came is not None and isinstance(came.message, Refused):
                with codes.open("a") as file:
                    file.write(f"{came.message.code.value}\n")
            return came

        transport.receive = listening

    server, victim = trial.server(), trial.device("a", doom=dies_in("forward", 4))
    assert trial.wait(victim) == -signal.SIGKILL
    again = trial.device("a", before=listens)
    assert [trial.wait(again), trial.wait(server)] == [0, 0], trial.log("server")
    assert set(codes.read_text().split()) == {RefusalCode.NAME_TAKEN.value}
    assert assert_same_as_a_run_that_made_these_rounds(trial) == [(1, "a"), (2, "a"), (3, "a")]


def test_a_device_that_stalls_loses_its_round_and_comes_back(tmp_path: Path, trials) -> None:
    trial = Trial(tmp_path, small_task(tmp_path), {"a": [2], "b": [1]}, rounds=5, silence_s=1.0)
    trials.append(trial)

    def doom(_transport, half):
        forward, count = half.forward, [0]

        def sleepy(*given):
            count[0] += 1
            if count[0] == 4:
                os.kill(os.getpid(), signal.SIGSTOP)
            return forward(*given)

        half.forward = sleepy

    server, other, sleeper = trial.server(), trial.device("b", link="1mbit,50ms"), trial.device("a", doom=doom)
    trial.until(lambda: "abandoned" in trial.log("server"))
    os.kill(sleeper, signal.SIGCONT)
    assert [trial.wait(p) for p in (server, other, sleeper)] == [0, 0, 0], (trial.log("server"), trial.log("a"))
    turns = assert_same_as_a_run_that_made_these_rounds(trial)
    assert (2, "a") not in turns and (5, "a") in turns and (1, "a") in turns


def test_nobody_left_ends_in_one_line_and_keeps_what_is_finished(tmp_path: Path, trials) -> None:
    trial = Trial(tmp_path, small_task(tmp_path), {"a": [2]}, rounds=3, silence_s=1.0)
    trials.append(trial)
    server, victim = trial.server(join_s=2.5), trial.device("a", doom=dies_in("forward", 4))
    assert trial.wait(victim) == -signal.SIGKILL
    assert trial.wait(server) == 1
    assert "--resume" in (tmp_path / "server.err").read_text()
    assert [(t.round, t.device) for t in trial.journal().progress.turns] == [(1, "a")]


@pytest.mark.accept
@pytest.mark.parametrize("stage", STAGES)
def test_twenty_kills_of_a_device(tmp_path: Path, trials, stage) -> None:
    for time_number in range(20):
        folder = tmp_path / str(time_number)
        folder.mkdir()
        device_killed(folder, stage, 1 + time_number % 3, trials)
    print(f"killed in stage {stage!r}: 20 of 20 runs went on, losses equal")


@pytest.mark.accept
def test_twenty_kills_of_the_server(tmp_path: Path, trials) -> None:
    chance = random.Random(0)
    for time_number in range(20):
        folder = tmp_path / str(time_number)
        folder.mkdir()
        server_killed(folder, trials, 0.5 + 0.5 * chance.random())
    print("server killed: 20 of 20 runs continued, losses equal")


@pytest.mark.accept
def test_twenty_messages_half_sent(tmp_path: Path, trials) -> None:
    for time_number in range(20):
        folder = tmp_path / str(time_number)
        folder.mkdir()
        half_sent(folder, trials, 6000 + 1100 * time_number)
    print("message half sent: 20 of 20 runs went on, losses equal")
