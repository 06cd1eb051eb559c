# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, two sides of a run compute different functions, or a run goes on with something else than it began."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("zmq")
pytest.importorskip("tokenizers")
pytestmark = pytest.mark.torch

from cardlab.core.errors import RunError
from cardlab.profilers.runtime.configs import load_computing
from cardlab.profilers.runtime.extras import make_optimizer
from cardlab.split.adapters import initial_adapters
from cardlab.split.journal import Journal, locked
from cardlab.split.refusals import RefusalCode, RefusalError
from cardlab.split.settings import Inputs, check_computing, check_tokenizer
from cardlab.workflows import ServerOptions
from cardlab.workflows.run_data import tokenizer_of
from tests.cli.run import Result, command
from tests.split.models import SMALL, small_task
from tests.split.test_commands import ended, listening, port, role, roles  # noqa: F401 - fixtures
from tests.split.test_parts import run_settings, turn
from tests.split.test_texts import WORDS, model, tokenizer_file

MINE = Inputs(tokenizer="t", data="d", dtype="float32", names="mine.txt, tokens: bytes")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_parameters"),
        ({"rope_theta": 5e5}, "rope_parameters"),
        ({"rms_norm_eps": 1e-4}, "rms_norm_eps"),
        ({"hidden_act": "gelu"}, "hidden_act"),
    ],
)
def test_another_computation_of_the_same_size_is_refused_by_key(tmp_path: Path, changes, key) -> None:
    announced = load_computing(str(model(tmp_path / "there")))
    check_computing(announced, "here", announced)
    # As it comes over the link.
    announced = json.loads(json.dumps(announced))
    check_computing(announced, "here", load_computing(str(model(tmp_path / "same", rope_theta=10000))))
    other = load_computing(str(model(tmp_path / "here", **changes)))
    with pytest.raises(RunError, match=rf"config.json of here computes something else.*{key} is .* here and") as caught:
        check_computing(announced, "here", other)
    assert "copy the server's config.json" in str(caught.value)


def test_another_tokenizer_than_the_runs_is_refused(tmp_path: Path) -> None:
    settings = run_settings(small_task(tmp_path))
    check_tokenizer(settings, "abc", "x")
    check_tokenizer(replace(settings, tokenizer="abc"), "abc", "x")
    for theirs, here in (("abc", "bytes"), ("bytes", "abc"), ("abc", "abd")):
        with pytest.raises(RunError, match="the tokens here are those of x.*--tokenizer"):
            check_tokenizer(replace(settings, tokenizer=theirs), here, "x")


@pytest.mark.parametrize(
    ("changes", "option"), [({"tokenizer": "u"}, "--tokenizer"), ({"data": "e"}, "--data"), ({"dtype": "f"}, "--dtype")]
)
def test_a_device_that_comes_back_trains_on_what_it_began_with(tmp_path: Path, changes, option) -> None:
    task = small_task(tmp_path)
    journal = Journal.begin(tmp_path / "out", run_settings(task), "x")
    journal.admit("board", MINE)
    # Before its first round it may be corrected.
    journal.admit("board", replace(MINE, **changes))
    journal.admit("board", MINE)
    journal.commit(initial_adapters(task, 0), turn())
    again = Journal.resume(tmp_path / "out")
    assert again.progress.inputs == {"board": MINE}
    again.admit("board", MINE)
    with pytest.raises(RefusalError, match=f"board came back .*mine.txt.*{option}") as refused:
        again.admit("board", replace(MINE, **changes))
    assert refused.value.code is RefusalCode.INPUTS


def test_all_devices_of_a_run_make_the_same_tokens(tmp_path: Path) -> None:
    journal = Journal.begin(tmp_path / "out", run_settings(small_task(tmp_path)), "x")
    journal.admit("east", MINE)
    journal.admit("west", replace(MINE, data="other", dtype="bfloat16"))
    with pytest.raises(RefusalError, match="the tokenizer of north .* is not that of east"):
        journal.admit("north", replace(MINE, tokenizer="u"))
    assert set(journal.progress.inputs) == {"east", "west"}


def test_a_run_that_finished_nothing_gives_way_and_two_never_share_a_folder(tmp_path: Path) -> None:
    task, out = small_task(tmp_path), tmp_path / "out"
    Journal.begin(out, run_settings(task), "x")
    journal = Journal.begin(out, run_settings(task, rounds=9), "y")
    assert journal.progress.settings.rounds == 9
    Journal.check_vacant(out)
    with locked(out), pytest.raises(RunError, match="another run works in"), locked(out):
        pass
    with locked(out):
        journal.commit(initial_adapters(task, 0), turn())
    with pytest.raises(RunError, match="unfinished.*--resume"):
        Journal.begin(out, run_settings(task), "z")
    journal.close_round(done=True)
    with pytest.raises(RunError, match="holds a finished run.*--out"):
        Journal.check_vacant(out)


def test_adamw_decays_no_weight() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.zeros(3)
    make_optimizer("adamw", [parameter], 1e-1).step()
    assert torch.equal(parameter.detach(), torch.ones(3))


QUICK = ("--cut", "1", "--seq", "8", "--batch", "2", "--dtype", "float32")


def joined(roles_: Any, port_: int, server: tuple[str, ...], device: tuple[str, ...]) -> tuple[Result, Result]:
    """A server and a device until the device ends; the server's last words are not waited for."""
    there = role(roles_, "run", "server", "--bind", f"127.0.0.1:{port_}", *QUICK, "--rounds", "1", *server)
    listening(port_)
    here_ = role(roles_, "run", "device", "--server", f"127.0.0.1:{port_}", "--dtype", "float32", *device)
    done = ended(here_)
    if done.code:
        there.kill()
    return ended(there), done


