"""A tensor on its way, and what every codec is.

    tensor --encode--> Packed(header, data) ... frames, transport ... Packed --decode--> tensor

The header is plain JSON and says everything that decoding needs; the checksum covers the bytes that travel.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cardlab.split.refusals import RefusalCode, TensorError

if TYPE_CHECKING:
    import torch

Buffer = bytes | bytearray | memoryview

WIRE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int32": 4}


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
        """Itself, if the checksum holds; TensorError otherwise."""
        if zlib.crc32(self.data) != self.crc32:
            raise TensorError(
                "a tensor arrived with a wrong checksum",
                code=RefusalCode.DAMAGED,
                remedy="repeat the round; check the network",
            )
        return self


class Codec(ABC):
    """Encodes one tensor of a message; instances have no state. `lossy`: decoding gives other values."""

    name: str
    lossy = False

    @abstractmethod
    def encode(self, tensor: torch.Tensor, wire_dtype: str) -> tuple[Mapping[str, object], Buffer]:
        """Header and bytes of a tensor whose values travel as `wire_dtype`."""

    @abstractmethod
    def decode(self, packed: Packed) -> torch.Tensor:
        """The tensor at `packed.dtype` and `packed.shape`; TensorError if the bytes cannot be it."""
