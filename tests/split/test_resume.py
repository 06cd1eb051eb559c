# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a run cannot be made longer or corrected, or goes on as something else than its journal says."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

from cardlab.core.errors import UsageError
from cardlab.split.adapters import AdapterSet, initial_adapters
from cardlab.split.device import Equipment, SplitDevice
from cardlab.split.journal import Conditions, Journal
from cardlab.workflows.options.run import RunOptions, ServerOptions
from cardlab.workflows.run import FinishedRun
from cardlab.workflows.run_resume import finished_already, going_on
from tests import records
from tests.cli.run import Result, command
from tests.split.models import small_task
from tests.split.test_parts import run_settings, turn

RUN = ("card", "run", "--local", "--cut", "1", "--seq", "8", "--batch", "2", "--dtype", "float32", "--rounds", "2")
WHEN = "2026-11-21T10:00:00.000000Z"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def again(*words: str, out: str = "run") -> Result:
    return command("card", "run", "--local", "--resume", "--out", out, "--json", *words)


def moved(found: AdapterSet | None, before: AdapterSet | None) -> dict[str, Any]:
    """How far each tensor went."""
    assert found is not None and before is not None
    return {
        f"{layer}/{name}": tensor.double() - before[layer].parameters[name].double()
        for layer, state in found.items()
        for name, tensor in state.parameters.items()
    }


def test_a_finished_run_says_so_at_once_and_goes_on_longer_and_at_another_rate(tmp_path: Path) -> None:
    assert command(*RUN, "--out", "run").code == 0
    two = Journal.resume(tmp_path / "run").adapters()
    began = time.monotonic()
    for words in ((), ("--rounds", "2"), ("--learning-rate", "0.001")):
        done = again(*words)
        assert done.code == 0 and "has made its 2 round(s): nothing is left to do" in done.err, done.err
        assert [r["round"] for r in done.document["rounds"]] == [1, 2]
    # It listened for 300 s.
    assert time.monotonic() - began < 20.0
    again("--rounds", "1").failed_in_one_line(2, "has made 2 round(s)", "--rounds 1 has no effect", "more than 2")
    again("--learning-rate", "0.01").failed_in_one_line(2, "--learning-rate has no effect", "more --rounds")
    # Killed between its last round and its adapters.
    weights = tmp_path / "run" / "adapters" / "adapter_model.safetensors"
    was = weights.read_bytes()
    weights.write_bytes(was[:-8] + bytes(8))
    assert again().code == 0 and weights.read_bytes() == was

    shutil.copytree(tmp_path / "run", tmp_path / "quick")
    longer = again("--rounds", "3")
    assert longer.code == 0 and "3 rounds instead of 2" in longer.err, longer.err
    assert [r["round"] for r in longer.document["rounds"]] == [1, 2, 3]
    quick = again("--rounds", "3", "--learning-rate", "0.01", "--threads", "2", out="quick")
    assert quick.code == 0 and "learning rate 0.01 from round 3 on, 0.001 before" in quick.err
    assert "computes with 2 CPU thread(s) now, with 1 before" in quick.err
    # Plain SGD from the same adapters on the same mini-batch: ten times as far, on both sides of the cut.
    slow_way, quick_way = (moved(Journal.resume(tmp_path / name).adapters(), two) for name in ("run", "quick"))
    assert any(float(way.abs().max()) > 0 for way in slow_way.values())
    for name, way in slow_way.items():
        assert torch.allclose(quick_way[name], 10.0 * way, rtol=1e-2, atol=1e-7), name
    progress = Journal.resume(tmp_path / "quick").progress
    assert progress.rates == ((1, 1e-3), (3, 1e-2)) and progress.done and progress.conditions == Conditions(threads=2)
    card = (tmp_path / "quick" / "adapters" / "README.md").read_text("utf-8")
    assert "learning rate 0.01 from round 3 on (0.001 in round(s) 1 to 2)" in card and "3 round(s)" in card
    # A run that was made longer is the run that was long from its begin.
    whole = command(*RUN[:-2], "--rounds", "3", "--out", "whole", "--json")
    losses = [[d["losses"] for r in x.document["rounds"] for d in r["devices"]] for x in (whole, longer)]
    assert losses[0] == losses[1]


def unfinished(folder: Path, closed: int = 1, **settings: Any) -> Journal:
    task = small_task(folder)
    journal = Journal.begin(folder / "run", run_settings(task, **settings), WHEN, Conditions(threads=1, link="1mbit"))
    for number in range(1, closed + 1):
        journal.commit(initial_adapters(task, 0), turn(number), close=True)
    return Journal.resume(journal.folder)


def resumed(**values: Any) -> RunOptions:
    return RunOptions(local=True, resume=True, out="run", **values)


def test_what_is_as_it_was_changes_nothing(tmp_path: Path) -> None:
    journal = unfinished(tmp_path)
    going = going_on(resumed(rounds=3, learning_rate=1e-2, link="1mbit"), journal, "1mbit", WHEN)
    assert going.change is None and going.settings == journal.settings
    assert going.notes == ("goes on after round 1 of 3",)
    assert finished_already(resumed()) is None


