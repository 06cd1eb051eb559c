# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a run on weights in 4 or 8 bits trains something else than transformers and PEFT would, or takes one
form of weights for another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.torch

import torch

from cardlab.core.errors import ProfileError, UsageError
from cardlab.core.records.task import QUANTIZATIONS, Execution
from cardlab.profilers.runtime import resolve_task
from cardlab.profilers.runtime.quantization import choose_quantization
from cardlab.split.adapters import initial_adapters
from cardlab.split.halves import Half
from cardlab.split.journal import Journal
from cardlab.split.peft_files import save_peft
from cardlab.split.recipe import Recipe
from cardlab.split.refusals import RefusalError
from cardlab.split.settings import Inputs, check_inputs
from cardlab.split.weights import open_weights
from tests.cli.run import command
from tests.split.models import RATE, SMALL, batches

# As a user of transformers asks for each form.
ASKED: dict[str, dict[str, Any]] = {
    "int8": {"load_in_8bit": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4-double": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
}
# Widths that blocks of 64 do not divide evenly would still be stored; these make every map of several blocks.
WIDE = SMALL["llama"] | {"hidden_size": 64, "intermediate_size": 96, "tie_word_embeddings": False}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder in bfloat16, as transformers writes it."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("model") / "dense"
    config = LlamaConfig(**{k: v for k, v in WIDE.items() if k != "model_type"})
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(str(folder))
    return folder


def by_transformers(folder: Path, form: str, dtype: str, **more: Any) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings = BitsAndBytesConfig(**ASKED[form], bnb_4bit_compute_dtype=dtype, **more)
    return AutoModelForCausalLM.from_pretrained(
        str(folder), quantization_config=settings, dtype=getattr(torch, dtype), device_map="cpu"
    )


@pytest.fixture(scope="module")
def stored(dense: Path) -> dict[str, Path]:
    """The same model as transformers writes it in each form."""
    folders = {}
    for form in ASKED:
        folders[form] = dense.parent / form
        by_transformers(dense, form, "bfloat16").save_pretrained(str(folders[form]))
    return folders


def task_of(folder: Path, **more: Any) -> Any:
    options = {"batch": 2, "sequence": 24, "lora_targets": ["all-linear"], **more}
    return resolve_task(str(folder), quantised=True, **options)


def split_losses(
    task: Any, form: str | None, dtype: str, cut: int, steps: int, on_server: str | None = "as on the device"
) -> tuple[list[float], Any]:
    there = form if on_server == "as on the device" else on_server
    weights = open_weights(task, 0)
    device, server = (
        Half(
            task, Execution(dtype=dtype, torch="x", quantization=own), weights, side, Recipe(learning_rate=RATE, seed=0)
        )
        for side, own in (("device", form), ("server", there))
    )
    adapters = initial_adapters(task, 0)
    for half in (device, server):
        half.set_cut(cut)
        half.load(adapters)
    losses = []
    for step in range(steps):
        device.clock.step = server.clock.step = step
        ids = batches(task).batch(step)
        activation = device.forward(ids)
        result = server.train(activation.detach().clone(), ids)
        device.backward(activation, result.gradient)
        losses.append(result.loss)
    return losses, {**device.export(), **server.export()}


def unsplit_losses(
    folder: Path, adapters: Path, form: str, dtype: str, task: Any, steps: int, **more: Any
) -> list[float]:
    """Transformers' quantised model with PEFT's adapters and a plain loop: no code of cardlab but the tokens."""
    from peft import PeftModel

    base = by_transformers(folder, form, dtype, **more)
    model = PeftModel.from_pretrained(base, str(adapters), is_trainable=True)
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0)
    losses = []
    for step in range(steps):
        ids = batches(task).batch(step)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", QUANTIZATIONS)
def test_a_split_run_equals_the_unsplit_run_of_transformers_and_peft(
    tmp_path: Path, dense: Path, form: str, dtype: str
) -> None:
    task = task_of(dense)
    adapters = save_peft(initial_adapters(task, 0), task, tmp_path / "adapters")
    expected = unsplit_losses(dense, adapters, form, dtype, task, 6)
    trained = {cut: split_losses(task, form, dtype, cut, 6) for cut in (1, 2, 3)}
    for cut, (losses, _) in trained.items():
        assert losses == expected, cut
    # The form matters: the dense model's losses are others.
    assert split_losses(task, None, dtype, 2, 1)[0] != expected[:1]
    assert expected[-1] < expected[0]


@pytest.mark.parametrize("form", QUANTIZATIONS)
def test_a_checkpoint_that_is_quantised_is_run_as_it_is(dense: Path, stored: dict[str, Path], form: str) -> None:
    """Its values are those that quantising the dense one gives, so the run is the same; its fingerprint is not."""
    task = task_of(stored[form])
    assert choose_quantization(task, "auto") == form
    assert split_losses(task, form, "bfloat16", 2, 3)[0] == split_losses(task_of(dense), form, "bfloat16", 2, 3)[0]
    assert open_weights(task, 0).fingerprint != open_weights(task_of(dense), 0).fingerprint
    assert task.uid == task_of(dense).uid


