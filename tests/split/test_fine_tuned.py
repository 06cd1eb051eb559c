# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a model that was fine-tuned over several devices does not do afterwards what its data showed it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

from safetensors.torch import load_file, save_file

from tests.cli.run import command
from tests.split.plain_loop import NO_LOSS, Data, Recipe, trained
from tests.split.small_base import ASKED, KEPT, THINGS, answer, pretrained, write_chats
from tests.split.test_commands import ended, listening, role

DEVICES = 3


@pytest.fixture
def roles() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def begin(model: Path, folder: Path) -> Path:
    """Adapters of PEFT on every linear map, that both runs begin with."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(str(model)), config).save_pretrained(str(folder))
    return folder


def held_out_loss(model: Path, adapters: Path, kept: Data) -> float:
    """Mean over all tokens of the kept chats, one row at a time, by transformers and peft alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(str(model)), str(adapters)).eval()
    total, count = 0.0, 0
    for ids, learned in kept.rows:
        tokens = torch.tensor([ids])
        labels = torch.where(torch.tensor([learned]), tokens, NO_LOSS)
        own = int((labels[:, 1:] != NO_LOSS).sum())
        with torch.no_grad():
            total += own * float(loaded(input_ids=tokens, labels=labels).loss)
        count += own
    return total / count


def answers(adapters: Path, things: list[str]) -> dict[str, str]:
    """What the merged model says of each, found from the folder of adapters alone."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    tool = AutoTokenizer.from_pretrained(str(adapters))
    model = AutoPeftModelForCausalLM.from_pretrained(str(adapters)).merge_and_unload().eval()
    end = tool.convert_tokens_to_ids("<|im_end|>")
    found = {}
    for thing in things:
        asked = [{"role": "user", "content": ASKED[0].format(thing)}]
        given = tool.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        made = model.generate(**given, max_new_tokens=10, do_sample=False, eos_token_id=end, pad_token_id=3)
        found[thing] = tool.decode(made[0, given["input_ids"].shape[1] :]).removesuffix("<|im_end|>")
    return found


def compared(folder: Path, document: dict[str, Any], model: Path, recipe: Recipe, data: list[Data], kept: Data) -> Any:
    """Held-out losses before and after; asserts that those of the unsplit run are the same."""
    rounds = document["rounds"]
    steps = len(rounds[0]["devices"][0]["losses"])
    losses, adapters = trained(model, folder / "begin", data, recipe, len(rounds), steps)
    assert [[own["losses"] for own in each["devices"]] for each in rounds] == losses
    save_file(adapters, str(folder / "begin" / "adapter_model.safetensors"))
    saved = load_file(str(folder / "out" / "adapters" / "adapter_model.safetensors"))
    assert all(torch.equal(saved[name], tensor) for name, tensor in adapters.items())
    before, after = document["before"]["eval_loss"], rounds[-1]["eval_loss"]
    assert after == pytest.approx(held_out_loss(model, folder / "begin", kept), abs=1e-5)
    return before, after


def options(folder: Path, recipe: Recipe, rounds: int, steps: int) -> list[str]:
    words = ["--model", str(folder / "model"), "--adapters", str(folder / "begin"), "--cut", "1"]
    words += ["--rounds", str(rounds), "--local-epochs", str(steps), "--out", str(folder / "out")]
    return [*words, "--db", str(folder / "x.db"), "--json", *recipe.words()]


def prepared(folder: Path, hidden: int, layers: int, steps: int, recipe: Recipe) -> tuple[list[Path], Path, Any]:
    from transformers import AutoTokenizer

    model = pretrained(folder / "model", hidden, layers, steps)
    begin(model, folder / "begin")
    files, kept = write_chats(folder, DEVICES)
    tool = AutoTokenizer.from_pretrained(str(model))
    return files, kept, [Data(path, tool, recipe, False, (0, 1)) for path in (*files, kept)]


def test_a_small_model_learns_to_answer_in_a_form(tmp_path: Path) -> None:
    recipe = Recipe(batch=4, accumulate=1, rate=1e-2, dropout=0.0, max_norm=1.0)
    files, kept, data = prepared(tmp_path, 48, 2, 250, recipe)
    words = [word for path in files for word in ("--data", str(path))] + ["--eval-data", str(kept)]
    done = command("card", "run", "--local", *words, "--train-on", "completion", *options(tmp_path, recipe, 2, 10))
    assert done.code == 0, done.err
    before, after = compared(tmp_path, done.document, tmp_path / "model", recipe, data[:-1], data[-1])
    assert after < before / 2
    said = answers(tmp_path / "out" / "adapters", KEPT)
    assert all(re.fullmatch(r"\[\w+\]", text) for text in said.values()), said


@pytest.mark.accept
def test_what_was_learned_on_three_machines_holds_for_what_none_of_them_showed(
    tmp_path: Path, roles, monkeypatch
) -> None:
    monkeypatch.setenv("CARD_DB", str(tmp_path / "x.db"))
    recipe = Recipe(batch=4, accumulate=1, rate=5e-3, dropout=0.0, max_norm=1.0)
    files, kept, data = prepared(tmp_path, 64, 3, 1400, recipe)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    where = f"127.0.0.1:{port}"
    words = options(tmp_path, recipe, 4, 20)
    server = role(roles, "run", "server", "--bind", where, "--devices", str(DEVICES), *words)
    listening(port)
    devices = []
    for n, path in enumerate(files, 1):
        own = ["--server", where, "--name", f"device-{n}", "--data", str(path), "--eval-data", str(kept)]
        own += ["--train-on", "completion", "--dtype", "float32", "--model", str(tmp_path / "model")]
        devices.append(role(roles, "run", "device", *own))
    done = ended(server, 300.0)
    assert [done.code, *(ended(each).code for each in devices)] == [0] * 4, done.err
    document = json.loads(done.out)
    before, after = compared(tmp_path, document, tmp_path / "model", recipe, data[:-1], data[-1])
    said = answers(tmp_path / "out" / "adapters", THINGS)
    right = [thing for thing in THINGS if said[thing] == answer(thing)]
    new = [thing for thing in right if thing in KEPT]
    print(
        f"3 devices, 80 steps each: held-out loss {before:.3f} -> {after:.3f}, as unsplit; {len(right)} of"
        f" {len(THINGS)} answers right, {len(new)} of {len(KEPT)} of what no device showed"
    )
    assert after < before / 10 and len(new) >= len(KEPT) - 2 and len(right) >= len(THINGS) - 2
