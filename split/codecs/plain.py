"""The codec that changes nothing: the values as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cardlab.split.codecs.base import WIRE_BYTES, Buffer, Codec, Packed
from cardlab.split.refusals import TensorError

if TYPE_CHECKING:
    import torch


class Plain(Codec):
    """The values as they are, little-endian, in order."""

    name = "none"

    def encode(self, tensor: torch.Tensor, wire_dtype: str) -> tuple[Mapping[str, object], Buffer]:
        """No header; a view of the tensor's own memory where dtype and layout already fit."""
        import torch

        flat = tensor.detach().to("cpu", getattr(torch, wire_dtype)).contiguous()
        return {}, memoryview(flat.view(-1).view(torch.uint8).numpy())

    def decode(self, packed: Packed) -> torch.Tensor:
        """A tensor of its own memory."""
        import torch

        if len(packed.data) != math.prod(packed.shape) * WIRE_BYTES[packed.dtype]:
            raise TensorError(f"{len(packed.data)} bytes are no {packed.dtype} tensor of shape {packed.shape}")
        if not len(packed.data):
            return torch.empty(packed.shape, dtype=getattr(torch, packed.dtype))
        # The bytes that came are a view of a network buffer: a copy of their own may be written to.
        flat = torch.frombuffer(bytearray(packed.data), dtype=getattr(torch, packed.dtype))
        return flat.view(packed.shape)
