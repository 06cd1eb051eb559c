"""The segments of a model as callables on tensors, the same on the meta device and on a real one.

A `Piece` has a forward function and says what it needs; counting, memory analysis and timing all run the same
one, so what is counted is what is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from cardlab.profilers.runtime.build import BuiltModel, Context, layer_context, make_rotary


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


def layer_piece(built: BuiltModel, context: Context, *, first: bool = False, numbers: tuple[int, ...] = (0,)) -> Piece:
    """A chain of layers (a number may repeat), checkpointed if the task says so."""
    segment = "first_layer" if first else "layer"
    layers = tuple(built.layers[number] for number in numbers)

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        for layer in layers:
            hidden = run_layer(built, layer, hidden, context)
        return hidden

    def make_inputs(device: str) -> tuple[torch.Tensor, ...]:
        return (hidden_states(built, device, input_grad=not first),)

    modules = tuple(dict.fromkeys(layers))
    return Piece(segment=segment, modules=modules, make_inputs=make_inputs, forward=forward)


def run_layer(built: BuiltModel, layer: torch.nn.Module, hidden: torch.Tensor, context: Context) -> torch.Tensor:
    """Output of one layer, through non-reentrant checkpointing if the task says so."""
    if not built.task.gradient_checkpointing:
        return built.family.call_layer(layer, hidden, context)

    def call(states: torch.Tensor) -> torch.Tensor:
        return built.family.call_layer(layer, states, context)

    # Nothing here draws random numbers, so their state need not be kept, which costs a wait on a GPU.
    return checkpoint(call, hidden, use_reentrant=False, preserve_rng_state=False)


def head_piece(built: BuiltModel) -> Piece:
    """Final norm, LM head and the shifted cross-entropy in float32: [B, S, h] and ids to a loss."""
    norm, head = built.part(built.family.norm_path), built.part(built.family.head_path)
    vocab = built.task.architecture.vocab_size

    def forward(hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        logits = head(norm(hidden))
        return built.model.loss_function(logits=logits, labels=ids, vocab_size=vocab)

    def make_inputs(device: str) -> tuple[torch.Tensor, ...]:
        return hidden_states(built, device, input_grad=True), token_ids(built, device)

    return Piece(segment="head", modules=(norm, head), make_inputs=make_inputs, forward=forward)


def embedding_piece(built: BuiltModel, device: str) -> Piece:
    """Token (and position) embedding, with the rotary tables and the mask that one forward pass makes."""
    modules = tuple(built.part(path) for path in built.family.embedding_paths)
    rotary = None if device == "meta" else make_rotary(built, device)
    positions = torch.arange(built.task.sequence, device=device)[None]

    def forward(ids: torch.Tensor) -> torch.Tensor:
        hidden = modules[0](ids)
        for learned in modules[1:]:
            hidden = hidden + learned(positions)
        if rotary is not None:
            rotary(hidden, positions)
        return hidden

    def make_inputs(where: str) -> tuple[torch.Tensor, ...]:
        return (token_ids(built, where),)

    return Piece(segment="embedding", modules=modules, make_inputs=make_inputs, forward=forward)


def meta_pieces(built: BuiltModel) -> tuple[Piece, ...]:
    """All four segments on the meta device, in the order of SEGMENTS."""
    context = layer_context(built, "meta")
    return (
        embedding_piece(built, "meta"),
        layer_piece(built, context, first=True),
        layer_piece(built, context),
        head_piece(built),
    )
