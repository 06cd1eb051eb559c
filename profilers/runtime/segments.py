"""The segments of a task as works that run: one is materialised at a time and its memory released afterwards.

Layers are chained with the graph kept (board/segments.py). Layers small enough are materialised separately, so that no
cache keeps their weights; large ones do not fit a cache anyway and one is used several times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch

from cardlab.core.errors import OutOfMemoryError
from cardlab.core.records.task import Architecture
from cardlab.core.records.workload import EMBEDDING, FIRST_LAYER, HEAD, Analysis, SegmentCost
from cardlab.profilers.board.segments import REFERENCE_SHAPE
from cardlab.profilers.board.work import Lap, Work
from cardlab.profilers.runtime.budget import available_memory_bytes
from cardlab.profilers.runtime.build import BuiltModel, materialise, move_buffers, release
from cardlab.profilers.runtime.describe import (
    describe_equivalent_step,
    describe_segment,
    layer_cost,
    layer_counts,
    repeats,
)
from cardlab.profilers.runtime.pieces import Piece, embedding_piece, head_piece, layer_piece
from cardlab.profilers.runtime.rows import hold_again, stand_in_rows
from cardlab.profilers.runtime.skeleton import layer_contexts

# About the largest last-level caches: a layer above it comes from memory each time anyway.
_SEPARATE_BYTES = 64 * 2**20


@dataclass
class _Runner:
    """Runs a piece forward and backward, `copies` times side by side, and forgets."""

    piece: Piece
    inputs: tuple[torch.Tensor, ...]
    copies: int = 1
    outputs: list[torch.Tensor] = field(default_factory=list)
    gradient: torch.Tensor | None = None

    def forward(self) -> None:
        self.outputs = [self.piece.forward(*self.inputs) for _ in range(self.copies)]

    def backward(self) -> None:
        while self.outputs:
            # Popped, so that each graph is freed as soon as it has been walked.
            output = self.outputs.pop()
            if self.gradient is None and output.dim() > 0:
                # Made once: filling it is no part of a backward pass.
                self.gradient = torch.ones_like(output)
            output.backward(gradient=self.gradient)

    def reset(self) -> None:
        self.outputs = []
        for tensor in self.inputs:
            tensor.grad = None
        for module in self.piece.modules:
            # To None, because adding to a gradient of zeros is work that a fresh step does not have.
            module.zero_grad(set_to_none=True)


def synchronizer(device: str) -> Callable[[], None]:
    """A function that returns when the device has finished what was queued."""
    if not device.startswith("cuda"):
        return _nothing
    return lambda: torch.cuda.synchronize(device)


def _nothing() -> None:
    return None


@contextmanager
def segment_work(built: BuiltModel, analysis: Analysis, segment: str, device: str) -> Iterator[Work]:
    """One segment, materialised for the length of the block.

    Raises OutOfMemoryError when it cannot be had or the allocator gives up inside the block.
    """
    piece, chain, copies = _piece(built, analysis, segment, device)
    by_rows = segment == EMBEDDING and stand_in_rows(piece.modules[0], built.dtype, built.execution)
    with _room(analysis, segment, chain * copies, device):
        modules = [materialise(built, module, device) for module in piece.modules]
        try:
            runner = _Runner(piece, piece.make_inputs(device), copies)
            described = describe_segment(analysis, segment, chain * copies)
            runs = {"forward": runner.forward, "backward": runner.backward}
            laps = tuple(lap._replace(run=runs[lap.phase]) for lap in described.laps)
            yield described._replace(laps=laps, synchronize=synchronizer(device), reset=runner.reset)
        finally:
            for module in modules:
                release(module)
            if by_rows:
                hold_again(piece.modules[0])
            # What is made next may be computed elsewhere.
            move_buffers(built.model, "cpu")


def _piece(built: BuiltModel, analysis: Analysis, segment: str, device: str) -> tuple[Piece, int, int]:
    """The piece, how many layers it chains, and how many run side by side."""
    if segment == EMBEDDING:
        return embedding_piece(built, device), 1, 1
    if segment == "head":
        return head_piece(built), 1, 1
    contexts = layer_contexts(built, device)
    many = repeats(built.task.architecture, segment)
    if segment == FIRST_LAYER:
        return layer_piece(built, contexts, first=True), 1, many
    numbers = chain_numbers(built.task.architecture, analysis.segment(segment), many)
    return layer_piece(built, contexts, numbers=numbers), many, 1


def chain_numbers(architecture: Architecture, cost: SegmentCost, chain: int) -> tuple[int, ...]:
    """Layers of one kind to chain: spread over the model if they are small, else one of them several times."""
    numbers = [n for n, name in enumerate(architecture.layer_segments) if n and name == cost.segment]
    last = len(numbers) - 1
    if cost.weight_bytes > _SEPARATE_BYTES:
        return (numbers[max(0, (last - 1) // 2)],) * chain
    return tuple(numbers[last - round(i * last / max(1, chain - 1))] for i in range(chain))


@contextmanager
def _room(analysis: Analysis, segment: str, repeats: int, device: str) -> Iterator[None]:
    """Refuse what cannot fit before the system kills us, and translate the allocator's own refusal."""
    cost = analysis.segment(segment)
    needed = repeats * (cost.weight_bytes * (cost.weight_bytes <= _SEPARATE_BYTES) + cost.saved_bytes)
    needed += cost.resident_bytes + cost.peak_bytes
    free = available_memory_bytes() if device == "cpu" else None
    if free is not None and needed > free:
        raise _no_room(segment, f"needs {needed / 2**20:.0f} MiB and {free / 2**20:.0f} MiB are free")
    try:
        yield
    except MemoryError as error:
        raise _no_room(segment, "does not fit in memory") from error
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise _no_room(segment, "does not fit in memory") from error


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch means that an allocation failed (the CPU allocator has no class of its own)."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    words = str(error).lower()
    return any(part in words for part in ("allocate memory", "out of memory", "status_alloc_failed"))


