# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, the adapters of a run can be had at its end only, or not where they are taken to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

from safetensors.torch import load_file

from cardlab.core.errors import RunError, UsageError
from cardlab.split.checkpoints import keep_checkpoints
from cardlab.workflows.options.run import RunExportOptions
from cardlab.workflows.run_adapters import export_adapters
from tests.cli.run import command
from tests.split.test_agreement import with_weights
from tests.split.test_resume import unfinished

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(folder: Path) -> None:
    folder.mkdir()
    (folder / "a").write_text("")


def test_the_newest_and_the_best_stay_and_are_named(tmp_path: Path) -> None:
    folder, quality = tmp_path / "checkpoints", {2: 3.0, 4: 2.0, 6: 2.5, 3: 0.1}
    (folder / "round-4.part").mkdir(parents=True)
    found = [keep_checkpoints(folder, n, made, keep=2, quality=quality) for n in (2, 4, 6, 8, 10)]
    assert [each.kept for each in found] == [(2,), (2, 4), (4, 6), (4, 6, 8), (4, 8, 10)]
    assert (found[-1].last, found[-1].best) == (10, 4)
    assert json.loads((folder / "checkpoints.json").read_text()) == {"last": "round-10", "best": "round-4"}
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoints.json", "round-10", "round-4", "round-8"]
    assert keep_checkpoints(tmp_path / "plain", 1, made).best is None


def test_the_best_alone_stays_where_no_round_is_due(tmp_path: Path) -> None:
    found = [keep_checkpoints(tmp_path / "c", n, made, every=None, quality={2: 3.0, 5: 2.0}) for n in (2, 5)]
    assert [(each.kept, each.last, each.best) for each in found] == [((2,), None, 2), ((5,), None, 5)]
    # Beside those that are due, a better one between two of them does not count as one of the newest.
    some = [keep_checkpoints(tmp_path / "d", n, made, every=4, quality={4: 3.0, 5: 2.0, 8: 4.0}) for n in (4, 5, 8)]
    assert [(each.kept, each.last, each.best) for each in some] == [((4,), 4, 4), ((4, 5), 4, 5), ((5, 8), 8, 5)]


def test_a_checkpoint_that_fails_leaves_those_before(tmp_path: Path) -> None:
    keep_checkpoints(tmp_path / "c", 1, made)

    def fails(place: Path) -> None:
        made(place)
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        keep_checkpoints(tmp_path / "c", 2, fails)
    assert keep_checkpoints(tmp_path / "c", 3, made, keep=9).kept == (1, 3)


def test_checkpoints_of_a_run_and_its_export_load_anywhere_with_the_tokenizer(tmp_path: Path) -> None:
    with_weights(tmp_path / "base")
    (tmp_path / "t.txt").write_text("one two three " * 100)
    words = ("run", "--local", "--cut", "1", "--seq", "8", "--batch", "2", "--model", "base", "--data", "t.txt")
    done = command("card", *words, "--rounds", "3", "--out", "run", "--save-every", "1", "--keep-checkpoints", "2")
    assert done.code == 0, done.err
    folders = [tmp_path / "run" / "checkpoints" / f"round-{n}" for n in (2, 3)]
    assert not (tmp_path / "run" / "checkpoints" / "round-1").exists()
    assert "(unfinished: 2 of 3 rounds)" in (folders[0] / "README.md").read_text("utf-8")
    exported = command("card", "run", "export", "--out", "run", "--to", "mine", "--json")
    assert exported.code == 0 and exported.document["rounds"] == 3, exported.err
    last = (tmp_path / "run" / "adapters" / WEIGHTS).read_bytes()
    assert (folders[1] / WEIGHTS).read_bytes() == last == (tmp_path / "mine" / WEIGHTS).read_bytes()
    earlier, later = (load_file(str(folder / WEIGHTS)) for folder in folders)
    assert any(not torch.equal(earlier[name], later[name]) for name in earlier)
    for folder in (*folders, tmp_path / "run" / "adapters", tmp_path / "mine"):
        described = json.loads((folder / "adapter_config.json").read_text())
        assert described["base_model_name_or_path"] == str(tmp_path / "base")
        assert (folder / "tokenizer.json").read_bytes() == (tmp_path / "base" / "tokenizer.json").read_bytes()
    command("card", "run", "export", "--out", "run", "--to", "mine").failed_in_one_line(2, "is there already", "--to")
    command("card", *words, "--keep-checkpoints", "2").failed_in_one_line(2, "--keep-checkpoints", "--save-every")


def test_an_unfinished_run_is_exported_and_one_without_a_round_refused(tmp_path: Path) -> None:
    unfinished(tmp_path, closed=0)
    with pytest.raises(RunError, match="has finished no round"):
        export_adapters(RunExportOptions(out="run"))
    assert not (tmp_path / "run" / "export").exists()
    journal = unfinished(tmp_path)
    done = export_adapters(RunExportOptions(out="run"))
    assert (done.rounds, done.turns, done.folder) == (1, 1, tmp_path / "run" / "export")
    assert (done.folder / WEIGHTS).is_file() and journal.settings.run == done.run
    with pytest.raises(RunError, match="holds no run"):
        export_adapters(RunExportOptions(out="nowhere", to="x"))
    with pytest.raises(UsageError, match="is there already"):
        export_adapters(RunExportOptions(out="run"))
