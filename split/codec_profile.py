"""Size, error and speed of each codec on this machine, on activations and gradients of a real step at each cut.

The model is trained a little first where it has no weights of its own: activations of random weights are noise, which
compresses worse. One thread; times are medians of several passes over tensors that are in memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from cardlab.records.task import Execution, Task
from cardlab.split.accuracy import draw_rows
from cardlab.split.adapters import initial_adapters
from cardlab.split.codec import pack_tensor, unpack_tensor, warm_codec
from cardlab.split.data import Tokens
from cardlab.split.halves import Half
from cardlab.split.weights import Weights

CODECS = (
    "dense:8", "dense:4", "dense:2", "topk:0.05:8", "topk:0.1:8", "topk:0.1:4", "topk:0.2:8", "topk:0.3:8",
    "topk:0.3:4",
)  # fmt: skip
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


def profile_codecs(
    task: Task,
    execution: Execution,
    weights: Weights,
    tokens: Tokens,
    *,
    codecs: Sequence[str] = CODECS,
    cuts: Sequence[int] | None = None,
    note: Callable[[str], None] = lambda _text: None,
) -> Iterator[CodecReading]:
    """Readings cut by cut (every cut by default), of one real mini-batch each."""
    device = Half(task, execution, weights, "device", learning_rate=1e-3)
    server = Half(task, execution, weights, "server", learning_rate=1e-3)
    adapters = initial_adapters(task, 0)
    for codec in codecs:
        warm_codec(codec)
    for cut in cuts or range(1, task.architecture.layers):
        note(f"cut {cut}")
        for half in (device, server):
            half.set_cut(cut)
            half.load(adapters)
        ids = draw_rows(tokens, task, np.random.default_rng(0))
        activation = device.forward(ids).detach()
        gradient = server.train(activation.clone(), ids).gradient
        for name, tensor in (("activation", activation), ("gradient", gradient)):
            for codec in codecs:
                yield _reading(cut, name, tensor, codec)


def _reading(cut: int, name: str, tensor: Any, codec: str) -> CodecReading:
    encode_s, decode_s = [], []
    for _ in range(PASSES):
        start = time.perf_counter()
        packed = pack_tensor(tensor, codec, "float32")
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
