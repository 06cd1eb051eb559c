# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, memory, FLOPs or weights of a model in 4 or 8 bits are not those that bitsandbytes keeps and
computes."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.torch

import bitsandbytes as bnb
import torch

from cardlab.core.errors import NotSupportedError, ProfileError, UsageError
from cardlab.core.records.task import QUANTIZATIONS, Execution
from cardlab.profilers.runtime import analyse, resolve_execution, resolve_task
from cardlab.profilers.runtime import quantised as maps
from cardlab.profilers.runtime.build import build_meta, materialise, release
from cardlab.profilers.runtime.extras import extra_works
from cardlab.profilers.runtime.kept import kept_maps, weight_bytes
from cardlab.profilers.runtime.rows import RowsOfFile, read_from
from cardlab.workflows.doctor import kernel_probe
from tests.cli.run import command

SHAPES = [(512, 256), (300, 96), (130, 100), (8, 64), (2, 64), (66, 33)]


def map_of(weight: torch.Tensor, form: str) -> torch.nn.Module:
    rows, columns = weight.shape
    made = maps._made(torch.nn.Linear(columns, rows, bias=False, device="meta"), form, weight.dtype)
    made.keep(weight, "cpu")
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_weight_quantised_in_parts_is_that_of_bitsandbytes(monkeypatch: pytest.MonkeyPatch, shape, dtype) -> None:
    """In parts, because the whole at once takes ten times its bytes; a border inside a block would change values."""
    monkeypatch.setattr(maps, "_AT_ONCE", 2**12)
    weight = torch.randn(shape).to(dtype)
    for form, nested in (("nf4", False), ("nf4-double", True)):
        values, state = bnb.functional.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=nested)
        mine = map_of(weight, form).weight
        theirs = state.as_dict(packed=True)
        assert torch.equal(mine.data, values)
        found = mine.quant_state.as_dict(packed=True)
        assert found.keys() == theirs.keys() and all(torch.equal(found[key], theirs[key]) for key in theirs)
    expected = bnb.nn.Int8Params(weight.clone(), requires_grad=False, has_fp16_weights=False).to("cpu")
    found = map_of(weight, "int8").weight
    assert torch.equal(found.CB, expected.CB) and torch.equal(found.SCB, expected.SCB)


def held_bytes(part: torch.nn.Module) -> int:
    """Of everything that bitsandbytes keeps for one map."""
    weight = part.weight
    held = [weight.data]
    state = getattr(weight, "quant_state", None)
    if state is None:
        held.append(weight.SCB)
    else:
        held += [state.absmax, state.code]
        held += [state.state2.absmax, state.state2.code, state.offset] if state.nested else []
    return sum(t.numel() * t.element_size() for t in held)


@pytest.mark.parametrize("form", QUANTIZATIONS)
def test_weight_bytes_are_those_that_are_held_and_they_are_given_back(form: str) -> None:
    task = resolve_task("tiny-llama", sequence=16)
    built = build_meta(task, Execution(dtype="bfloat16", torch="x", quantization=form))
    counted = weight_bytes(built.layers[1])
    layer = materialise(built, built.layers[1], "cpu")
    parts = [part for _, part in kept_maps(layer)]
    assert len(parts) == 7 and all(part.kept_bytes == held_bytes(part) for part in parts)
    norms = sum(p.numel() * 2 for n, p in layer.named_parameters() if "norm" in n)
    assert counted == weight_bytes(layer) == norms + sum(held_bytes(part) for part in parts)
    release(layer)
    assert all(p.is_meta for p in layer.parameters()) and weight_bytes(layer) == counted


@pytest.mark.parametrize("form", QUANTIZATIONS)
def test_products_are_counted_as_the_dense_ones_and_memory_with_what_is_taken_apart(form: str) -> None:
    task = resolve_task("tiny-llama", batch=2, sequence=64, lora_targets=["all-linear"])
    dense = analyse(task, Execution(dtype="bfloat16", torch="x"))
    found = analyse(task, Execution(dtype="bfloat16", torch="x", quantization=form))
    assert not found.flop_disagreements and found.parameters == dense.parameters
    for one, other in zip(found.segments, dense.segments, strict=True):
        assert (one.forward_flop, one.backward_flop) == (other.forward_flop, other.backward_flop)
        assert (one.weight_bytes < other.weight_bytes) == ("layer" in one.segment)
    # Sequence 1: hardly an activation, so that the highest is the largest map's weight at the compute dtype; in 8 bits
    # torch scales it in float32, once more on each side.
    short = resolve_task("llama-3.2-1b", sequence=1)
    layer = analyse(short, Execution(dtype="bfloat16", torch="x", quantization=form)).segment("layer")
    times = 5 if form == "int8" else 1
    assert 1.0 < layer.peak_bytes / (times * 2 * 8192 * 2048) < 1.1


