# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a run that was killed is not whole, or keeping a round costs more with each one that was kept."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from cardlab.core.errors import RunError
from cardlab.core.plain import to_plain
from cardlab.split.adapters import AdapterSet, initial_adapters
from cardlab.split.journal import Change, Conditions, Journal
from cardlab.split.journal_files import DiskError
from cardlab.split.settings import Inputs
from tests.split.models import largest_difference, small_task
from tests.split.test_parts import run_settings, turn

WHEN = "2026-11-21T10:00:00.000000Z"
# Everything by which a journal reaches the disk.
DOORS = ((os, "pwrite"), (os, "ftruncate"), (os, "fsync"), (os, "open"), (Path, "replace"), (Path, "unlink"))


class Killed(BaseException):
    pass


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, place: int) -> Iterator[None]:
    """The process ends at its `place`-th act on the disk; of what it was writing half is there."""
    left = [place]

    def spoil(real: Callable[..., object], name: str) -> Callable[..., object]:
        def act(*given, **named):
            if left[0] == 0:
                if name == "pwrite":
                    number, data, at = given
                    real(number, data[: len(data) // 2], at)
                raise Killed
            left[0] -= 1
            return real(*given, **named)

        return act

    with monkeypatch.context() as patch:
        for owner, name in DOORS:
            patch.setattr(owner, name, spoil(getattr(owner, name), name))
        yield


def acts_of(
    monkeypatch: pytest.MonkeyPatch, prepare: Callable[[], Journal], act: Callable[[Journal], None]
) -> Iterator[Journal]:
    """What is found after a kill at each place of an act, until it ends before the kill."""
    for place in range(100):
        journal = prepare()
        try:
            with killed_at(monkeypatch, place):
                act(journal)
        except Killed:
            yield Journal.resume(journal.folder)
        else:
            assert place > 3, "the act never came to the disk"
            yield Journal.resume(journal.folder)
            return
    raise AssertionError("the act never ends")


def test_a_kill_at_any_place_of_a_commit_leaves_the_run_before_it_or_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = small_task(tmp_path)
    states = [initial_adapters(task, seed) for seed in range(2)]
    folders = iter(tmp_path / str(n) for n in range(100))

    def prepare() -> Journal:
        begun = Journal.begin(next(folders), run_settings(task), WHEN)
        begun.commit(states[0], turn(1), close=True)
        return Journal.resume(begun.folder)

    seen = []
    for found in acts_of(monkeypatch, prepare, lambda j: j.commit(states[1], turn(2), turn(2, "other"), close=True)):
        seen.append(len(found.progress.turns))
        assert (len(found.progress.turns), found.progress.closed) in ((1, 1), (3, 2))
        assert largest_difference(found.adapters(), states[0 if seen[-1] == 1 else 1]) == 0.0
        # It goes on, over whatever the kill left.
        found.commit(states[1], turn(9))
        again = Journal.resume(found.folder)
        assert again.progress == found.progress and again.progress.turns[-1].round == 9
        assert largest_difference(again.adapters(), states[1]) == 0.0
    assert seen[0] == 1 and seen[-1] == 3


def test_a_kill_while_an_older_journal_becomes_a_new_one_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = small_task(tmp_path)
    folders = iter(tmp_path / str(n) for n in range(100))
    state = initial_adapters(task, 1)

    def prepare() -> Journal:
        return Journal.resume(second(next(folders), task, state))

    seen = []
    for found in acts_of(monkeypatch, prepare, lambda journal: journal.close_round()):
        seen.append(found.progress.closed)
        assert found.progress.turns == (turn(1), turn(2)) and found.progress.inputs == {"board": Inputs(data="d")}
        assert found.progress.started_at == WHEN and found.progress.rates == ((1, 1e-2),)
        assert largest_difference(found.adapters(), state) == 0.0
    assert seen[0] == 1 and seen[-1] == 2


def second(folder: Path, task, state: AdapterSet) -> Path:
    """An unfinished run as format 2 kept it: one file with everything."""
    begun = Journal.begin(folder, run_settings(task), WHEN)
    begun.admit("board", Inputs(data="d"))
    begun.commit(state, turn(1), close=True)
    begun.commit(state, turn(2))
    whole = {k: v for k, v in to_plain(begun.progress).items() if k not in ("conditions", "changes", "rates")}
    (folder / "journal.json").write_text(json.dumps({**whole, "format": 2}))
    (folder / "turns.jsonl").unlink()
    return folder


def test_a_last_line_without_its_end_is_dropped_and_damage_elsewhere_is_named(tmp_path: Path) -> None:
    task, out = small_task(tmp_path), tmp_path / "out"
    journal = Journal.begin(out, run_settings(task), WHEN)
    journal.commit(initial_adapters(task, 0), turn(1), close=True)
    journal.close_round()
    journal.close_round()
    steps = out / "turns.jsonl"
    whole = steps.read_bytes()
    lines = whole.splitlines(keepends=True)
    for torn in (lines[2][:-1], lines[2][:9], bytes(len(lines[2])), bytes(9) + lines[2][9:]):
        steps.write_bytes(b"".join(lines[:2]) + torn)
        assert Journal.resume(out).progress.closed == 2
    for damaged in (
        lines[0] + lines[1][:9] + b"\n" + lines[2],
        lines[0] + bytes(20) + lines[1] + lines[2],
        lines[0] + lines[2] + lines[2][:5],
        whole + lines[2] + lines[2][:5],
        lines[0] + b"[]\n" + lines[2],
    ):
        steps.write_bytes(damaged)
        with pytest.raises(RunError, match=r"journal.json cannot be understood: line \d of turns.jsonl is damaged"):
            Journal.resume(out)
    steps.unlink()
    with pytest.raises(RunError, match="cannot be understood.*turns.jsonl"):
        Journal.resume(out)


@pytest.mark.alone
def test_a_turn_costs_the_same_after_ten_and_after_ten_thousand(tmp_path: Path) -> None:
    """The first form was .3 s a turn at 1,000 turns and 3.9 s at 10,000."""
    task = small_task(tmp_path)
    state = initial_adapters(task, 0)

    def cost(count: int) -> tuple[float, int]:
        journal = Journal.begin(tmp_path / str(count), run_settings(task, rounds=20_000), WHEN)
        journal.commit(state, *[turn(n) for n in range(1, count + 1)])
        times = []
        before = written()
        for number in range(count + 1, count + 101):
            began = time.perf_counter()
            assert not journal.finished_in(number)
            journal.admit("board", Inputs())
            journal.commit(state, turn(number))
            journal.close_round()
            times.append(time.perf_counter() - began)
        used = written() - before
        assert len(Journal.resume(journal.folder).progress.turns) == count + 100
        return median(times), used // 100

    few_s, few_bytes = cost(10)
    many_s, many_bytes = cost(10_000)
    print(f"a turn: {few_s * 1e3:.2f} ms, {few_bytes} bytes after 10; {many_s * 1e3:.2f} ms, {many_bytes} after 10,000")
    assert many_bytes < 1.02 * few_bytes
    assert many_s < 3.0 * few_s


def written() -> int:
    """Bytes that this process wrote so far."""
    path = Path("/proc/self/io")
    if not path.exists():
        pytest.skip("this is a system that counts no writes")
    return int(path.read_text().split("wchar: ")[1].split()[0])


@pytest.mark.parametrize(("code", "said"), [(errno.ENOSPC, "make room"), (errno.EROFS, "make it writable")])
@pytest.mark.parametrize("door", ["pwrite", "fsync"])
def test_a_full_or_read_only_disk_is_one_line_and_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, said: str, door: str
) -> None:
    task = small_task(tmp_path)
    journal = Journal.begin(tmp_path / "out", run_settings(task), WHEN)
    states = [initial_adapters(task, seed) for seed in range(2)]
    journal.commit(states[0], turn(1))
    real = getattr(os, door)

    def full(*given):
        if door == "pwrite":
            real(given[0], given[1][:20], given[2])
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch, pytest.raises(DiskError, match=said) as refused:
        patch.setattr(os, door, full)
        journal.commit(states[1], turn(2))
    assert "\n" not in str(refused.value) and "--resume" in refused.value.remedy
    for found in (journal, Journal.resume(journal.folder)):
        assert len(found.progress.turns) == 1
        assert largest_difference(found.adapters(), states[0]) == 0.0
    journal.commit(states[1], turn(2))
    assert len(Journal.resume(journal.folder).progress.turns) == 2
    assert not list(journal.folder.glob("*.part"))


def test_what_was_changed_when_a_run_went_on_is_kept_with_its_rounds(tmp_path: Path) -> None:
    task = small_task(tmp_path)
    journal = Journal.begin(tmp_path / "out", run_settings(task), WHEN, Conditions(threads=1, link="10mbit"))
    journal.commit(initial_adapters(task, 0), turn(1), close=True)
    journal.change(Change(after=1, turns=1, at=WHEN, learning_rate=5e-3, conditions=Conditions(threads=2)))
    journal.close_round()
    journal.close_round()
    journal.close_round(done=True)
    assert journal.progress.done
    journal.change(Change(after=3, turns=1, at=WHEN, rounds=5))
    assert journal.settings.rounds == 5 and not journal.progress.done
    # A device that is let in, or refused, has made nothing of it yet: the run is finished, as it was.
    journal.admit("board", Inputs(data="a"))
    before = Journal.resume(tmp_path / "out").progress
    assert before.done and before.settings.rounds != 5 and len(before.changes) == 1
    journal.commit(initial_adapters(task, 0), turn(4), close=True)
    for found in (journal, Journal.resume(tmp_path / "out")):
        progress = found.progress
        assert (progress.settings.rounds, progress.settings.learning_rate, progress.done) == (5, 5e-3, False)
        assert progress.rates == ((1, 1e-2), (2, 5e-3)) and progress.conditions == Conditions(threads=2)
        assert [change.after for change in progress.changes] == [1, 3]
