# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""What someone met who fine-tuned with the first version, line by line of their report; each would fail on it.

 1  tokenizer of the folder        here; tests/split/test_agreement.py, test_fine_tuned.py
 2  resumed with other inputs      tests/split/test_agreement.py::test_a_run_is_resumed_with_what_it_began_with
 3  pytorch_model.bin only         here; every kind: tests/split/test_checkpoints.py
 4  a default that does not train  here; no hidden decay: tests/split/test_agreement.py::test_adamw_decays_no_weight
 5  gpt2 beside ./gpt2             here; library: tests/profilers/runtime/test_configs.py
 6  documents run into each other  here; tests/split/test_texts.py, test_samples.py
 7  card accuracy                  tests/split/test_accuracy.py
10  another execution, hardware    tests/workflows/test_grounds.py, tests/split/test_strengths.py, test_run.py
11  two names of one machine       tests/workflows/test_grounds.py::test_a_device_is_known_by_its_key_...
12  deadlock at the end            tests/split/test_closes.py
13  corrected after NaN            here; extended, exported, checkpoints: tests/split/test_resume.py, test_saved.py
14  a failed start in the way      here; tests/split/test_out.py, test_agreement.py
15  cost of the journal            tests/split/test_journal.py::test_a_turn_costs_the_same_after_ten_...
16  memory and time of the data    tests/split/test_training_file.py
17  waiting, Ctrl-C, ETA, disk     here; tests/split/test_out.py, test_resume.py, test_strengths.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

from tests.cli.run import command
from tests.split.chats import PAIRS, chat_folder, write_rows
from tests.split.models import SMALL

SHORT = ("--cut", "1", "--batch", "2", "--seq", "16", "--dtype", "float32")
TEXTS = [{"text": f"{ask}, {answer}"} for ask, answer in PAIRS]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def local(*words: str) -> Any:
    return command("card", "run", "--local", *SHORT, *words)


def pretrained(folder: Path) -> Path:
    """A folder as transformers saves it, with a tokenizer of its own."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {key: value for key, value in SMALL["llama"].items() if key != "model_type"}
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(str(chat_folder(folder)))
    return folder


def test_3_weights_that_are_not_read_are_no_reason_for_random_ones(tmp_path: Path) -> None:
    """A folder with only `pytorch_model.bin`: random weights, and adapters written for it."""
    (pretrained(tmp_path / "model") / "model.safetensors").rename(tmp_path / "model" / "pytorch_model.bin")
    write_rows(tmp_path / "texts.jsonl", TEXTS)
    local("--model", "model", "--data", "texts.jsonl").failed_in_one_line(1, "pytorch_model.bin")
    assert not Path("card-run").exists()


def test_5_a_folder_of_the_name_of_a_bundled_model_is_one_or_the_other(tmp_path: Path) -> None:
    """`--model gpt2` beside a folder `./gpt2`: the bundled configuration with the folder's weights."""
    pretrained(tmp_path / "gpt2")
    local("--model", "gpt2").failed_in_one_line(1, "gpt2", "./gpt2")
    assert not Path("card-run").exists()


def test_14_a_failed_start_is_in_nobodys_way(tmp_path: Path) -> None:
    """A journal was left behind that blocked the corrected command."""
    for name, content, said in (
        ("empty.jsonl", b"", "has no samples"),
        ("blank.jsonl", b"\n\n", "has no samples"),
        ("list.json", b"[]", "has no samples"),
        ("latin.jsonl", b'{"text": "caf\xe9"}\n', "is not UTF-8"),
        ("mixed.jsonl", b'{"text": "a"}\n{"prompt": "a", "completion": "b"}\n', "line 2"),
        ("short.jsonl", b'{"text": "a"}\n', "no window of 16"),
        ("long.jsonl", json.dumps({"prompt": "a" * 99, "completion": "b"}).encode(), "none with a token to learn"),
    ):
        (tmp_path / name).write_bytes(content)
        result = local("--model", "tiny-llama", "--data", name)
        result.failed_in_one_line(result.code, said)
        assert result.code in (1, 2) and not Path("card-run").exists()


def test_1_4_6_14_17_one_run_as_it_was_met(tmp_path: Path) -> None:
    """One run stands for what its user saw.

    1: bytes into a trained model. 4: the default hardly trains, unsaid. 6: no end of text between documents. 14: a
    finished folder overwritten unasked. 17: adapters that load only beside their model, without a tokenizer.
    """
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    pretrained(tmp_path / "model")
    write_rows(tmp_path / "texts.jsonl", TEXTS * 40)
    words = ("--model", "model", "--data", "texts.jsonl", "--rounds", "1", "--local-epochs", "1")
    done = local(*words, "--json")
    assert done.code == 0, done.err
    # 1 and 6
    assert "tokens of texts.jsonl: model/tokenizer.json" in done.err
    assert f"{len(TEXTS) * 40} documents, token 2 (end of text) between two" in done.err
    # 4
    assert "adamw without weight decay" in done.err
    timed = local(*words, "--optimizer", "sgd", "--out", "timed")
    assert timed.code == 0 and "sgd at --learning-rate 0.001 hardly moves LoRA adapters" in timed.err
    # 14
    kept = {path: path.read_bytes() for path in Path("card-run").rglob("*") if path.is_file()}
    local(*words).failed_in_one_line(1, "holds a finished run", "--out")
    assert {path: path.read_bytes() for path in Path("card-run").rglob("*") if path.is_file()} == kept
    # 17
    elsewhere = (tmp_path / "card-run" / "adapters").rename(tmp_path / "moved")
    (tmp_path / "deep").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "deep")
        assert AutoPeftModelForCausalLM.from_pretrained(str(elsewhere)).merge_and_unload() is not None
    assert AutoTokenizer.from_pretrained(str(elsewhere)).chat_template


def test_13_a_run_whose_loss_became_nan_is_corrected_by_the_remedy_that_it_names(tmp_path: Path) -> None:
    """`--learning-rate` was ignored on `--resume` after a NaN whose remedy names it."""
    pretrained(tmp_path / "model")
    write_rows(tmp_path / "texts.jsonl", TEXTS)
    words = ("--model", "model", "--data", "texts.jsonl", "--rounds", "2", "--local-epochs", "4")
    failed = local("--optimizer", "adamw", *words, "--learning-rate", "1e30")
    failed.failed_in_one_line(1, "the loss is not finite", "lower --learning-rate", "--resume")
    done = command("card", "run", "--local", "--resume", "--learning-rate", "1e-3", "--json")
    assert done.code == 0, done.err
    losses = [own["losses"] for each in done.document["rounds"] for own in each["devices"]]
    assert [len(own) for own in losses] == [4, 4] and all(0 < loss < 10 for own in losses for loss in own)
