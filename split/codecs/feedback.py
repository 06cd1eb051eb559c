"""Error feedback: what a codec lost of a gradient is added to the next one.

Only for gradients. The rows of the next gradient belong to other samples, but what is lost is mostly common to them
(it helped in every run that was made); smashed data have no such common part, and feedback makes them worse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cardlab.split.codecs.base import Packed
from cardlab.split.codecs.registry import pack_tensor, unpack_tensor

if TYPE_CHECKING:
    import torch


class ErrorFeedback:
    """The loss of one device's gradients, carried on. `residual` is None before the first."""

    def __init__(self, residual: torch.Tensor | None = None) -> None:
        self.residual = residual

    def pack(self, gradient: torch.Tensor, codec: str, wire_dtype: str) -> Packed:
        """The gradient with what was lost before it, packed; a value that is not finite leaves no loss behind."""
        import torch

        wanted = gradient.detach().to("cpu", torch.float32)
        # The last mini-batch may be of another shape: its loss belongs to no row of this one.
        if self.residual is not None and self.residual.shape == wanted.shape:
            wanted = wanted + self.residual
        packed = pack_tensor(wanted, codec, wire_dtype)
        lost = wanted - unpack_tensor(packed).to(torch.float32)
        # A residual that is not finite would spoil every gradient after it.
        self.residual = torch.where(lost.isfinite(), lost, torch.zeros_like(lost))
        return packed