def test_what_a_checkpoint_is_cannot_be_asked_away(stored: dict[str, Path], dense: Path) -> None:
    task = task_of(stored["nf4"])
    for asked in ("none", "int8", "nf4-double"):
        with pytest.raises(UsageError, match=f"in nf4, and --quantization {asked}.*unquantised folder"):
            choose_quantization(task, asked)
    with pytest.raises(UsageError, match="unknown quantization 'fp4'; use auto, none, int8, nf4, nf4-double"):
        choose_quantization(task_of(dense), "fp4")
    with pytest.raises(UsageError, match="DoRA"):
        choose_quantization(task_of(dense, dora=True), "nf4")
    assert choose_quantization(task_of(dense), "auto") is None
    assert choose_quantization(task_of(dense), "auto", "int8") == "int8"


def broken(folder: Path, copy: Path, form: str, how: str) -> None:
    """A checkpoint of that form with one thing wrong."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, copy)
    [file] = copy.glob("*.safetensors")
    tensors = load_file(str(file))
    name = "model.layers.1.mlp.up_proj.weight"
    scales = f"{name.removesuffix('weight')}SCB" if form == "int8" else f"{name}.absmax"
    if how == "lacks its scales":
        del tensors[scales]
    elif how == "scales are NaN":
        tensors[scales] = torch.full_like(tensors[scales].float(), float("nan"))
    elif how == "is dense":
        tensors[name] = torch.ones((96, 64), dtype=torch.bfloat16)
    elif how == "another shape":
        tensors[name] = tensors[name][:-2].contiguous()
    elif how == "another form":
        config = json.loads((copy / "config.json").read_text())
        config["quantization_config"] = ASKED["nf4" if form == "int8" else "int8"] | {"quant_method": "bitsandbytes"}
        (copy / "config.json").write_text(json.dumps(config))
    elif how == "not said":
        config = json.loads((copy / "config.json").read_text())
        del config["quantization_config"]
        (copy / "config.json").write_text(json.dumps(config))
    save_file(tensors, str(file), metadata={"format": "pt"})


@pytest.mark.parametrize("form", ["int8", "nf4"])
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("lacks its scales", "lacks model.layers.1.mlp.up_proj"),
        ("scales are NaN", "NaN"),
        ("is dense", "is not quantised: models in both forms"),
        ("another shape", "in the checkpoint, not"),
        ("another form", "checkpoint"),
        ("not said", "quantised checkpoint"),
    ],
)
def test_a_checkpoint_that_contradicts_itself_is_one_line(
    tmp_path: Path, stored: dict[str, Path], monkeypatch: pytest.MonkeyPatch, form: str, how: str, words: str
) -> None:
    if (form, how) == ("int8", "scales are NaN"):
        pytest.skip("runs here in nf4: the one reader of scales is the same")
    monkeypatch.chdir(tmp_path)
    broken(stored[form], tmp_path / "model", form, how)
    run = ("card", "run", "--local", "--model", "./model", "--cut", "2", "--rounds", "1", "--seq", "16")
    result = command(*run, "--tokenizer", "bytes", "--out", "out")
    result.failed_in_one_line(1, words)


def test_one_side_may_keep_its_weights_otherwise(tmp_path: Path, dense: Path) -> None:
    """A device of 8 GB keeps 4 bits where the server has room: as a model of which only its first layers have them."""
    task = task_of(dense)
    adapters = save_peft(initial_adapters(task, 0), task, tmp_path / "adapters")
    own = {"llm_int8_skip_modules": ["model.layers.2", "model.layers.3", "lm_head"]}
    expected = unsplit_losses(dense, adapters, "nf4", "float32", task, 4, **own)
    losses, _ = split_losses(task, "nf4", "float32", 2, 4, on_server=None)
    assert losses == expected
    assert losses != split_losses(task, "nf4", "float32", 2, 4)[0]


def test_a_run_goes_on_with_the_form_that_it_began_with(
    tmp_path: Path, dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    task = ("--model", str(dense), "--cut", "2", "--seq", "16", "--rounds", "1", "--tokenizer", "bytes")
    begun = command("card", "run", "--local", *task, "--quantization", "nf4", "--out", "a")
    assert begun.code == 0, begun.err
    assert Journal.resume(tmp_path / "a").progress.settings.quantization == "nf4"
    other = command("card", "run", "--local", "--resume", "--out", "a", "--quantization", "int8")
    other.failed_in_one_line(2, "began with --quantization nf4")
    # A device that comes back with other weights would train something else.
    came = Inputs(quantization="int8")
    with pytest.raises(RefusalError, match=r"weights in another form \(int8, not nf4\).*--quantization"):
        check_inputs("board", came, Inputs(quantization="nf4"))


def test_no_other_command_takes_quantised_weights_for_dense_ones(
    tmp_path: Path, stored: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = ("--model", str(stored["nf4"]), "--seq", "16")
    command("profile-device", "--platform", "simulated:orin-nano", *model).failed_in_one_line(
        2, "simulated device has no"
    )
    command("profile-device", "agent", *model).failed_in_one_line(1, "quantised checkpoint (bitsandbytes nf4)")
    command("card", "accuracy", *model[:2]).failed_in_one_line(1, "quantised checkpoint (bitsandbytes nf4)")
    with pytest.raises(ProfileError, match="quantised checkpoint"):
        resolve_task(str(stored["nf4"]))