def with_weights(folder: Path) -> Path:
    """A model folder with weights and a tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    sizes = {key: value for key, value in SMALL["llama"].items() if key != "model_type"}
    LlamaForCausalLM(LlamaConfig(**sizes, bos_token_id=0, eos_token_id=3)).save_pretrained(str(folder))
    tokenizer_file(folder)
    return folder


def test_weights_without_their_tokenizer_are_not_trained_on_bytes_unasked(tmp_path: Path) -> None:
    folder = with_weights(tmp_path / "base")
    (folder / "tokenizer.json").unlink()
    words = ("card", "run", "--local", "--cut", "1", "--seq", "8", "--rounds", "1", "--model", str(folder))
    command(*words).failed_in_one_line(2, "has weights and no tokenizer.json", "--tokenizer bytes")
    assert command(*words, "--tokenizer", "bytes").code == 0
    # A server has no text: its devices' tokenizer is taken.
    assert tokenizer_of(ServerOptions(cut=1, model=str(folder)), str(folder)) is None


def test_rows_are_no_longer_than_the_model_where_nobody_says_how_long(tmp_path: Path) -> None:
    folder = with_weights(tmp_path / "base")
    (tmp_path / "t.txt").write_text("one two " * 400)
    words = ("card", "run", "--local", "--cut", "1", "--rounds", "1", "--model", str(folder), "--data", "t.txt")
    done = command(*words, "--out", "out")
    positions = SMALL["llama"]["max_position_embeddings"]
    assert done.code == 0 and f"rows of {positions} tokens: {folder} has no more positions" in done.err, done.err
    assert Journal.resume(tmp_path / "out").settings.task.sequence == positions < 512
    asked = command(*words, "--seq", "16", "--out", "other")
    assert asked.code == 0 and "no more positions" not in asked.err


def test_a_device_with_another_rope_or_tokenizer_is_refused_when_it_joins(tmp_path: Path, roles, port) -> None:  # noqa: F811
    folder = with_weights(tmp_path / "base")
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    (other / "config.json").write_text(json.dumps(config))
    (tmp_path / "t.txt").write_text("one two " * 100)
    _, device = joined(roles, port, ("--model", "base"), ("--model", "other", "--data", "t.txt"))
    device.failed_in_one_line(1, "rope_parameters is", "linear", "copy the server's config.json")
    bytes_too = ("--model", "base", "--data", "t.txt", "--tokenizer", "bytes")
    _, device = joined(roles, port, ("--model", "base"), bytes_too)
    device.failed_in_one_line(1, "the tokens here are those of bytes", "--tokenizer")
    server, device = joined(roles, port, ("--model", "base"), ("--model", "base", "--data", "t.txt"))
    assert (server.code, device.code) == (0, 0), (server.err, device.err)
    assert "tokens of t.txt: base/tokenizer.json" in device.err


def test_a_run_is_resumed_with_what_it_began_with(tmp_path: Path, monkeypatch) -> None:
    from cardlab.split import server as serving

    with_weights(tmp_path / "base")
    for name in ("t.txt", "u.txt"):
        (tmp_path / name).write_text(f"one two {name} " * 100)
    tokenizer_file(tmp_path / "tok", {**WORDS, "one": 1, "two": 0})
    words = ("run", "--local", *QUICK, "--rounds", "2", "--model", "base", "--data", "t.txt")
    # A server that dies after its first round.
    real = serving.Server._round

    def dying(self: Any, number: int) -> bool:
        if number == 2:
            raise RunError("the lights went out", remedy="wait")
        return real(self, number)

    monkeypatch.setattr(serving.Server, "_round", dying)
    command("card", *words).failed_in_one_line(1, "the lights went out")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    again = ("run", "--local", "--resume", "--model", "base")
    command("card", *again, "--data", "t.txt", "--dtype", "bfloat16").failed_in_one_line(
        2, "began in float32", "--dtype"
    )
    with_tokenizer = command("card", *again, "--data", "t.txt", "--tokenizer", "tok")
    with_tokenizer.failed_in_one_line(1, "began with another tokenizer", "--tokenizer")
    command("card", *again, "--data", "u.txt").failed_in_one_line(1, "other data", "t.txt", "--data")
    kept = (tmp_path / "base" / "config.json").read_text()
    (tmp_path / "base" / "config.json").write_text(json.dumps({**json.loads(kept), "rms_norm_eps": 1e-3}))
    command("card", *again, "--data", "t.txt").failed_in_one_line(1, "rms_norm_eps")
    (tmp_path / "base" / "config.json").write_text(json.dumps({**json.loads(kept), "intermediate_size": 32}))
    command("card", *again, "--data", "t.txt").failed_in_one_line(1, "other dimensions")
    (tmp_path / "base" / "config.json").write_text(kept)
    weights = tmp_path / "base" / "model.safetensors"
    was = weights.read_bytes()
    weights.write_bytes(was[:-4096] + bytes(4096))
    command("card", *again, "--data", "t.txt").failed_in_one_line(1, "not those that the run", "began with")
    weights.write_bytes(was)
    done = command("card", *again, "--data", "t.txt", "--json")
    assert done.code == 0, done.err
    assert [r["round"] for r in done.document["rounds"]] == [1, 2]
