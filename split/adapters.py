"""Adapters and their optimizer state, by layer: what travels and what is kept.

    AdapterSet   {layer number from 0: LayerState}
    LayerState   parameters and moments by their name inside the layer ("self_attn.q_proj.lora_A.default.weight")

The optimizer's state belongs to the layer: it moves with it when the cut or the device changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cardlab.core.records.task import Task
from cardlab.profilers.runtime.families import family_named
from cardlab.split.codecs.base import Packed
from cardlab.split.codecs.registry import pack_tensor, unpack_tensor
from cardlab.split.refusals import RefusalCode, TensorError
from cardlab.split.weights import seeded

if TYPE_CHECKING:
    import torch

# PEFT's name of what DoRA learns beside the two matrices.
MAGNITUDE = "lora_magnitude_vector"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_MARK = "#"


@dataclass(slots=True)
class LayerState:
    """Trainable tensors of one layer, AdamW's moments of each ("" when it never stepped), and gradients that wait.

    Gradients wait where several mini-batches make a step, or where its clipping needs the other side's norm. They
    never leave the process: neither `flat` nor an average knows them.
    """

    parameters: dict[str, torch.Tensor]
    moments: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)

    def copy(self) -> LayerState:
        """The same values in memory of their own."""
        return LayerState(
            {name: tensor.clone() for name, tensor in self.parameters.items()},
            {name: {k: t.clone() for k, t in state.items()} for name, state in self.moments.items()},
            {name: tensor.clone() for name, tensor in self.gradients.items()},
        )


AdapterSet = dict[int, LayerState]


def adapter_shapes(task: Task, layer: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the LoRA tensors of one layer, counted from 0."""
    shapes: dict[str, tuple[int, ...]] = {}
    maps = family_named(task.architecture.family).layer_maps(task.architecture, layer)
    for path, (inputs, outputs) in maps.items():
        if task.lora.adapts(path):
            rank = task.lora.rank_of(path)
            shapes[f"{path}.lora_A.default.weight"] = (rank, inputs)
            shapes[f"{path}.lora_B.default.weight"] = (outputs, rank)
            if task.lora.dora:
                shapes[f"{path}.{MAGNITUDE}.default.weight"] = (outputs,)
    return shapes


def shapes_by_layer(task: Task) -> list[dict[str, tuple[int, ...]]]:
    """`adapter_shapes` of every layer; those of a kind are one."""
    segments = task.architecture.layer_segments
    known = {name: adapter_shapes(task, segments.index(name)) for name in dict.fromkeys(segments)}
    return [known[name] for name in segments]


Magnitudes = Callable[[int], Mapping[str, "torch.Tensor"]]
"""Of a layer, counted from 0: the lengths of the rows of each adapted weight, by module path."""