def test_loading_a_layer_is_quantising_it_unless_it_is_stored_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A moved cut waits for it: to quantise a layer takes many times what its bytes take."""
    task = resolve_task("tiny-llama", sequence=16)
    execution = Execution(dtype="bfloat16", torch="x", quantization="nf4")
    built, analysis = build_meta(task, execution), analyse(task, execution)
    quantised_shapes: list[torch.Size] = []
    keep = maps.FourBit.keep

    def noting(part: maps.FourBit, dense: torch.Tensor, device: str) -> None:
        quantised_shapes.append(dense.shape)
        keep(part, dense, device)

    monkeypatch.setattr(maps.FourBit, "keep", noting)
    [load] = [work for work in extra_works(built, analysis, "cpu") if work.segment == "layer_load"]
    load.run_once()
    assert len(quantised_shapes) == 7 and all(p.is_meta for p in built.layers[2].parameters())
    monkeypatch.setattr("cardlab.profilers.runtime.extras.is_stored_quantised", lambda _task: True)
    [load] = [work for work in extra_works(built, analysis, "cpu") if work.segment == "layer_load"]
    load.run_once()
    assert len(quantised_shapes) == 7


def test_an_unknown_form_and_kernels_that_do_not_run_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="unknown quantization 'int3'; use int8, nf4, nf4-double"):
        resolve_execution(quantization="int3")

    def broken(*_arguments: object, **_named: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(bnb.nn.Linear4bit, "forward", broken)
    with pytest.raises(
        NotSupportedError, match="nf4 weights on cpu: CUDA error: no kernel image.*leave --quantization out"
    ):
        resolve_execution(quantization="nf4")


def test_doctor_launches_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import proves nothing: the first kernel may fail where the package loads."""

    class Here:
        torch_device = "cpu"

    [probe] = kernel_probe(Here())  # type: ignore[arg-type]
    assert probe.ok and "ran on cpu" in probe.state
    # Wrong, and without an error.
    monkeypatch.setattr(bnb.nn.Linear4bit, "forward", lambda self, x: 2 * x)
    [probe] = kernel_probe(Here())  # type: ignore[arg-type]
    assert probe.ok is False and "came out wrong" in probe.state and probe.remedy


def test_what_goes_with_no_quantised_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    profile = ("profile-device", "--seq", "16", "--quantization", "nf4")
    command(*profile, "--platform", "cpu", "--model", "gpt2").failed_in_one_line(2, "has no linear maps")
    command(*profile, "--platform", "cpu", "--model", "tiny-llama", "--dora").failed_in_one_line(2, "DoRA")
    command(*profile, "--platform", "simulated:orin-nano", "--model", "tiny-llama").failed_in_one_line(2, "simulated")
    assert not (tmp_path / "cardlab.db").exists()


def test_a_profile_in_four_bits_is_its_own_execution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of the dense model must never be taken for it: fits, plans and text say which it is."""
    monkeypatch.chdir(tmp_path)
    words = ("profile-device", "--platform", "cpu", "--model", "tiny-llama", "--seq", "16", "--repeats", "2")
    shown = command(*words, "--no-whole-step", "--quantization", "nf4")
    assert shown.code == 0 and " with nf4 weights," in shown.out
    document = command("profile-device", "show", "--json").document
    assert document["execution"]["quantization"] == "nf4"
    dense = command(*words, "--no-whole-step", "--json").document
    assert "quantization" not in dense["execution"]
    assert command("cardlab", "db", "check").code == 0


def test_codecs_are_profiled_beside_quantised_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model without weights is trained first, whole: that is no work for weights that are kept quantised."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cardlab.workflows.codecs.PRETRAIN_STEPS", 2)
    words = ("profile-device", "--platform", "cpu", "--model", "tiny-llama", "--seq", "16", "--repeats", "2")
    done = command(*words, "--no-whole-step", "--dtype", "float32", "--quantization", "nf4", "--compression")
    assert done.code == 0, done.err


def test_rows_of_a_file_are_those_of_the_embedding_it_holds(tmp_path: Path) -> None:
    """Whatever a class does with them: gemma's multiplies what it looks up."""

    class Scaled(torch.nn.Embedding):  # type: ignore[misc]
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids) * 7.0

    held = Scaled(50, 12).to(torch.float16)
    (tmp_path / "weights").write_bytes(b"headers!" + held.weight.detach().numpy().tobytes())
    empty = Scaled(50, 12, device="meta", dtype=torch.float32)
    read_from(empty, RowsOfFile(tmp_path / "weights", 8, torch.float16, 12), torch.float32)
    ids = torch.tensor([[3, 4, 5, 49], [0, 3, 3, 20]])
    expected = torch.nn.functional.embedding(ids, held.weight.float()) * 7.0
    assert torch.equal(empty(ids), expected) and empty.weight.is_meta
    (tmp_path / "weights").write_bytes(b"headers!" + held.weight.detach().numpy().tobytes()[:100])
    with pytest.raises(ProfileError, match="weights ends before row 5 .*put the file"):
        empty(ids)
