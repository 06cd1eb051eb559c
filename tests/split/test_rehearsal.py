# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a profile rehearses other steps than a run makes, or leaves out to say that it could not."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.torch, pytest.mark.once]

from cardlab.core.records.measurement import RunKind
from cardlab.core.records.rehearsal import ADAPTERS, COMPUTE, DECODE, ENCODE, FIRST, LOAD, Rehearsal
from cardlab.db import open_store
from cardlab.profilers.board.timer import ElapsedTimer, LapSample, WallTimer
from cardlab.profilers.runtime import resolve_task
from cardlab.profilers.runtime.execution import resolve_execution
from cardlab.split import rehearsal
from cardlab.split.halves import Half
from cardlab.split.rehearsal import STEPS, Subject, rehearse
from cardlab.split.weights import SeededWeights, open_weights
from tests.cli.run import command

TINY = ("--model", "tiny-llama", "--seq", "32", "--dtype", "float32", "--no-whole-step", "--repeats", "5")


@pytest.fixture
def subject() -> Subject:
    task = resolve_task("tiny-llama", batch=2, sequence=16)
    execution = resolve_execution(dtype="float32")
    return Subject(
        task=task,
        execution=execution,
        weights=open_weights(task, 0),
        torch_device="cpu",
        timer=ElapsedTimer(WallTimer()),
    )


def test_each_side_makes_real_steps_of_its_own_layers(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, backward and an optimizer step each: adapters move, and none of the other side's layers is there."""
    held: list[tuple[str, int, int]] = []
    made = {"device": 0, "server": 0}
    before: dict[str, dict[int, float]] = {}
    forward, train = Half.forward, Half.train

    def spied_forward(self, *args, **kwargs):
        made["device"] += 1
        held.append((self.side, self.cut, len(self.numbers)))
        return forward(self, *args, **kwargs)

    def spied_train(self, *args, **kwargs):
        made["server"] += 1
        held.append((self.side, self.cut, len(self.numbers)))
        found = train(self, *args, **kwargs)
        assert found.loss > 0
        before.setdefault(self.side, {})[self.cut] = found.loss
        return found

    monkeypatch.setattr(Half, "forward", spied_forward)
    monkeypatch.setattr(Half, "train", spied_train)
    layers = subject.task.architecture.layers
    device = list(rehearse(subject, "device", (1, layers - 1)))
    server = list(rehearse(subject, "server", (layers - 1, 1)))
    assert [r.cut for r in device] == [1, layers - 1] and [r.cut for r in server] == [layers - 1, 1]
    assert {(side, cut): n for side, cut, n in held} == {
        ("device", 1): 1,
        ("device", layers - 1): layers - 1,
        ("server", layers - 1): 1,
        ("server", 1): layers - 1,
    }
    assert made["device"] >= 2 * STEPS and made["server"] >= 2 * STEPS
    # More layers take longer, and all of a side's are loaded: what the second cut adds comes on top of the first.
    for one in (device, server):
        first, second = one
        assert second.load_s > first.load_s > 0.0
        assert second.first_more_s >= first.first_more_s >= 0.0
        assert all(r.compute.estimate and r.encode.estimate and r.decode.estimate and r.handling.estimate for r in one)
    assert device[1].adapter_bytes == (layers - 1) * device[0].adapter_bytes
    smashed = 2 * 16 * subject.task.architecture.hidden_size * 4
    assert {r.smashed_bytes for r in (*device, *server)} == {smashed}


def test_made_up_weights_are_not_made_while_loading_is_timed(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each tensor takes a tenth of a second to make: a run finds them in their files, and so does what is timed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    make = SeededWeights._make

    def slow(self, name, shape):
        made.append(name)
        time.sleep(0.1)
        return make(self, name, shape)

    made: list[str] = []
    monkeypatch.setattr(SeededWeights, "_make", slow)
    fresh = replace(subject, weights=open_weights(subject.task, 7))
    (found,) = rehearse(fresh, "device", (1,))
    assert len(made) > 5 and found.load_s < 0.1 * len(made) / 2


def test_a_side_rests_while_the_other_would_compute(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes the timer 40 ms: the side rests as long, and no rest is in its time."""
    rests: list[float] = []
    monkeypatch.setattr("cardlab.split.rehearsal.time.sleep", rests.append)

    class Slow(ElapsedTimer):
        def time(self, lap, work):
            return super().time(lap, work)._replace(wall_s=0.04)

    slow = replace(subject, timer=Slow(WallTimer()))
    (found,) = rehearse(slow, "device", (1,))
    assert set(rests) == {0.04} and len(rests) >= 2 * STEPS
    assert found.compute.estimate is not None and found.compute.estimate.value == pytest.approx(0.08)


def test_disturbed_steps_give_no_value(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "REHEARSAL_S", 0.5)

    class Disturbed(ElapsedTimer):
        def time(self, lap, work):
            return LapSample(wall_s=super().time(lap, work).wall_s, cpu_s=1e-6, involuntary_switches=500)

    busy = replace(subject, timer=Disturbed(WallTimer()))
    (found,) = rehearse(busy, "server", (1,))
    assert found.compute.estimate is None and found.compute.contended


def test_a_profile_rehearses_and_can_leave_it_out(tmp_path: Path) -> None:
    database = tmp_path / "r.db"
    result = command("profile-device", *TINY, "--name", "a", "--sittings", "2", "--db", str(database))
    assert result.code == 0, result.err
    assert "sitting 2 of 2, in a process of its own" in result.err
    with open_store(database) as store:
        profiles = store.runs.select(kind=RunKind.PROFILE)
        found = [Rehearsal(p) for p in store.runs.select(kind=RunKind.REHEARSAL)]
    assert len({p.run.sitting for p in profiles}) == 2
    assert {r.profile.run.sitting for r in found} == {p.run.sitting for p in profiles}
    for one in found:
        assert one.profile.complete
        names = {what for _, what in one.rows}
        assert {ENCODE, DECODE, ADAPTERS, FIRST, LOAD} <= names <= {ENCODE, DECODE, ADAPTERS, FIRST, LOAD, COMPUTE}
    left_out = command("profile-device", *TINY, "--no-rehearsal", "--db", str(tmp_path / "n.db"))
    assert left_out.code == 0
    with open_store(tmp_path / "n.db") as store:
        assert not store.runs.select(kind=RunKind.REHEARSAL)


@pytest.mark.parametrize("word", [("--resume",), ("--budget", "60s")])
def test_sittings_and_what_is_of_one_are_refused_in_one_line(word, tmp_path: Path) -> None:
    result = command("profile-device", *TINY[:-2], *word, "--sittings", "2", "--db", str(tmp_path / "x.db"))
    result.failed_in_one_line(2, f"{word[0]} is of one sitting")
    assert not (tmp_path / "x.db").exists()
