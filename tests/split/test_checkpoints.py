# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a run trains on other weights than those of the model: scaled down, random, of another file, or packed
values taken for numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

from safetensors.torch import load_file, save_file

from cardlab.core.errors import CardlabError, ProfileError
from cardlab.core.records.task import Task
from cardlab.profilers.runtime import resolve_task
from cardlab.profilers.runtime.families import family_named
from cardlab.split.weights import SeededWeights, open_weights
from tests.cli.run import command
from tests.split.models import halves

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    "qwen2": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
}
NAME = "model.layers.0.self_attn.q_proj.weight"
Tensors = dict[str, Any]


def model_folder(folder: Path, family: str = "llama", **changes: object) -> Path:
    """A small model as transformers saves it."""
    import transformers

    kind = {"llama": "Llama", "qwen2": "Qwen2", "gpt2": "GPT2"}[family]
    sizes = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 0, **FAMILIES[family]}
    if family != "gpt2":
        sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 64}
    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(**sizes, **changes)
    model = getattr(transformers, f"{kind}LMHeadModel" if family == "gpt2" else f"{kind}ForCausalLM")(config)
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def task_of(folder: Path) -> Task:
    return resolve_task(str(folder), batch=2, sequence=16)


def change(folder: Path, changed: Callable[[str, Any], Tensors]) -> None:
    """Every tensor of the model through `changed`."""
    out: Tensors = {}
    for name, tensor in load_file(str(folder / "model.safetensors")).items():
        out |= changed(name, tensor)
    save_file(out, str(folder / "model.safetensors"), metadata={"format": "pt"})


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(CardlabError) as caught:
        open_weights(task_of(folder), 0)
    said = str(caught.value)
    assert "\n" not in said and all(word in said for word in words), said


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("short", [False, True])
def test_a_checkpoint_of_transformers_is_read_as_transformers_reads_it(tmp_path: Path, family, tied, short) -> None:
    from transformers import AutoModelForCausalLM

    folder = model_folder(tmp_path / "model", family, tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    if short:
        change(folder, lambda name, t: {name if name.startswith("lm_head") else name.partition(".")[2]: t})
    task = task_of(folder)
    device, server = halves(task)
    from cardlab.split.adapters import initial_adapters

    for half in (device, server):
        half.set_cut(1)
        half.load(initial_adapters(task, 0))
    ids = torch.arange(32).reshape(2, 16)
    with torch.no_grad():
        expected = float(model(input_ids=ids, labels=ids, use_cache=False).loss)
    assert server.train(device.forward(ids).detach(), ids).loss == expected


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"attention_bias": True}),
        ("llama", {"hidden_act": "gelu", "rms_norm_eps": 1e-4}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "activation_function": "relu"}),
        ("gpt2", {"scale_attn_weights": False}),
    ],
)
def test_every_key_that_is_taken_computes_what_transformers_computes(tmp_path: Path, family, changes) -> None:
    from transformers import AutoModelForCausalLM

    from cardlab.split.adapters import initial_adapters

    folder = model_folder(tmp_path / "model", family, **changes)
    model = AutoModelForCausalLM.from_pretrained(str(folder)).eval()
    task = task_of(folder)
    device, server = halves(task)
    for half in (device, server):
        half.set_cut(1)
        half.load(initial_adapters(task, 0))
    ids = torch.arange(32).reshape(2, 16)
    with torch.no_grad():
        expected = float(model(input_ids=ids, labels=ids, use_cache=False).loss)
    assert server.train(device.forward(ids).detach(), ids).loss == expected


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("tied", [True, False])
def test_the_parameters_that_a_family_names_are_those_of_transformers(tmp_path: Path, family, tied) -> None:
    folder = model_folder(tmp_path / "model", family, tie_word_embeddings=tied)
    there = {n: tuple(t.shape) for n, t in load_file(str(folder / "model.safetensors")).items()}
    architecture = task_of(folder).architecture
    assert family_named(family).parameters(architecture) == there


