# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, `card run` fine-tunes something else than the loop that its user would write with torch and peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

from safetensors.torch import load_file

from tests.cli.run import command
from tests.split.chats import MARKED, chat_folder, turns, write_rows
from tests.split.plain_loop import Data, Recipe, trained, write_model

ASKED = [(f"what is {n} and {n % 7}", " ".join([f"it is {n + n % 7}"] * (1 + n % 5))) for n in range(100)]
ROWS: dict[str, list[dict[str, object]]] = {
    "text": [{"text": f"{ask} {answer}"} for ask, answer in ASKED],
    "messages": [{"messages": turns(ask, answer, "sure", "no")} for ask, answer in ASKED],
    "completion": [{"prompt": ask, "completion": f" {answer}"} for ask, answer in ASKED],
}
# Layers on the devices: a cut of each.
CUTS = {1: (), 3: ("--cuts", "device-2=3,device-3=1")}


def differences(folder: Path, form: str, packing: bool, devices: int, rounds: int, steps: int) -> tuple[int, float]:
    """Steps of the run, and the largest difference of a loss or an adapter weight from the plain loop's."""
    from transformers import AutoTokenizer

    recipe = Recipe()
    model, begin = write_model(chat_folder(folder / "model", MARKED), recipe.dropout)
    rows = Path(write_rows(folder / "rows.jsonl", ROWS[form]))
    words = ["--model", str(model), "--adapters", str(begin), "--data", str(rows), "--out", str(folder / "out")]
    words += ["--cut", "2", "--devices", str(devices), *CUTS[devices], "--rounds", str(rounds), *recipe.words()]
    words += ["--local-epochs", str(steps * recipe.accumulate), "--db", str(folder / "x.db"), "--json"]
    words += ["--packing"] if packing else []
    words += ["--train-on", "completion"] if form == "messages" else []
    done = command("card", "run", "--local", *words)
    assert done.code == 0, done.err
    tool = AutoTokenizer.from_pretrained(str(model))
    data = [Data(rows, tool, recipe, packing, (place, devices)) for place in range(devices)]
    losses, adapters = trained(model, begin, data, recipe, rounds, steps)
    found = [[own["losses"] for own in each["devices"]] for each in done.document["rounds"]]
    assert [[len(own) for own in each] for each in found] == [[len(own) for own in each] for each in losses]
    saved = load_file(str(folder / "out" / "adapters" / "adapter_model.safetensors"))
    assert set(saved) == set(adapters)
    apart = [abs(a - b) for a, b in zip(flat(found), flat(losses), strict=True)]
    apart += [float((saved[name] - tensor).abs().max()) for name, tensor in adapters.items()]
    # Something was trained: the last losses are lower than the first.
    assert sum(flat(found)[-6:]) < sum(flat(found)[:6])
    return rounds * steps * devices, max(apart)


def flat(nested: Any) -> list[float]:
    return [loss for each in nested for own in each for loss in own]


@pytest.mark.parametrize(("form", "packing", "devices"), [("messages", False, 3), ("text", True, 1)])
def test_a_run_equals_the_plain_loop(tmp_path: Path, form: str, packing: bool, devices: int) -> None:
    steps = 12 if devices == 3 else 10
    assert differences(tmp_path, form, packing, devices, 2, steps // 2 // devices) == (steps, 0.0)


@pytest.mark.accept
@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("form", ROWS)
def test_sixty_steps_equal_the_plain_loop(tmp_path: Path, form: str, packing: bool, devices: int) -> None:
    steps, worst = differences(tmp_path, form, packing, devices, 4, 60 // 4 // devices)
    print(f"{steps} steps of {devices} device(s): losses and adapters differ by at most {worst}")
    assert (steps, worst) == (60, 0.0)
