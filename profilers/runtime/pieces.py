"""The segments of a model as callables on tensors, the same on the meta device and on a real one.

A `Piece` has a forward function and says what it needs; counting, memory analysis and timing all run the same
one, so what is counted is what is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from cardlab.core.records.workload import EMBEDDING, FIRST_LAYER, HEAD
from cardlab.profilers.runtime.build import BuiltModel, move_buffers
from cardlab.profilers.runtime.skeleton import Context, layer_contexts, no_layers, output_kind, replaced_forward


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One segment, ready to run.

    Attributes:
        segment: its name.
        modules: what has to be materialised for it.
        make_inputs: fresh input tensors on a device; the first one may require a gradient.
        forward: inputs to the output tensor (a loss for the head).
    """

    segment: str
    modules: tuple[torch.nn.Module, ...]
    make_inputs: Callable[[str], tuple[torch.Tensor, ...]]
    forward: Callable[..., torch.Tensor]


def hidden_states(built: BuiltModel, device: str, input_grad: bool) -> torch.Tensor:
    """Random hidden states [B, S, h] at the compute dtype."""
    task = built.task
    shape = (task.batch, task.sequence, task.architecture.hidden_size)
    return torch.randn(shape, dtype=built.dtype, device=device).requires_grad_(input_grad)


def token_ids(built: BuiltModel, device: str) -> torch.Tensor:
    """Random token numbers [B, S]."""
    task = built.task
    vocab = task.architecture.vocab_size
    return torch.randint(0, vocab, (task.batch, task.sequence), dtype=torch.int64, device=device)


def layer_piece(
    built: BuiltModel, contexts: Sequence[Context], *, first: bool = False, numbers: tuple[int, ...] = (0,)
) -> Piece:
    """A chain of layers by their numbers from 0 (one may repeat), checkpointed if the task says so.

    `first`: as the first layer, whose input needs no gradient.
    """
    segment = FIRST_LAYER if first else built.task.architecture.layer_segments[numbers[0]]
    chain = [(built.layers[number], contexts[number]) for number in numbers]

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        for layer, context in chain:
            hidden = run_layer(built, layer, hidden, context)
        return hidden

    def make_inputs(device: str) -> tuple[torch.Tensor, ...]:
        return (hidden_states(built, device, input_grad=not first),)

    modules = tuple(dict.fromkeys(layer for layer, _ in chain))
    return Piece(segment=segment, modules=modules, make_inputs=make_inputs, forward=forward)


def run_layer(built: BuiltModel, layer: torch.nn.Module, hidden: torch.Tensor, context: Context) -> torch.Tensor:
    """Output of one layer, through non-reentrant checkpointing if the task says so."""
    if not built.task.gradient_checkpointing:
        return built.family.call_layer(layer, hidden, context)

    def call(states: torch.Tensor) -> torch.Tensor:
        return built.family.call_layer(layer, states, context)

    # What is drawn here comes from generators of its own, so torch's state need not be kept: a wait on a GPU.
    return checkpoint(call, hidden, use_reentrant=False, preserve_rng_state=False)


def head_piece(built: BuiltModel) -> Piece:
    """Final norm, LM head and the shifted cross-entropy in float32, as the model computes them: [B, S, h] and ids to a
    loss."""
    norm, head = built.part(built.family.norm_path), built.part(built.family.head_path)
    kind = output_kind(built)

    def inner(*_rest: object, inputs_embeds: torch.Tensor, **_options: object) -> object:
        return kind(last_hidden_state=norm(inputs_embeds))

    def forward(hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        with replaced_forward({built.inner: inner}):
            return built.model(inputs_embeds=hidden, labels=ids, use_cache=False).loss

    def make_inputs(device: str) -> tuple[torch.Tensor, ...]:
        return hidden_states(built, device, input_grad=True), token_ids(built, device)

    return Piece(segment=HEAD, modules=(norm, head), make_inputs=make_inputs, forward=forward)


def embedding_piece(built: BuiltModel, device: str) -> Piece:
    """Token (and position) embedding, with the masks, positions and rotary tables that one forward pass makes."""
    modules = tuple(built.part(path) for path in built.family.embedding_paths)

    def forward(ids: torch.Tensor) -> torch.Tensor:
        with no_layers(built):
            return built.inner(input_ids=ids, use_cache=False).last_hidden_state

    def lookup(ids: torch.Tensor) -> torch.Tensor:
        hidden = modules[0](ids)
        for learned in modules[1:]:
            hidden = hidden + learned(torch.arange(built.task.sequence, device=device)[None])
        return hidden

    def make_inputs(where: str) -> tuple[torch.Tensor, ...]:
        # Tables are computed where the tokens are.
        move_buffers(built.inner, where if where != "meta" else "cpu")
        return (token_ids(built, where),)

    # Tables of real numbers do not go with tokens that have none, and cost no product worth counting.
    run = lookup if device == "meta" else forward
    return Piece(segment=EMBEDDING, modules=modules, make_inputs=make_inputs, forward=run)


def meta_pieces(built: BuiltModel) -> tuple[Piece, ...]:
    """All segments on the meta device, in data order."""
    contexts = layer_contexts(built, "meta")
    names = built.task.architecture.layer_segments
    kinds = dict.fromkeys(names[1:])
    return (
        embedding_piece(built, "meta"),
        layer_piece(built, contexts, first=True),
        # The first layer serves where it is of that kind: a model of one layer of it has no other.
        *(layer_piece(built, contexts, numbers=(names.index(kind),)) for kind in kinds),
        head_piece(built),
    )
