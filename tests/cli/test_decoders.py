"""If these fail, a model that has no adapter of its own is planned or trained as something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cardlab.card.problem.measured import on_device, on_server
from cardlab.core.records.task import Architecture
from tests.cli.run import command


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Databases and runs stay out of the repository."""
    monkeypatch.chdir(tmp_path)


KINDS = ("sliding", "sliding", "full", "sliding", "sliding", "full")
GEMMA = {
    "model_type": "gemma3_text",
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 4096,
    "max_position_embeddings": 512,
    "sliding_window": 64,
    "sliding_window_pattern": 3,
}


def test_every_layer_is_on_one_side_and_under_its_own_kind() -> None:
    a = Architecture(
        family="any",
        layers=6,
        hidden_size=8,
        intermediate_size=None,
        heads=None,
        kv_heads=None,
        head_dim=None,
        vocab_size=8,
        max_positions=8,
        tied_embeddings=False,
        kinds=("dense", *KINDS[1:]),
    )
    assert a.segments == ("embedding", "first_layer", "layer:sliding", "layer:full", "head")
    cuts = np.arange(1.0, 6.0)
    assert on_device(a, "layer:sliding", cuts).tolist() == [0, 1, 1, 2, 3]
    assert on_server(a, "layer:sliding", cuts).tolist() == [3, 2, 2, 1, 0]
    assert on_device(a, "layer:full", cuts).tolist() == [0, 0, 1, 1, 1]
    assert on_server(a, "layer:full", cuts).tolist() == [2, 2, 1, 1, 1]


@pytest.fixture
def gemma(tmp_path: Path) -> str:
    from tests.profilers.runtime.plans import need_plan

    need_plan("gemma3_text")
    path = tmp_path / "gemma.json"
    path.write_text(json.dumps(GEMMA))
    return str(path)


@pytest.mark.torch
def test_the_times_of_a_plan_are_those_of_the_layers_that_each_side_has(gemma: str) -> None:
    task = ("--model", gemma, "--seq", "256", "--batch", "4")
    for platform, frequencies in (("simulated:rtx-4060-ti", "4"), ("simulated:orin-nx", "max")):
        done = command("profile-device", "--platform", platform, *task, "--frequencies", frequencies, "--repeats", "3")
        assert done.code == 0, done.err
    assert command("calibrate", "fit").code == 0
    shown: dict[str, Any] = command("profile-device", "show", "--json").document
    times = {s["segment"]: (s["forward_s"] or 0.0) + (s["backward_s"] or 0.0) for s in shown["points"][0]["segments"]}
    assert list(times) == ["embedding", "first_layer", "layer:sliding", "layer:full", "head"]
    cuts = set()
    for least in ("1", "3", "5"):
        plan = command(
            *("card", "plan", "--from-db", "--uplink-mbps", "500", "--downlink-mbps", "500"),
            *("--min-device-layers", least, "--json"),
        ).document
        [device] = plan["rounds"][0]["devices"]
        cut = device["cut"]
        expected = times["embedding"] + times["first_layer"] + sum(times[f"layer:{kind}"] for kind in KINDS[1:cut])
        assert device["delay_terms"]["device"] == pytest.approx(expected, rel=1e-9)
        cuts.add(cut)
    assert max(cuts) >= 5
    # Of a model whose layers are of other kinds, only head and first layer could be told: no answer at all.
    predicted = command(
        "calibrate", "predict", "--device", "orin-nx", "--frequency-mhz", "700", "--model", "tiny-llama"
    )
    predicted.failed_in_one_line(1, "kinds of layers of tiny-llama (layer)", "profile-device --model tiny-llama")


@pytest.mark.torch
def test_a_model_folder_is_trained_on_its_own_weights(tmp_path: Path) -> None:
    """The first loss of a run is that of transformers' own model on the same tokens: adapters begin at nothing."""
    from tests.profilers.runtime.plans import need_plan

    need_plan("qwen3")
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(5)
    sizes = {k: v for k, v in GEMMA.items() if k not in ("model_type", "sliding_window", "sliding_window_pattern")}
    sizes |= {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "num_attention_heads": 4}
    model = Qwen3ForCausalLM(Qwen3Config(**sizes, tie_word_embeddings=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    model.save_pretrained(str(tmp_path / "model"))
    run = ("card", "run", "--local", "--cut", "2", "--rounds", "1", "--seq", "32", "--batch", "2", "--dtype", "float32")
    model_words = ("--model", str(tmp_path / "model"), "--tokenizer", "bytes")
    done = command(*run, *model_words, "--out", str(tmp_path / "out"), "--json")
    assert done.code == 0, done.err
    assert "1 file(s)" in done.err
    from cardlab.split.data import Batches, read_tokens

    ids = Batches(read_tokens(None), batch=2, sequence=32, vocabulary=4096, shard=(0, 1)).batch(0)
    with torch.no_grad():
        expected = float(model(input_ids=ids, labels=ids).loss)
    runs = command("card", "runs", "--json").document["runs"]
    assert len(runs) == 1
    [adapters] = list((tmp_path / "out").glob("**/adapter_config.json"))
    assert json.loads(adapters.read_text())["target_modules"]
    losses = [line for line in done.err.splitlines() if line.startswith("round 1/1")]
    assert losses and f"{expected:.3f}"[:4] in losses[0]


@pytest.mark.torch
def test_variants_of_lora_are_in_the_task_and_change_what_is_trained(tmp_path: Path) -> None:
    run = ("card", "run", "--local", "--cut", "2", "--rounds", "1", "--seq", "32", "--model", "tiny-llama")
    variants = ("--lora-dropout", "0.2", "--rslora", "--dora", "--lora-rank-pattern", "q_proj=3")
    done = command(*run, *variants, "--dtype", "float32", "--out", str(tmp_path / "out"))
    assert done.code == 0, done.err
    [file] = list((tmp_path / "out").glob("**/adapter_config.json"))
    written = json.loads(file.read_text())
    assert written["use_dora"] and written["use_rslora"] and written["lora_dropout"] == 0.2
    assert written["rank_pattern"] == {"q_proj": 3}
    again = command(*run, "--adapters", str(file.parent), "--dtype", "float32", "--out", str(tmp_path / "next"))
    assert again.code == 0, again.err
    assert f"begins with the adapters of {file.parent} (sha256 " in again.err
    [more] = list((tmp_path / "next").glob("**/adapter_config.json"))
    assert json.loads(more.read_text())["rank_pattern"] == {"q_proj": 3}
    command(*run, "--adapters", str(file.parent), "--lora-rank", "4", "--out", str(tmp_path / "x")).failed_in_one_line(
        1, "rank 8, the run 4"
    )
