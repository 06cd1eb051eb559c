"""How a tensor becomes bytes and a tensor again. One interface, so that compression is another codec.

    tensor --encode--> Packed(header, data) ... frames, transport ... Packed --decode--> tensor

The header is plain JSON and says everything that decoding needs; the checksum covers the bytes that travel.
A codec is found by the name in the header, so both sides must know it before a run begins.
"""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cardlab.errors import RunError

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
    """Encodes one tensor of a message; instances have no state."""

    name: str

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


CODECS: Mapping[str, Codec] = {codec.name: codec for codec in (NoneCodec(),)}


def codec_named(name: str) -> Codec:
    """The codec of that name; RunError listing those there are."""
    if name not in CODECS:
        raise RunError(f"there is no codec {name!r}", remedy=f"use one of: {', '.join(CODECS)}")
    return CODECS[name]


def pack_tensor(tensor: Any, codec: str = "none", wire_dtype: str | None = None) -> Packed:
    """A tensor ready to travel; `wire_dtype` None keeps its own dtype."""
    dtype = wire_dtype or str(tensor.dtype).removeprefix("torch.")
    if dtype not in WIRE_BYTES:
        raise RunError(f"{dtype} does not travel", remedy=f"use one of: {', '.join(WIRE_BYTES)}")
    more, data = codec_named(codec).encode(tensor, dtype)
    return Packed(codec, dtype, tuple(tensor.shape), data, zlib.crc32(data), more)


def unpack_tensor(packed: Packed, shape: tuple[int, ...] | None = None) -> Any:
    """The tensor, its checksum verified; FrameError also when it has not the shape that was expected."""
    if packed.codec not in CODECS:
        raise FrameError(f"a tensor came in the unknown codec {packed.codec!r}")
    if shape is not None and packed.shape != shape:
        raise FrameError(f"a tensor of shape {packed.shape} came where {shape} was expected")
    return CODECS[packed.codec].decode(packed.verified())
