"""Size, error and speed of each codec on this machine, on activations and gradients of a real step at each cut, and how
long a round's adapters take to pack, unpack and load there.

The model is trained a little first where it has no weights of its own: activations of random weights are noise, which
compresses worse. One thread; times are medians of several passes over tensors that are in memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from cardlab.core.records.task import Task
from cardlab.split.accuracy import TrainingSubject, draw_rows
from cardlab.split.adapters import initial_adapters, pack_adapters, unpack_adapters
from cardlab.split.codecs.registry import pack_tensor, unpack_tensor, warm_codec
from cardlab.split.halves import Half
from cardlab.split.recipe import Recipe

if TYPE_CHECKING:
    import torch

CODECS = (
    "none",
    "dense:8",
    "dense:4",
    "dense:2",
    "topk:0.05:8",
    "topk:0.1:8",
    "topk:0.1:4",
    "topk:0.2:8",
    "topk:0.3:8",
    "topk:0.3:4",
)
PASSES = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecReading:
    """One codec on one tensor.

    Attributes:
        cut, tensor: where, and "activation" or "gradient".
        codec: its name.
        values: of the tensor.
        size_bytes: after encoding.
        error: |decoded - original| / |original|, Euclidean.
        encode_s, decode_s: every pass, seconds.
    """

    cut: int
    tensor: str
    codec: str
    values: int
    size_bytes: int
    error: float
    encode_s: tuple[float, ...]
    decode_s: tuple[float, ...]

    @property
    def bits(self) -> float:
        """Bits for each value."""
        return 8.0 * self.size_bytes / self.values

    @property
    def encode(self) -> float:
        """Median, seconds."""
        return median(self.encode_s)

    @property
    def decode(self) -> float:
        """Median, seconds."""
        return median(self.decode_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlingReading:
    """What one side does with a round's adapters beside sending them.

    Attributes:
        cut, side: where, and "device" (unpack, load, export, pack) or "server" (load its own, pack the device's).
        size_bytes: of the device's adapters with their optimizer state.
        seconds: every pass.
    """

    cut: int
    side: str
    size_bytes: int
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CutReadings:
    """Everything of one cut."""

    cut: int
    codecs: tuple[CodecReading, ...]
    handling: tuple[HandlingReading, ...]


def profile_codecs(
    subject: TrainingSubject,
    *,
    codecs: Sequence[str] = CODECS,
    cuts: Sequence[int] | None = None,
    note: Callable[[str], None] = lambda _text: None,
) -> Iterator[CutReadings]:
    """Readings cut by cut (every cut by default), of one real mini-batch each."""
    task, execution = subject.task, subject.execution
    device = Half(task, execution, subject.weights, "device", Recipe(learning_rate=1e-3))
    server = Half(task, execution, subject.weights, "server", Recipe(learning_rate=1e-3))
    adapters = initial_adapters(task, 0)
    for codec in codecs:
        warm_codec(codec)
    for cut in cuts or range(1, task.architecture.layers):
        note(f"cut {cut}")
        for half in (device, server):
            # Every cut starts from the same adapters, so that readings differ by the cut only.
            half.set_cut(cut)
            half.load(adapters)
        ids = draw_rows(subject.tokens, task, np.random.default_rng(0))
        activation = device.forward(ids)
        # A copy: the server's step writes into what it is given.
        gradient = server.train(activation.detach().clone(), ids).gradient
        tensors = (("activation", activation.detach()), ("gradient", gradient))
        found = tuple(
            _reading(cut, name, tensor, codec, execution.dtype) for name, tensor in tensors for codec in codecs
        )
        device.backward(activation, gradient)
        yield CutReadings(cut=cut, codecs=found, handling=_handling(task, device, server))


def _handling(task: Task, device: Half, server: Half) -> tuple[HandlingReading, HandlingReading]:
    """Passes of both sides, after a step, so that the optimizer's state is there."""
    # After a step, because the optimizer's state travels with the adapters.
    every = {**device.export(), **server.export()}
    own = {n: every[n] for n in device.numbers}
    packed = pack_adapters(own)
    here_s, there_s = [], []
    for _ in range(PASSES):
        start = time.perf_counter()
        device.load(unpack_adapters(packed, task, device.numbers))
        pack_adapters(device.export())
        middle = time.perf_counter()
        server.load(every)
        pack_adapters(own)
        there_s.append(time.perf_counter() - middle)
        here_s.append(middle - start)
    size_bytes = sum(len(p.data) for p in packed.values())
    return (
        HandlingReading(cut=device.cut, side="device", size_bytes=size_bytes, seconds=tuple(here_s)),
        HandlingReading(cut=device.cut, side="server", size_bytes=size_bytes, seconds=tuple(there_s)),
    )


def _reading(cut: int, name: str, tensor: torch.Tensor, codec: str, wire_dtype: str) -> CodecReading:
    encode_s, decode_s = [], []
    for _ in range(PASSES):
        start = time.perf_counter()
        packed = pack_tensor(tensor, codec, wire_dtype)
        middle = time.perf_counter()
        back = unpack_tensor(packed)
        decode_s.append(time.perf_counter() - middle)
        encode_s.append(middle - start)
    length = float(tensor.norm())
    return CodecReading(
        cut=cut,
        tensor=name,
        codec=codec,
        values=tensor.numel(),
        size_bytes=len(packed.data),
        error=float((back - tensor.float()).norm()) / length if length > 0 else 0.0,
        encode_s=tuple(encode_s),
        decode_s=tuple(decode_s),
    )
