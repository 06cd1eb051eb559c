"""How a tensor becomes bytes and a tensor again. One interface, so that compression is another codec.

    tensor --encode--> Packed(header, data) ... frames, transport ... Packed --decode--> tensor

The header is plain JSON and says everything that decoding needs; the checksum covers the bytes that travel.
A codec is found by the name in the header, which holds its parameters too:

    none                  as they are
    dense:BITS            every value, stochastic quantisation, one scale for each token
    topk:KEEP:BITS        the largest KEEP (a fraction) of the values
"""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cardlab.core.errors import RunError

Buffer = bytes | bytearray | memoryview

WIRE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int32": 4}


class FrameError(RunError):
    """A message that is not what the protocol says: damaged, cut short, of another version, or nonsense."""

    def __init__(self, message: str, *, remedy: str = "install the same cardlab on both sides") -> None:
        super().__init__(message, remedy=remedy)


@dataclass(frozen=True, slots=True)
class Packed:
    """One tensor on its way.

    Attributes:
        codec: name of the codec.
        dtype, shape: of the tensor that decoding gives.
        data: what travels.
        crc32: of `data`.
        more: what the codec needs beside that, plain JSON.
    """

    codec: str
    dtype: str
    shape: tuple[int, ...]
    data: Buffer
    crc32: int
    more: Mapping[str, object]

    def verified(self) -> Packed:
        """Itself, if the checksum holds; FrameError otherwise."""
        if zlib.crc32(self.data) != self.crc32:
            raise FrameError("a tensor arrived with a wrong checksum", remedy="repeat the round; check the network")
        return self


class Codec(ABC):
    """Encodes one tensor of a message; instances have no state. `lossy`: decoding gives other values."""

    name: str
    lossy = False

    @abstractmethod
    def encode(self, tensor: Any, wire_dtype: str) -> tuple[Mapping[str, object], Buffer]:
        """Header and bytes of a tensor whose values travel as `wire_dtype`."""

    @abstractmethod
    def decode(self, packed: Packed) -> Any:
        """The tensor at `packed.dtype` and `packed.shape`; FrameError if the bytes cannot be it."""


class NoneCodec(Codec):
    """The values as they are, little-endian, in order."""

    name = "none"

    def encode(self, tensor: Any, wire_dtype: str) -> tuple[Mapping[str, object], Buffer]:
        """No header; a view of the tensor's own memory where dtype and layout already fit."""
        import torch

        flat = tensor.detach().to("cpu", getattr(torch, wire_dtype)).contiguous()
        return {}, memoryview(flat.view(-1).view(torch.uint8).numpy())

    def decode(self, packed: Packed) -> Any:
        """A tensor of its own memory."""
        import torch

        if len(packed.data) != math.prod(packed.shape) * WIRE_BYTES[packed.dtype]:
            raise FrameError(f"{len(packed.data)} bytes are no {packed.dtype} tensor of shape {packed.shape}")
        if not len(packed.data):
            return torch.empty(packed.shape, dtype=getattr(torch, packed.dtype))
        flat = torch.frombuffer(bytearray(packed.data), dtype=getattr(torch, packed.dtype))
        return flat.view(packed.shape)


FORMS = ("none", "dense:BITS", "topk:KEEP:BITS")


@lru_cache(maxsize=64)
def codec_named(name: str) -> Codec:
    """The codec of that name; RunError saying what the names are, or which parameter is out of range."""
    kind, *parameters = name.split(":")
    try:
        if kind == "none" and not parameters:
            return NoneCodec()
        if kind == "dense" and len(parameters) == 1:
            from cardlab.split.codecs.dense import Dense

            return Dense(int(parameters[0]))
        if kind == "topk" and len(parameters) == 2:
            from cardlab.split.codecs.topk import TopK

            return TopK(float(parameters[0]), int(parameters[1]))
    except ValueError as error:
        raise RunError(f"{name!r} is no codec: {error}", remedy=f"use one of: {', '.join(FORMS)}") from error
    raise RunError(f"there is no codec {name!r}", remedy=f"use one of: {', '.join(FORMS)}")


@lru_cache(maxsize=64)
def warm_codec(name: str) -> None:
    """Let a codec compile its loops now, once, so that the first tensor of a run does not pay for it."""
    import torch

    if name != "none":
        unpack_tensor(pack_tensor(torch.linspace(-1.0, 1.0, 4096).view(64, 64), name))


def pack_tensor(tensor: Any, codec: str = "none", wire_dtype: str | None = None) -> Packed:
    """A tensor ready to travel; `wire_dtype` None keeps its own dtype."""
    dtype = wire_dtype or str(tensor.dtype).removeprefix("torch.")
    if dtype not in WIRE_BYTES:
        raise RunError(f"{dtype} does not travel", remedy=f"use one of: {', '.join(WIRE_BYTES)}")
    more, data = codec_named(codec).encode(tensor, dtype)
    return Packed(codec, dtype, tuple(tensor.shape), data, zlib.crc32(data), more)


def unpack_tensor(packed: Packed, shape: tuple[int, ...] | None = None) -> Any:
    """The tensor, its checksum verified; FrameError also when it has not the shape that was expected."""
    try:
        codec = codec_named(packed.codec)
    except RunError as error:
        raise FrameError(f"a tensor came in the unknown codec {packed.codec[:40]!r}") from error
    if shape is not None and packed.shape != shape:
        raise FrameError(f"a tensor of shape {packed.shape} came where {shape} was expected")
    return codec.decode(packed.verified())