def _no_room(segment: str, reason: str) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"segment {segment} {reason}",
        remedy="use a smaller batch or sequence, --dtype bfloat16, or gradient checkpointing",
    )


def _one_of_each_kind(architecture: Architecture) -> tuple[int, ...]:
    """For each layer of the model, the middle one of its kind."""
    names = architecture.layer_segments
    middle = {name: [n for n, own in enumerate(names) if own == name] for name in dict.fromkeys(names)}
    return tuple(middle[name][len(middle[name]) // 2] for name in names)


def reference_work(dtype: str, device: str) -> Work:
    """The fixed product that runs before every sample."""
    rows, inner, columns = REFERENCE_SHAPE
    kind = getattr(torch, dtype)
    left = torch.randn((rows, inner), device=device, dtype=kind)
    right = torch.randn((inner, columns), device=device, dtype=kind)

    def run() -> None:
        torch.mm(left, right)

    lap = Lap(phase="run", run=run, flop=2.0 * rows * inner * columns)
    return Work(segment="reference", laps=(lap,), synchronize=synchronizer(device))


@contextmanager
def equivalent_step_work(built: BuiltModel, analysis: Analysis, device: str) -> Iterator[Work]:
    """L x layer and the head, forward and backward, as one lap: what power is measured on.

    One layer of each kind is materialised and used in place of all of that kind, in their order; the activations of all
    L are kept, as in a real step.
    """
    chain = layer_piece(built, layer_contexts(built, device), numbers=_one_of_each_kind(built.task.architecture))
    head = head_piece(built)
    with ExitStack() as rooms:
        for name, count in layer_counts(built.task.architecture).items():
            rooms.enter_context(_room(analysis, layer_cost(analysis, name).segment, count, device))
        rooms.enter_context(_room(analysis, HEAD, 1, device))
        modules = [materialise(built, module, device) for module in (*chain.modules, *head.modules)]
        try:
            (hidden,), (_, ids) = chain.make_inputs(device), head.make_inputs(device)

            def step() -> None:
                head.forward(chain.forward(hidden), ids).backward()

            def reset() -> None:
                hidden.grad = None
                for module in modules:
                    module.zero_grad(set_to_none=True)

            described = describe_equivalent_step(built.task, analysis)
            laps = (described.laps[0]._replace(run=step),)
            yield described._replace(laps=laps, synchronize=synchronizer(device), reset=reset)
        finally:
            for module in modules:
                release(module)
