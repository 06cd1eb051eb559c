"""Work beside the segments: optimizer step, copies between host and device, fetching one layer's weights.

Fetching a layer is what moving the cut by one costs a side that holds the weights in host memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from cardlab.core.records.workload import Analysis, is_layer
from cardlab.profilers.board.work import Lap, Work
from cardlab.profilers.runtime.build import BuiltModel
from cardlab.profilers.runtime.kept import kept_maps, weight_bytes
from cardlab.profilers.runtime.pieces import hidden_states
from cardlab.profilers.runtime.quantization import is_stored_quantised
from cardlab.profilers.runtime.segments import synchronizer

_LEARNING_RATE = 1e-4


def make_optimizer(
    name: str,
    parameters: list[torch.nn.Parameter],
    learning_rate: float = _LEARNING_RATE,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Plain SGD, or AdamW, over these parameters; without weight decay unless it is asked for."""
    if name == "adamw":
        # torch's own default is 0.01, which nobody asked for.
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
    return torch.optim.SGD(parameters, lr=learning_rate, weight_decay=weight_decay)


def optimizer_work(built: BuiltModel, device: str) -> Work:
    """One optimizer step over the adapters of all layers; gradients are there and stay."""
    shapes = [(p.shape, p.dtype) for p in built.model.parameters() if p.requires_grad]
    parameters = [torch.nn.Parameter(torch.zeros(s, dtype=d, device=device)) for s, d in shapes]
    for parameter in parameters:
        # An optimizer passes over parameters without a gradient.
        parameter.grad = torch.zeros_like(parameter)
    optimizer = make_optimizer(built.task.optimizer, parameters)
    lap = Lap(phase="step", run=optimizer.step)
    return Work(segment="optimizer", laps=(lap,), synchronize=synchronizer(device))


def copy_work(built: BuiltModel, device: str) -> Work | None:
    """One hidden state [B, S, h] to the device and back; None on a CPU, where nothing is copied."""
    if device == "cpu":
        return None
    # Pinned: from pageable memory the driver would copy twice, and wait.
    here = hidden_states(built, "cpu", input_grad=False).pin_memory()
    there = here.to(device)
    size_bytes = float(here.numel() * here.element_size())

    def to_device() -> None:
        there.copy_(here, non_blocking=True)

    def to_host() -> None:
        here.copy_(there, non_blocking=True)

    laps = (
        Lap(phase="to_device", run=to_device, traffic_bytes=size_bytes),
        Lap(phase="to_host", run=to_host, traffic_bytes=size_bytes),
    )
    return Work(segment="copy", laps=laps, synchronize=synchronizer(device))


def layer_load_work(analysis: Analysis, device: str) -> Work:
    """Fresh memory on the device filled with one layer's weights from host memory; of several kinds, a layer's mean."""
    layers = [(s.count, s.weight_bytes + s.adapter_bytes) for s in analysis.segments if is_layer(s.segment)]
    size_bytes = sum(n * size for n, size in layers) // sum(n for n, _ in layers)
    source = torch.zeros(size_bytes, dtype=torch.uint8)
    # Pages of zeros that nobody wrote are one shared page: copying them reads no memory.
    source.fill_(1)

    def load() -> None:
        source.to(device, copy=True)

    lap = Lap(phase="load", run=load, traffic_bytes=2.0 * size_bytes)
    return Work(segment="layer_load", laps=(lap,), synchronize=synchronizer(device))


def quantising_load_work(built: BuiltModel, device: str) -> Work:
    """As `layer_load_work`, of weights that are dense in host memory and quantised as they come.

    What stays dense (norms, fused experts, adapters) is copied. Of several kinds some layers are loaded, spread over
    the model, and their mean counts.
    """
    layers = _some_layers(built)
    parts = [part for layer in layers for _, part in kept_maps(layer)]
    sizes = [part.out_features * part.in_features for part in parts]
    dense_bytes = sum(_dense_bytes(layer) for layer in layers)
    # One source serves all maps in turn: a whole dense layer might not fit where a quantised one does.
    source = torch.empty(max(sizes), dtype=built.dtype).uniform_(-1.0, 1.0)
    rest = torch.ones(dense_bytes, dtype=torch.uint8)

    def load() -> None:
        for part, size in zip(parts, sizes, strict=True):
            part.keep(source[:size].view(part.out_features, part.in_features), device)
        rest.to(device, copy=True)

    def reset() -> None:
        for part in parts:
            part.forget()

    traffic_bytes = sum(sizes) * source.element_size() + sum(part.kept_bytes for part in parts) + 2 * dense_bytes
    lap = Lap(phase="load", run=load, traffic_bytes=float(traffic_bytes))
    synchronize = synchronizer(device)
    return Work(segment="layer_load", laps=(lap,), synchronize=synchronize, reset=reset, repeats=len(layers))


def _some_layers(built: BuiltModel) -> tuple[torch.nn.Module, ...]:
    """The middle layer where all are alike, else at most eight, spread over the model."""
    count = len(built.layers)
    if len(set(built.task.architecture.layer_segments)) == 1:
        return (built.layers[count // 2],)
    many = min(8, count)
    return tuple(built.layers[round(place * (count - 1) / max(1, many - 1))] for place in range(many))


def _dense_bytes(layer: torch.nn.Module) -> int:
    """Bytes of a layer that are not kept quantised, adapters among them."""
    adapter_bytes: int = sum(p.numel() * p.element_size() for p in layer.parameters() if p.requires_grad)
    return weight_bytes(layer) - sum(part.kept_bytes for _, part in kept_maps(layer)) + adapter_bytes


def extra_works(built: BuiltModel, analysis: Analysis, device: str) -> Iterator[Work]:
    """The works above that mean something on this device, built one after the other."""
    quantises = built.execution.quantization is not None and not is_stored_quantised(built.task)
    makers: tuple[Callable[[], Work | None], ...] = (
        lambda: optimizer_work(built, device),
        lambda: copy_work(built, device),
        lambda: quantising_load_work(built, device) if quantises else layer_load_work(analysis, device),
    )
    for make in makers:
        work = make()
        if work is not None:
            yield work
