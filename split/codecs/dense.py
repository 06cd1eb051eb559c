"""Dense stochastic quantisation: every value at 2 to 8 bits, one scale for each token (row of the last dimension).

    grid      2^BITS points from -scale to scale, step = 2 scale / (2^BITS - 1); each value goes to one of its two
              neighbours, unbiased, variance step^2 fr (1 - fr)

The scale is the row's largest magnitude rounded up to bfloat16, so it takes two bytes and no value lies outside. A row
of zeros stays zeros; a zero in another row lies between two points of the grid, and is right on average only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from cardlab.core.errors import RunError
from cardlab.split.codecs import kernels
from cardlab.split.codecs.base import Buffer, Codec, Packed
from cardlab.split.codecs.quantised import (
    BITS,
    Floats,
    expand_symbols,
    from_floats,
    join_parts,
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

_LARGEST = np.uint32(0x7F7F0000)


class Dense(Codec):
    """Quantises every value to `bits` (sign included). Raises RunError for bits outside 2..8."""

    lossy = True

    def __init__(self, bits: int) -> None:
        if bits not in BITS:
            raise RunError(f"dense quantisation has no {bits} bits", remedy="give 2 to 8")
        self.bits = bits
        self.name = f"dense:{bits}"

    def encode(self, tensor: torch.Tensor, wire_dtype: str) -> tuple[Mapping[str, object], Buffer]:
        """Scales, symbols, and values that are not finite."""
        values, rest = take_non_finite(to_floats(tensor, wire_dtype))
        rows = _rows(tuple(tensor.shape), values.size)
        table = values.reshape(rows, -1)
        scales = scales_of(table)
        symbols = np.empty(table.shape, np.uint8)
        kernels.quantise_rows(table, scales, 2**self.bits - 1, seed_of(values), symbols)
        # The upper half of a float32 is a bfloat16.
        short = (scales.view(np.uint32) >> np.uint32(16)).astype("<u2").tobytes()
        parts = {"scales": ("raw", short), "values": squeeze_symbols(symbols.reshape(-1), self.bits)}
        return join_parts(parts, rest)

    def decode(self, packed: Packed) -> torch.Tensor:
        """Every value within one step of what it was."""
        size = value_count(packed)
        rows = _rows(packed.shape, size)
        parts, rest = split_parts(packed, ("scales", "values"))
        if len(parts["scales"][1]) != 2 * rows:
            raise TensorError(f"{rows} scales were expected, {len(parts['scales'][1]) // 2} came")
        scales = (np.frombuffer(parts["scales"][1], "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
        # A scale that is infinite would make NaN of every zero in its row.
        if not bool((np.isfinite(scales) & (scales >= 0.0)).all()):
            raise TensorError("a quantised tensor came with a scale that cannot be")
        values = np.empty(size, np.float32)
        symbols = expand_symbols(*parts["values"], self.bits, size, 2**self.bits - 1)
        kernels.restore_rows(symbols.reshape(rows, -1), scales, 2**self.bits - 1, values.reshape(rows, -1))
        put_non_finite(values, rest)
        return from_floats(values, packed)


def scales_of(table: Floats) -> Floats:
    """Largest magnitude of each row rounded up to bfloat16 [rows], float32."""
    largest = np.maximum(table.max(axis=1, initial=0.0), -table.min(axis=1, initial=0.0)).astype(
        np.float32
    ) + np.float32(0.0)
    # Added below the bits that bfloat16 keeps: rounding up, so that no value lies outside.
    raised = np.minimum((largest.view(np.uint32) + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000), _LARGEST)
    found: Floats = raised.view(np.float32)
    return found


def _rows(shape: tuple[int, ...], size: int) -> int:
    """Rows of the last dimension; 1 for a scalar."""
    if not size:
        return 1
    return size // shape[-1] if shape else 1