def test_a_longer_falling_rate_is_said_and_a_shorter_run_ends_sooner(tmp_path: Path) -> None:
    journal = unfinished(tmp_path, schedule="linear")
    going = going_on(resumed(rounds=9), journal, None, WHEN)
    said = "\n".join(going.notes)
    assert "the linear learning rate falls to 0 by the end of 9 rounds now: from round 2 it is as if" in said
    assert "links are not shaped now, shaped to 1mbit before" in said
    assert going.change is not None and going.change.conditions == Conditions(threads=1)
    assert going_on(resumed(rounds=2), journal, "1mbit", WHEN).settings.rounds == 2
    with pytest.raises(UsageError, match="has made 1 round.*--rounds 1 has no effect.*card run export"):
        going_on(resumed(rounds=1), journal, None, WHEN)


def test_a_round_in_progress_keeps_the_rate_of_who_made_it(tmp_path: Path) -> None:
    journal = unfinished(tmp_path)
    journal.commit(initial_adapters(journal.settings.task, 0), turn(2))
    going = going_on(resumed(learning_rate=5e-3), journal, "1mbit", WHEN)
    assert "round 2 was made by board at 0.01 already" in going.notes
    assert going.change is not None and (going.change.after, going.change.turns) == (1, 2)


def test_a_device_that_stayed_takes_the_new_rate(tmp_path: Path) -> None:
    """It kept its half, with the learning rate that it was made with."""
    made = []

    def equip(settings: Any) -> Equipment:
        made.append(settings.learning_rate)
        return Equipment(None, lambda _number: None)  # type: ignore[arg-type,return-value]

    device = SplitDevice(None, records.DEVICE, equip)  # type: ignore[arg-type]
    settings = run_settings(small_task(tmp_path))
    for now in (settings, settings, replace(settings, learning_rate=5e-3), replace(settings, learning_rate=5e-3)):
        device._prepare(now)
    assert made == [1e-2, 5e-3]


def test_a_rate_that_is_none_is_refused_on_resume_too(tmp_path: Path) -> None:
    unfinished(tmp_path)
    again("--learning-rate", "0").failed_in_one_line(2, "--learning-rate is 0")
    # AdamW's first step multiplies it by ten, which torch ends with an error of its own.
    again("--learning-rate", "1e38").failed_in_one_line(2, "--learning-rate is 1e+38")
    again("--seed", "3").failed_in_one_line(2, "--seed has no effect")
    assert ServerOptions().learning_rate is None


@pytest.mark.parametrize(("parallel", "left"), [(False, 45.0), (True, 18.0)])
def test_the_time_left_is_of_the_devices_that_come(tmp_path: Path, parallel: bool, left: float) -> None:
    """Three devices of 2, 3 and 4 s, whatever number was waited for; after the first of round 6 of 10."""
    from cardlab.cli.run.run_table import left_s

    settings = run_settings(small_task(tmp_path), rounds=10, parallel=parallel)
    turns = [turn(n, name, elapsed_s=s) for n in range(1, 6) for name, s in (("a", 2.0), ("b", 3.0), ("c", 4.0))]
    assert left_s(settings, turns) == pytest.approx((5 * 4.0) if parallel else 5 * 9.0)
    after = [*turns, turn(6, "a", elapsed_s=2.0)]
    assert left_s(settings, after) == pytest.approx(left if parallel else left - 2.0)
    assert left_s(settings, turns[:1]) == 9 * 2.0


def test_a_long_run_ends_in_its_last_rows_and_a_summary(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from cardlab.cli.run.run_table import print_run

    turns = [turn(n, losses=(float(n),)) for n in range(1, 3001)]
    print_run(
        FinishedRun(settings=run_settings(small_task(tmp_path), rounds=3000), turns=tuple(turns), adapters=Path("a")),
        as_json=False,
    )
    said = capsys.readouterr().out
    assert said.count("board") == 40 and "the last 40 of 3000 turns" in said
    assert "loss 1.0000 in round 1, 3000.0000 in round 3000" in said
    print_run(
        FinishedRun(settings=run_settings(small_task(tmp_path), rounds=3000), turns=tuple(turns), adapters=Path("a")),
        as_json=True,
    )
    assert capsys.readouterr().out.count('"device": "board"') == 3000


def test_a_run_that_is_refused_stays_finished_and_one_that_is_long_enough_is_ended(tmp_path: Path) -> None:
    """Other data are refused on resume: nothing of the longer run stays behind, and an unfinished one can be ended."""
    (tmp_path / "a.txt").write_text("one text, and some more of it. " * 40)
    (tmp_path / "b.txt").write_text("another text, of which nothing was seen. " * 40)
    assert command(*RUN, "--data", "a.txt", "--out", "run").code == 0
    steps = (tmp_path / "run" / "turns.jsonl").read_bytes()
    log = (tmp_path / "run" / "device-1.log").stat().st_mtime_ns
    again("--rounds", "5", "--data", "b.txt").failed_in_one_line(1, "other data")
    other_rows = "other rows of a file of that name"
    again("--rounds", "5", "--data", "a.txt", "--eval-share", "0.2").failed_in_one_line(1, other_rows, "--eval-share")
    # Before any process was started.
    assert (tmp_path / "run" / "device-1.log").stat().st_mtime_ns == log
    assert Journal.resume(tmp_path / "run").progress.done
    assert (tmp_path / "run" / "turns.jsonl").read_bytes() == steps
    (tmp_path / "other").mkdir()
    unfinished(tmp_path / "other", closed=2, rounds=9)
    over = again("--rounds", "2", out="other/run")
    assert over.code == 0 and "has made its 2 round(s): nothing is left to do" in over.err, over.err
    progress = Journal.resume(tmp_path / "other" / "run").progress
    assert progress.done and progress.settings.rounds == 2
