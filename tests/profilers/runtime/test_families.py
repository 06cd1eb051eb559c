# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a split run computes something else than the model it split."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from cardlab.core.errors import ProfileError
from cardlab.core.records.task import Execution
from cardlab.profilers.runtime import resolve_task
from cardlab.profilers.runtime.build import build_meta, check_kinds, materialise_whole
from cardlab.profilers.runtime.pieces import token_ids
from tests.profilers.runtime.small import SMALL


@pytest.fixture(params=sorted(SMALL))
def model_file(request, tmp_path):
    import json

    path = tmp_path / "config.json"
    path.write_text(json.dumps(SMALL[request.param]))
    return str(path)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_split_step_equals_the_unsplit_one(model_file: str, attention: str, checkpointing: bool) -> None:
    task = resolve_task(model_file, batch=2, sequence=24, gradient_checkpointing=checkpointing)
    built = build_meta(task, Execution(dtype="float32", attention=attention, torch="x"))
    torch.manual_seed(0)
    whole = materialise_whole(built, "cpu")
    sides = []
    for _ in range(2):
        copied = copy.deepcopy(whole)
        layers = tuple(copied.get_submodule(built.family.layer_path))
        sides.append(replace(built, model=copied, layers=layers))
    device, server = sides[0].device_part(2), sides[1].server_part(2)
    ids = token_ids(built, "cpu")

    loss = whole(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    sent = device(input_ids=ids, use_cache=False).last_hidden_state
    received = sent.detach().requires_grad_(True)
    split_loss = server(inputs_embeds=received, labels=ids, use_cache=False).loss
    split_loss.backward()
    sent.backward(received.grad)

    assert split_loss.item() == pytest.approx(loss.item(), abs=1e-6)
    truth = {n.split(".", 2)[2]: p.grad for n, p in whole.named_parameters() if "lora_A" in n or "lora_B" in n}
    on_device = {n.split(".", 1)[1]: p.grad for n, p in device.named_parameters() if "lora" in n}
    on_server = {n.split(".", 2)[2]: p.grad for n, p in server.named_parameters() if "lora" in n}
    assert len(on_device) + len(on_server) == len(truth)
    shifted = {f"{int(n.split('.', 1)[0]) + 2}.{n.split('.', 1)[1]}": g for n, g in on_server.items()}
    for name, gradient in {**on_device, **shifted}.items():
        torch.testing.assert_close(gradient, truth[name], rtol=1e-4, atol=1e-7)


def test_each_side_holds_only_its_part(model_file: str) -> None:
    task = resolve_task(model_file, sequence=8)
    built = build_meta(task, Execution(dtype="float32", torch="x"))
    twin = build_meta(task, Execution(dtype="float32", torch="x"))
    device = built.device_part(1)
    server = twin.server_part(1)
    layer = sum(p.numel() for p in next(iter(twin.layers)).parameters())
    vocab = 99 * 64
    on_device = sum(p.numel() for p in device.parameters())
    on_server = sum(p.numel() for p in server.parameters())
    assert vocab + layer <= on_device <= vocab + layer + 64 * 64
    assert vocab + 2 * layer <= on_server <= vocab + 2 * layer + 4 * 64


def test_adapters_have_the_dtype_that_was_asked_for(model_file: str) -> None:
    for dtype in ("float32", "bfloat16"):
        built = build_meta(resolve_task(model_file, sequence=8, adapter_dtype=dtype), Execution(dtype="bfloat16"))
        trainable = [p for p in built.model.parameters() if p.requires_grad]
        assert trainable
        assert {str(p.dtype) for p in trainable} == {f"torch.{dtype}"}
        assert {str(p.dtype) for p in built.model.parameters() if not p.requires_grad} == {"torch.bfloat16"}


def test_layers_are_structurally_equal_and_a_changed_one_is_noticed(model_file: str) -> None:
    built = build_meta(resolve_task(model_file, sequence=8), Execution(dtype="float32"))
    check_kinds(built)
    next(iter(built.layers[1].parameters())).requires_grad_(True)
    with pytest.raises(ProfileError, match="layers 1 and 2 of .* differ"):
        check_kinds(built)
