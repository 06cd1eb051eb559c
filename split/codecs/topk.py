"""Top-K sparsification with stochastic quantisation and lossless coding (the scheme of SFT, papers' part B2).

    kept      the K = keep x n values of largest magnitude, ties by position; zeros are never kept
              and the largest value of a row (token) that would keep none: a token of zeros passes the next layer's
              normalisation with the gradient 1 / sqrt(eps), which was 500 times that of the whole batch
    level     floor(s |x| / max|x| + u), u uniform: unbiased, variance step^2 fr (1 - fr), step = max|x| / s
    bits      n H2(keep) for where they are + K H(levels), + one scale

The result of decoding is zero where nothing was kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cardlab.core.errors import RunError
from cardlab.split.codecs import kernels
from cardlab.split.codecs.base import Buffer, Codec, Packed
from cardlab.split.codecs.coding import expand_mask, squeeze_mask
from cardlab.split.codecs.quantised import (
    BITS,
    expand_symbols,
    from_floats,
    join_parts,
    levels,
    put_non_finite,
    seed_of,
    split_parts,
    squeeze_symbols,
    take_non_finite,
    to_floats,
    value_count,
)
from cardlab.split.refusals import TensorError

if TYPE_CHECKING:
    import torch


class TopK(Codec):
    """Keeps a fraction `keep` of all values of a tensor, and one of each row, at `bits` each (sign included).

    Raises RunError for a fraction outside 0..1 or bits outside 2..8.
    """

    lossy = True

    def __init__(self, keep: float, bits: int) -> None:
        if not 0.0 < keep <= 1.0:
            raise RunError(f"Top-K keeps {keep:g} of the values", remedy="give a fraction above 0 up to 1")
        if bits not in BITS:
            raise RunError(f"Top-K has no {bits} bits", remedy="give 2 to 8")
        self.keep, self.bits = keep, bits
        self.name = f"topk:{keep:g}:{bits}"

    def encode(self, tensor: torch.Tensor, wire_dtype: str) -> tuple[Mapping[str, object], Buffer]:
        """Bitmap, symbols, and values that are not finite."""
        values, rest = take_non_finite(to_floats(tensor, wire_dtype))
        if not values.size:
            return {"kept": 0, "scale": 0.0, "mask": ["raw", 0], "values": ["raw", 0]}, b""
        magnitude = values.view(np.uint32) & np.uint32(0x7FFFFFFF)
        scale = float(magnitude.max().view(np.float32))
        limit, ties = self._limit(magnitude)
        wanted = self._count(values.size)
        mask = np.zeros((values.size + 7) // 8, np.uint8)
        width = int(tensor.shape[-1]) if tensor.dim() else 1
        # Room for a value of each row beside the largest: rows that keep none get one.
        symbols = np.empty(wanted + values.size // width + 1, np.uint8)
        top = levels(self.bits)
        # A tensor of zeros has no scale.
        factor = top / scale if scale > 0.0 else 0.0
        choice = kernels.Choice(limit=limit, ties=ties, factor=factor, top=top, seed=seed_of(values))
        kept = kernels.select(values, magnitude, width, choice, mask, symbols)
        parts = {
            "mask": squeeze_mask(mask, kept, values.size),
            "values": squeeze_symbols(symbols[:kept], self.bits),
        }
        more, data = join_parts(parts, rest)
        return {"kept": kept, "scale": scale, **more}, data

    def _count(self, size: int) -> int:
        return min(size, max(1, round(self.keep * size)))

    def _limit(self, magnitude: npt.NDArray[np.uint32]) -> tuple[int, int]:
        """Bits of the smallest kept magnitude, and how many that equal it are kept; zeros never."""
        limit, _, ties = kernels.threshold(magnitude, self._count(magnitude.size))
        # A limit of zero means fewer values than asked for are not zero; zeros are not sent.
        return (int(limit), int(ties)) if limit else (0, 0)

    def decode(self, packed: Packed) -> torch.Tensor:
        """The kept values at their places, zero elsewhere."""
        size = value_count(packed)
        kept, scale = packed.more.get("kept"), packed.more.get("scale")
        if isinstance(kept, bool) or not isinstance(kept, int) or not 0 <= kept <= size:
            raise TensorError(f"a sparse tensor came with {kept!r} of {size} values")
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0.0 <= scale < math.inf:
            raise TensorError(f"a sparse tensor came with the scale {scale!r}")
        parts, rest = split_parts(packed, ("mask", "values"))
        values = np.zeros(size, np.float32)
        mask = expand_mask(*parts["mask"], kept, size)
        symbols = expand_symbols(*parts["values"], self.bits, kept, 2 * levels(self.bits))
        if kernels.scatter(mask, symbols, scale / levels(self.bits), levels(self.bits), values) != kept:
            raise TensorError("a sparse tensor came whose bitmap does not fit its values")
        put_non_finite(values, rest)
        return from_floats(values, packed)
