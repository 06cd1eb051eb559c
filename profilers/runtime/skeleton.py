"""What a model's forward pass does around its layers: masks, positions and rotary tables, found by running it.

The model's own code is run with layers that only note what they are called with, so that every family's masks and
tables are its own. That needs no weight and a hidden state of one number.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch.utils._pytree import tree_map_only

from cardlab.profilers.runtime.build import BuiltModel

Context = Mapping[str, object]
"""What a layer is called with beside its hidden states: mask, positions, rotary tables."""


def layer_contexts(built: BuiltModel, device: str) -> Sequence[Context]:
    """What the model hands to each of its layers, on the device."""
    seen: list[Context] = []
    task = built.task
    # One number seen [B, S, h] times: nothing around the layers looks at more than shape and dtype.
    hidden = torch.zeros((1, 1, 1), dtype=built.dtype).expand(task.batch, task.sequence, task.architecture.hidden_size)
    try:
        _run(built, hidden, seen, tupled=False)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        # Layers of older transformers return a tuple.
        seen.clear()
        _run(built, hidden, seen, tupled=True)
    moved: list[Context] = tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), seen)
    return moved


def _run(built: BuiltModel, hidden: torch.Tensor, seen: list[Context], *, tupled: bool) -> None:
    def noting(layer: torch.nn.Module) -> Callable[..., object]:
        names = list(inspect.signature(layer.forward).parameters)

        def forward(*arguments: object, **named: object) -> object:
            given = {**dict(zip(names, arguments, strict=False)), **named}
            states = given.pop(names[0])
            if not isinstance(states, torch.Tensor) or states.shape != hidden.shape:
                raise ValueError("hidden states of another shape")
            seen.append(given)
            return (states,) if tupled else states

        return forward

    layers = replaced_forward({layer: noting(layer) for layer in built.layers})
    with torch.no_grad(), layers, no_norm(built), no_learned_positions(built):
        built.inner(inputs_embeds=hidden, use_cache=False)


@contextmanager
def no_norm(built: BuiltModel) -> Iterator[None]:
    """Leave the final norm out, whose weights may not be there."""
    norm = built.part(built.family.norm_path)
    with replaced_forward({norm: lambda hidden, *_rest, **_options: hidden}):
        yield


@contextmanager
def no_learned_positions(built: BuiltModel) -> Iterator[None]:
    """Let learned positions be zero, whose weights may not be there."""

    def zero(positions: torch.Tensor) -> torch.Tensor:
        return torch.zeros((), dtype=built.dtype, device=positions.device)

    with replaced_forward({built.part(path): zero for path in built.family.embedding_paths[1:]}):
        yield


@contextmanager
def no_layers(built: BuiltModel) -> Iterator[None]:
    """Let the model run none of its layers and no final norm: the embedding, masks, positions and rotary tables."""
    built.cut_to(range(0))
    try:
        with no_norm(built):
            yield
    finally:
        built.cut_to(range(len(built.layers)))


def output_kind(built: BuiltModel) -> Callable[..., object]:
    """The class of what the model without its LM head returns."""
    hidden = torch.zeros((1, 1, built.task.architecture.hidden_size), dtype=built.dtype)
    with torch.no_grad(), no_layers(built), no_learned_positions(built):
        return type(built.inner(inputs_embeds=hidden, use_cache=False))


@contextmanager
def replaced_forward(functions: Mapping[torch.nn.Module, Callable[..., object]]) -> Iterator[None]:
    """Let modules compute something else inside the block."""
    before = {module: vars(module).get("forward") for module in functions}
    for module, function in functions.items():
        module.forward = function
    try:
        yield
    finally:
        for module, own in before.items():
            if own is None:
                del module.forward
            else:
                module.forward = own