def initial_adapters(task: Task, seed: int, magnitudes: Magnitudes | None = None) -> AdapterSet:
    """As PEFT begins: A uniform as a linear map's weight (Kaiming, a = sqrt 5), B zero, DoRA's magnitudes those of the
    weights; ones where nobody gives those, for who needs shapes only."""
    import torch

    dtype = getattr(torch, task.lora.dtype)

    def tensor(layer: int, name: str, shape: tuple[int, ...], lengths: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if f".{MAGNITUDE}." in name:
            found = lengths.get(name.partition(f".{MAGNITUDE}.")[0])
            return torch.ones(shape, dtype=dtype) if found is None else found.to(dtype)
        if ".lora_B." in name:
            return torch.zeros(shape, dtype=dtype)
        # Kaiming with a = sqrt 5 is uniform in +-1 / sqrt(inputs).
        bound = 1.0 / math.sqrt(shape[1])
        # Drawn by name, so that both sides make the same ones without sending any.
        drawn = seeded(f"{layer}.{name}", seed, lambda g: torch.empty(shape).uniform_(-bound, bound, generator=g))
        return drawn.to(dtype)

    return {
        layer: LayerState({name: tensor(layer, name, shape, lengths) for name, shape in shapes.items()})
        for layer, shapes in enumerate(shapes_by_layer(task))
        for lengths in [magnitudes(layer) if magnitudes is not None and task.lora.dora else {}]
    }


def copied(adapters: AdapterSet, layers: Iterable[int] | None = None) -> AdapterSet:
    """Those layers (all by default), in memory of their own."""
    return {layer: adapters[layer].copy() for layer in (adapters if layers is None else layers)}


def flat(adapters: AdapterSet) -> dict[str, torch.Tensor]:
    """One name for each tensor: `3/PARAMETER` and `3/PARAMETER#exp_avg`."""
    tensors = {}
    for layer, state in adapters.items():
        for name, parameter in state.parameters.items():
            tensors[f"{layer}/{name}"] = parameter
            for moment, tensor in state.moments.get(name, {}).items():
                tensors[f"{layer}/{name}{_MARK}{moment}"] = tensor
    return tensors


def unflat(tensors: Mapping[str, torch.Tensor]) -> AdapterSet:
    """Inverse of `flat`."""
    adapters: AdapterSet = {}
    for key, tensor in tensors.items():
        layer, _, rest = key.partition("/")
        name, mark, moment = rest.partition(_MARK)
        state = adapters.setdefault(int(layer), LayerState({}))
        if mark:
            state.moments.setdefault(name, {})[moment] = tensor
        else:
            state.parameters[name] = tensor
    return adapters


def pack_adapters(adapters: AdapterSet) -> dict[str, Packed]:
    """Ready to travel, uncompressed and at their own dtype."""
    return {name: pack_tensor(tensor) for name, tensor in flat(adapters).items()}


def unpack_adapters(packed: Mapping[str, Packed], task: Task, layers: Sequence[int]) -> AdapterSet:
    """The adapters of exactly these layers; TensorError if names, shapes or values cannot be theirs."""
    shapes, wanted = shapes_by_layer(task), set(layers)
    tensors = {}
    for key, entry in packed.items():
        layer, _, rest = key.partition("/")
        name, mark, moment = rest.partition(_MARK)
        # Nothing of the name is trusted: it would choose what is overwritten.
        known = layer.isdecimal() and int(layer) in wanted and name in shapes[int(layer)]
        if not known or (mark and moment not in MOMENTS):
            raise TensorError(f"adapters came with the unexpected tensor {key[:80]!r}")
        tensor = unpack_tensor(entry, () if moment == "step" else shapes[int(layer)][name])
        # One NaN would pass through the average into the adapters of every device.
        if not bool(tensor.isfinite().all()):
            raise TensorError(
                f"adapters came with {key[:80]!r} that is not finite",
                code=RefusalCode.NOT_FINITE,
                remedy="lower --learning-rate",
            )
        tensors[key] = tensor
    missing = [f"{layer}/{name}" for layer in layers for name in shapes[layer] if f"{layer}/{name}" not in tensors]
    if missing:
        raise TensorError(f"adapters came without {missing[0]!r}")
    return unflat(tensors)


def averaged(sets: Sequence[AdapterSet], rows: Sequence[int] = ()) -> AdapterSet:
    """The mean of several devices' adapters and moments, tensor by tensor.

    `rows`: of each device's data, |D_m|, by which it counts (the letter's equation (1)); () for all the same.
    """
    import torch

    weights = None if len(set(rows)) < 2 else torch.tensor([own / sum(rows) for own in rows], dtype=torch.float32)
    flats = [flat(adapters) for adapters in sets]
    mean = {}
    for name, first in flats[0].items():
        # A count is not averaged: AdamW's bias correction would be off for all.
        if name.endswith(f"{_MARK}step"):
            mean[name] = torch.stack([other[name] for other in flats]).amax(dim=0)
        else:
            # Summed in float32: half precision would lose the small differences between devices.
            stacked = torch.stack([other[name].to(torch.float32) for other in flats])
            whole = stacked.mean(dim=0) if weights is None else torch.tensordot(weights, stacked, dims=1)
            mean[name] = whole.to(first.dtype)
    return unflat(mean)


def size_bytes(adapters: AdapterSet) -> int:
    """Bytes of adapters and moments."""
    return sum(int(t.numel()) * int(t.element_size()) for t in flat(adapters).values())


def state_bytes(task: Task) -> int:
    """Bytes of a whole model's adapters with the state of the task's optimizer, as they are kept on disk."""
    import torch

    count = sum(math.prod(shape) for shapes in shapes_by_layer(task) for shape in shapes.values())
    # AdamW keeps two moments beside each parameter.
    copies = 3 if task.optimizer == "adamw" else 1
    return count * copies * int(getattr(torch, task.lora.dtype).itemsize)
