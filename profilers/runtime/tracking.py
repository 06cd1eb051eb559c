"""What a piece keeps in memory, and how high it rises: exact tensor bytes on the meta device.

*Saved* bytes are what autograd holds between forward and backward, found by `saved_tensors_hooks`:
each storage once, parameters left out (counting naively gives more than three times as much).

*Transient* bytes are the highest sum of live tensors that a pass created, followed by a dispatch mode that
notes every new storage and its end.

On the meta device torch would decompose attention and keep its S x S matrices, which no real kernel does;
here it goes to the fused kernel's shape function instead, as the CPU and CUDA do.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from cardlab.profilers.runtime.metakernels import fused_attention, grouped_products, meta_buffers
from cardlab.profilers.runtime.pieces import Piece


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceMemory:
    """Bytes of one piece beyond its weights and input.

    Attributes:
        saved_bytes: kept between forward and backward, the input of a layer included if it is kept.
        forward_peak_bytes: highest live bytes created by the forward pass, output and saved included.
        backward_peak_bytes: highest bytes during backward beyond the saved ones, incoming gradient included.
    """

    saved_bytes: int
    forward_peak_bytes: int
    backward_peak_bytes: int


@dataclass
class _Live:
    """Sum and highest sum of the bytes of storages that are alive."""

    known: set[int] = field(default_factory=set)
    bytes_now: int = 0
    bytes_peak: int = 0

    def born(self, storage: torch.UntypedStorage) -> None:
        # The address of the storage itself: a tensor may hand out another Python object for it each time.
        key = storage._cdata
        if key in self.known:
            return
        self.known.add(key)
        size = storage.nbytes()
        self.bytes_now += size
        self.bytes_peak = max(self.bytes_peak, self.bytes_now)
        weakref.finalize(storage, self._died, key, size)

    def _died(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.bytes_now -= size

    def ignore(self, tensors: Iterable[torch.Tensor]) -> None:
        for tensor in tensors:
            self.known.add(tensor.untyped_storage()._cdata)


class _StorageMode(TorchDispatchMode):  # type: ignore[misc]
    """Tells a _Live of every storage that an operator returns."""

    def __init__(self, live: _Live) -> None:
        super().__init__()
        self.live = live

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        outputs = func(*args, **(kwargs or {}))
        for output in tree_flatten(outputs)[0]:
            if isinstance(output, torch.Tensor):
                self.live.born(output.untyped_storage())
        return outputs


@contextmanager
def _saved_storages(excluded: set[int]) -> Iterator[dict[int, int]]:
    """Bytes by storage of what autograd saves inside the block."""
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in excluded:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def piece_memory(piece: Piece) -> PieceMemory:
    """Bytes that one forward and backward pass of a meta piece keeps and needs."""
    parameters = [p for module in piece.modules for p in module.parameters()]
    inputs = piece.make_inputs("meta")
    live = _Live()
    live.ignore([*parameters, *inputs])
    excluded = {p.untyped_storage()._cdata for p in parameters}
    with meta_buffers(piece.modules), fused_attention(), grouped_products(), _StorageMode(live):
        with _saved_storages(excluded) as saved:
            output = piece.forward(*inputs)
        forward_peak_bytes, kept_bytes = live.bytes_peak, live.bytes_now
        backward_peak_bytes = 0
        if output.requires_grad:
            # Forward's peak is noted; backward's is counted from what is alive now.
            live.bytes_peak = live.bytes_now
            output.backward(gradient=torch.ones_like(output))
            backward_peak_bytes = live.bytes_peak - kept_bytes
    return PieceMemory(
        saved_bytes=sum(saved.values()),
        forward_peak_bytes=forward_peak_bytes,
        backward_peak_bytes=backward_peak_bytes,
    )