DTYPES = ["float8_e4m3fn", "float8_e5m2", "int8", "uint8", "int32", "bool", "int64"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scales", ["_scale", "_scale_inv", None])
def test_weights_that_are_no_floating_numbers_are_refused(folder: Path, dtype, scales) -> None:
    def spoil(name: str, tensor: Any) -> Tensors:
        if "_proj" not in name:
            return {name: tensor.to(torch.bfloat16)}
        found = {name: (100 * tensor).to(getattr(torch, dtype))}
        return found if scales is None else {**found, name + scales: torch.ones(1)}

    change(folder, spoil)
    with pytest.raises(ProfileError, match="quantised checkpoint"):
        task_of(folder)
    with pytest.raises(ProfileError, match="use the unquantised one"):
        resolve_task(str(folder / "config.json"))


def packed(method: str) -> Callable[[str, Any], Tensors]:
    def pack(name: str, t: Any) -> Tensors:
        stem = name.removesuffix(".weight")
        if "_proj" not in name:
            return {name: t}
        zeros = lambda *shape: torch.zeros(shape, dtype=torch.int32)  # noqa: E731 - one line of a table
        rows, columns = t.shape
        return {
            "awq": {f"{stem}.qweight": zeros(columns, rows // 8), f"{stem}.scales": torch.ones(1, rows)},
            "gptq": {f"{stem}.qweight": zeros(columns // 8, rows), f"{stem}.g_idx": zeros(columns)},
            "mlx": {name: zeros(rows, columns // 8).to(torch.uint32), f"{stem}.scales": torch.ones(rows, 1)},
            "bitsandbytes": {
                name: torch.zeros(rows * columns // 2, 1, dtype=torch.uint8),
                f"{name}.absmax": torch.ones(rows),
                f"{name}.quant_state.bitsandbytes__nf4": torch.zeros(8, dtype=torch.uint8),
            },
            "compressed-tensors": {
                f"{stem}.weight_packed": zeros(rows, columns // 8),
                f"{stem}.weight_scale": torch.ones(rows, 1),
            },
            "int8": {name: t.to(torch.int8), f"{stem}.SCB": torch.ones(rows)},
        }[method]

    return pack


@pytest.mark.parametrize("method", ["awq", "gptq", "mlx", "bitsandbytes", "compressed-tensors", "int8"])
def test_packed_weights_are_refused_by_their_method(folder: Path, method) -> None:
    change(folder, packed(method))
    with pytest.raises(ProfileError, match="quantised checkpoint.*unquantised") as caught:
        task_of(folder)
    wanted = {"int8": "bitsandbytes"}.get(method, method)
    assert wanted in caught.value.message
    if method in ("awq", "gptq", "mlx"):
        assert f"({method}, 4 bit)" in caught.value.message


def test_the_bits_of_packed_weights_are_named_where_the_model_is_known(folder: Path) -> None:
    task = task_of(folder)
    change(folder, packed("mlx"))
    with pytest.raises(ProfileError, match=r"mlx, 4 bit"):
        open_weights(task, 0)
    change_config(folder, quantization_config={"quant_method": "awq", "bits": 4})
    refused(folder, "awq, 4 bit")


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("quantize_config.json", {"bits": 4, "group_size": 128}, "gptq, 4 bit"),
        ("quant_config.json", {"w_bit": 4, "zero_point": True}, "awq, 4 bit"),
        ("hf_quant_config.json", {"quantization": {"quant_algo": "FP8"}}, "modelopt, 8 bit"),
    ],
)
def test_a_file_of_a_quantiser_beside_the_weights_is_heard(folder: Path, name, content, words) -> None:
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(ProfileError, match=words):
        task_of(folder)


@pytest.mark.parametrize(
    "extra",
    [
        f"{NAME}_scale",
        NAME.replace("weight", "scales"),
        NAME.replace("weight", "biases"),
        NAME.replace("weight", "bias"),
        "model.layers.0.self_attn.q_norm.weight",
        "model.layers.2.input_layernorm.weight",
        "model.vision_tower.patch.weight",
        "lm_head.bias",
    ],
)
def test_a_tensor_that_the_model_does_not_use_is_refused_by_name(folder: Path, extra) -> None:
    change(folder, lambda name, t: {name: t, extra: torch.ones(32)} if name == NAME else {name: t})
    refused(folder, extra, "does not use")


def test_what_transformers_makes_itself_is_passed_over(tmp_path: Path, folder: Path) -> None:
    plain = open_weights(task_of(folder), 0).fingerprint
    change(folder, lambda n, t: {n: t, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    assert open_weights(task_of(folder), 0).fingerprint == plain
    old = model_folder(tmp_path / "old", "gpt2")
    buffers = {"transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8)}
    change(old, lambda n, t: {n: t, **buffers, "transformer.h.1.attn.masked_bias": torch.tensor(-1e4)})
    assert open_weights(task_of(old), 0).fingerprint


def test_a_tied_head_may_stand_in_the_file_only_as_it_is(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", tie_word_embeddings=True)
    table = "model.embed_tokens.weight"
    change(folder, lambda n, t: {n: t, "lm_head.weight": t.clone()} if n == table else {n: t})
    assert open_weights(task_of(folder), 0).fingerprint
    change(folder, lambda n, t: {n: t + 1e-3} if n == "lm_head.weight" else {n: t})
    refused(folder, "lm_head.weight", "tie_word_embeddings")


def test_other_files_beside_the_model_are_named_and_not_read(folder: Path) -> None:
    plain = open_weights(task_of(folder), 0)
    spoiled = {n: torch.zeros_like(t) for n, t in load_file(str(folder / "model.safetensors")).items()}
    for name in ("model_ema.safetensors", "zz.safetensors", "adapter_model.safetensors"):
        save_file(spoiled, str(folder / name))
    beside = open_weights(task_of(folder), 0)
    assert beside.fingerprint == plain.fingerprint
    assert "1 file(s)" in beside.origin and "not read" in beside.origin and "model_ema.safetensors" in beside.origin


def shard(folder: Path, names: tuple[str, ...] = ("model-00001-of-00002", "model-00002-of-00002")) -> None:
    tensors = load_file(str(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    files = [f"{name}.safetensors" for name in names]
    where = {name: files[n % 2] for n, name in enumerate(sorted(tensors))}
    for file in files:
        save_file({n: tensors[n] for n in tensors if where[n] == file}, str(folder / file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def test_an_index_names_the_files_of_the_model(folder: Path) -> None:
    whole = open_weights(task_of(folder), 0).fingerprint
    shard(folder, ("one", "two"))
    save_file({NAME: torch.zeros(32, 32)}, str(folder / "zz.safetensors"))
    sharded = open_weights(task_of(folder), 0)
    assert sharded.fingerprint == whole and "2 file(s)" in sharded.origin and "zz.safetensors" in sharded.origin


def both(folder: Path) -> None:
    kept = (folder / "model.safetensors").read_bytes()
    shard(folder)
    (folder / "model.safetensors").write_bytes(kept)


def lacks_a_shard(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def no_index(folder: Path) -> None:
    shard(folder)
    (folder / "model.safetensors.index.json").unlink()


def index_of(content: object) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        shard(folder)
        (folder / "model.safetensors.index.json").write_text(
            content if isinstance(content, str) else json.dumps(content)
        )

    return spoil


def only(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        for name in names:
            (folder / name).write_bytes(b"\x80\x02}q\x00.")

    return spoil


def renamed(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")


def cut_short(size: int) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:size])

    return spoil


def written(content: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(content)

    return spoil


def a_folder_instead(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()


def header(plain: object, body: bytes = b"") -> Callable[[Path], None]:
    text = json.dumps(plain).encode()
    return written(len(text).to_bytes(8, "little") + text + body)


SPOILED: list[tuple[Callable[[Path], None], list[str]]] = [
    (both, ["model.safetensors", "model.safetensors.index.json", "remove the one"]),
    (lacks_a_shard, ["model-00002-of-00002.safetensors"]),
    (no_index, ["model.safetensors.index.json"]),
    (index_of("{"), ["model.safetensors.index.json", "no index"]),
    (index_of([]), ["no index"]),
    (index_of({"weight_map": {}}), ["no index"]),
    (index_of({"weight_map": {"a": 3}}), ["no index"]),
    (index_of({"weight_map": {"a": "../other/model.safetensors"}}), ["no index"]),
    (index_of({"weight_map": {"a": "pytorch_model.bin"}}), ["no index"]),
    (only("pytorch_model.bin"), ["pytorch_model.bin", "safetensors", "save_pretrained"]),
    (
        only("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"),
        ["pytorch_model", "save_pretrained"],
    ),
    (only("consolidated.00.pth"), ["consolidated.00.pth"]),
    (only("model-q4.gguf"), ["model-q4.gguf"]),
    (only("adapter_model.bin", "adapter_config.json"), ["adapters", "base model"]),
    (renamed, ["consolidated.safetensors", "call the model model.safetensors"]),
    (cut_short(2000), ["no safetensors file", "download"]),
    (cut_short(20_000), ["cut short", "download"]),
    (cut_short(4), ["no safetensors file"]),
    (cut_short(0), ["no safetensors file"]),
    (written(b"\xff" * 100), ["no safetensors file"]),
    (header([1]), ["no safetensors file"]),
    (header({NAME: {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"\0" * 8), ["no safetensors file"]),
    (header({NAME: {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"\0" * 8), ["no safetensors file"]),
    (header({NAME: {"dtype": "F32", "shape": ["a"], "data_offsets": [0, 4]}}, b"\0" * 8), ["no safetensors file"]),
    (header({NAME: 3}), ["no safetensors file"]),
    (header({}), ["lacks"]),
    (a_folder_instead, ["model.safetensors"]),
]


@pytest.mark.parametrize(("spoil", "words"), SPOILED)
def test_weights_that_cannot_be_told_or_read_are_refused_in_one_line(folder: Path, spoil, words) -> None:
    spoil(folder)
    refused(folder, *words)


def test_a_model_of_another_size_or_without_a_tensor_is_named(folder: Path) -> None:
    change(folder, lambda n, t: {} if n == NAME else {n: t})
    refused(folder, "lacks", NAME)
    change(folder, lambda n, t: {n: t, NAME: torch.zeros(16, 32)} if "norm" in n else {n: t})
    refused(folder, NAME, "shape", "config.json")


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), "float32"), (float("inf"), "float32"), (1e6, "float16")])
def test_weights_that_are_not_finite_are_named(folder: Path, value, dtype) -> None:
    change(folder, lambda n, t: {n: t.fill_(value)} if n == NAME else {n: t})
    with pytest.raises(CardlabError, match=f"{NAME} holds values that are NaN or infinite in {dtype}"):
        open_weights(task_of(folder), 0).read("layer-0", {NAME: (32, 32)}, dtype)


def test_a_configuration_without_weights_says_that_they_are_random(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    weights = open_weights(task_of(folder), 0)
    assert isinstance(weights, SeededWeights) and "no trained weights" in weights.origin
    alone = open_weights(resolve_task(str(folder / "config.json"), sequence=16), 0)
    assert alone.fingerprint == weights.fingerprint


def test_a_folder_that_is_gone_gives_no_random_weights(folder: Path) -> None:
    task = task_of(folder)
    shutil.rmtree(folder)
    with pytest.raises(ProfileError, match="not here"):
        open_weights(task, 0)


def test_a_run_on_quantised_or_pickled_weights_ends_before_it_begins(folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder.parent)
    words = ("run", "--local", "--cut", "1", "--seq", "16", "--rounds", "1", "--model", "model", "--tokenizer", "bytes")
    kept = (folder / "model.safetensors").read_bytes()
    change(folder, packed("awq"))
    command("card", *words).failed_in_one_line(1, "quantised checkpoint (awq")
    only("pytorch_model.bin")(folder)
    command("card", *words).failed_in_one_line(1, "pytorch_model.bin")
    assert not (folder.parent / "card-run").exists() and kept
