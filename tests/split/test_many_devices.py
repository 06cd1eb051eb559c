# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a fleet loses rounds that it has computed, or its server grows with every device and every round."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

from cardlab.profilers.runtime import resolve_task
from cardlab.split.adapters import averaged, copied, initial_adapters, size_bytes
from tests.split.models import halves, largest_difference
from tests.split.processes import Trial

MIB = 2**20
# ZeroMQ's own, those of the sockets and the one that computes; a thread a device would be more than these.
MOST_THREADS = 8


@pytest.fixture
def trials() -> Iterator[list[Trial]]:
    started: list[Trial] = []
    yield started
    for trial in started:
        trial.end()


@dataclass(frozen=True)
class Seen:
    """Of a process while it ran: most threads, and memory by the number of finished turns."""

    threads: int
    memory: dict[int, int]


def watched(process: int, turns: Path) -> dict[str, Any]:
    """Look at a process until it has ended."""
    threads, memory = 0, dict[int, int]()
    while True:
        try:
            status = Path(f"/proc/{process}/status").read_text()
        except OSError:
            break
        facts = {key: value.split() for key, _, value in (line.partition(":") for line in status.splitlines())}
        # A process that is about to end has no memory left.
        if "VmRSS" not in facts:
            break
        finished = turns.read_text().count("\n") if turns.exists() else 0
        threads = max(threads, int(facts["Threads"][0]))
        memory[finished] = max(memory.get(finished, 0), int(facts["VmRSS"][0]) * 1024)
        time.sleep(0.01)
    return {"threads": threads, "memory": memory}


def fleet(folder: Path, trials: list[Trial], count: int, rounds: int, sharing: str) -> tuple[Trial, Seen]:
    """So many devices at once; asserts that none lost a round and that the server stays as small as it may."""
    task = resolve_task("tiny-llama", batch=2, sequence=32, optimizer="adamw")
    cuts = {f"d{n:02}": [1 if sharing == "batched" else 1 + n % 3] for n in range(count)}
    # Silence is death, and so many processes on few cores are silent for long.
    trial = Trial(folder, task, cuts, rounds=rounds, epochs=2, parallel=True, sharing=sharing, silence_s=60.0)
    trials.append(trial)
    server = trial.server(join_s=300.0)
    # A process too: this one has no thread before it forks, and twenty forks take longer than a round.
    watcher = trial.fork("watcher", lambda: watched(server, trial.out / "turns.jsonl"))
    devices = [trial.device(name, server_s=300.0) for name in trial.names]
    codes = [trial.wait(process, 400.0) for process in (server, watcher, *devices)]
    assert codes == [0] * (count + 2), trial.log("server")
    found = json.loads((folder / "watcher.json").read_text())
    seen = Seen(found["threads"], {int(n): size for n, size in found["memory"].items()})
    turns = trial.journal().progress.turns
    assert sorted((t.round, t.device) for t in turns) == [(n, d) for n in range(1, rounds + 1) for d in trial.names]
    assert "abandoned" not in trial.log("server") and "made again" not in trial.log("server")
    assert seen.threads <= MOST_THREADS
    # A device has its own adapters and moments on the server, twice while they are averaged, and a message on its way.
    own = 4 * size_bytes(initial_adapters(task, 0)) * 3 + 4 * task.batch * task.sequence * 4 * 1024
    first, last = min(size for n, size in seen.memory.items() if n <= 1), max(seen.memory.values())
    assert last - first < 64 * MIB + count * own, f"{(last - first) / MIB:.0f} MiB more, {own / MIB:.1f} a device"
    after_first = max(size for n, size in seen.memory.items() if n <= count)
    assert last - after_first < 24 * MIB, f"{(last - after_first) / MIB:.0f} MiB more after the first round"
    return trial, seen


def check_losses(trial: Trial) -> None:
    """Each device's losses and the average of all, to the last bit those of every device by itself."""
    state = initial_adapters(trial.task, 0)
    found = {(t.round, t.device): t.losses for t in trial.journal().progress.turns}
    for number in range(1, trial.rounds + 1):
        ends = []
        for name in trial.names:
            device, server = halves(trial.task)
            for half in (device, server):
                half.set_cut(trial.cuts[name][0])
                half.load(copied(state))
            losses = []
            for epoch in range(trial.epochs):
                ids = trial.data()[name].batch((number - 1) * trial.epochs + epoch)
                sent = device.forward(ids)
                step = server.train(sent.detach().clone(), ids)
                device.backward(sent, step.gradient)
                losses.append(step.loss)
            ends.append({**device.export(), **server.export()})
            assert found[number, name] == tuple(losses)
        state = averaged(ends)
    assert largest_difference(trial.journal().adapters(), state) == 0.0


def test_six_devices_at_once_lose_no_round(tmp_path: Path, trials) -> None:
    trial, _ = fleet(tmp_path, trials, 6, 2, "serial")
    check_losses(trial)


@pytest.mark.accept
@pytest.mark.parametrize("sharing", ["serial", "batched"])
def test_twenty_devices_at_once_lose_no_round(tmp_path: Path, trials, sharing: str) -> None:
    trial, seen = fleet(tmp_path, trials, 20, 5, sharing)
    if sharing == "serial":
        check_losses(trial)
    sizes = sorted(seen.memory.items())
    print(
        f"20 devices of tiny-llama at once, server {sharing}: 100 of 100 rounds of a device finished; the server had"
        f" {seen.threads} threads and {sizes[0][1] / MIB:.0f} to {max(seen.memory.values()) / MIB:.0f} MiB"
    )
