"""The loops of the codecs, compiled by numba: threshold, stochastic rounding, bitmaps, Rice codes.

Draws for rounding are a hash of (seed, position), so they cost no state and a tensor that is encoded again gives
the same bytes. Adding a uniform draw before truncation rounds up with the probability of the fraction:

    level = floor(y + u),  u uniform in [0, 1)      E level = y,  Var level = fr (1 - fr)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numba import njit

# numba types the arrays of each call; numpy's own types do not know its arithmetic.
Array = Any
Kernel = TypeVar("Kernel", bound=Callable[..., object])


class Choice(NamedTuple):
    """What `select` keeps and on which levels.

    Attributes:
        limit: bits of the smallest magnitude that is kept.
        ties: how many that equal it are kept.
        factor: levels per unit, s / scale.
        top: s, the highest level.
        seed: of the draws for rounding.
    """

    limit: int
    ties: int
    factor: float
    top: int
    seed: int


def _compiled(function: Kernel) -> Kernel:
    """Machine code, kept on disk where there is a folder for it."""
    try:
        return cast(Kernel, njit(cache=True)(function))
    except RuntimeError:
        return cast(Kernel, njit()(function))


_LOW_BITS = 16
_BINS = 1 << (31 - _LOW_BITS)


@_compiled
def _uniform(seed: np.uint32, i: np.uint32) -> np.float32:  # pragma: no cover - compiled
    # A multiplicative hash (lowbias32): cheaper than a generator with a state, and any position stands alone.
    h = np.uint32(i * np.uint32(0x9E3779B9) + seed)
    h ^= h >> np.uint32(16)
    h = np.uint32(h * np.uint32(0x7FEB352D))
    h ^= h >> np.uint32(15)
    h = np.uint32(h * np.uint32(0x846CA68B))
    h ^= h >> np.uint32(16)
    # 24 bits, as many as float32 holds exactly.
    u: np.float32 = np.float32(h >> np.uint32(8)) * np.float32(5.9604644775390625e-08)
    return u


@_compiled
def threshold(bits: Array, keep: int) -> tuple[int, int, int]:  # pragma: no cover - compiled
    """Where the largest `keep` of non-negative floats begin, by two histograms of their bits and no sort.

    Args:
        bits: magnitudes as uint32 [n], sign bit cleared; their order is that of the numbers.

    Returns the threshold, how many lie above it, and how many equal to it complete the number.
    """
    # Bits of non-negative floats order as the numbers do: histograms of them need no sort.
    coarse = np.zeros(_BINS, np.int64)
    for i in range(bits.size):
        coarse[bits[i] >> np.uint32(_LOW_BITS)] += 1
    above = 0
    place = _BINS - 1
    while place > 0 and above + coarse[place] < keep:
        above += coarse[place]
        place -= 1
    fine = np.zeros(1 << _LOW_BITS, np.int64)
    for i in range(bits.size):
        if bits[i] >> np.uint32(_LOW_BITS) == place:
            fine[bits[i] & np.uint32(0xFFFF)] += 1
    low = (1 << _LOW_BITS) - 1
    while low > 0 and above + fine[low] < keep:
        above += fine[low]
        low -= 1
    return (place << _LOW_BITS) | low, above, keep - above


@_compiled
def _symbol(value: float, f: np.float32, start: np.uint32, i: int, top: int) -> np.uint8:  # pragma: no cover - compiled
    level = min(int(abs(value) * f + _uniform(start, np.uint32(i))), top)
    symbol: np.uint8 = np.uint8(top - level if value < 0 else top + level)
    return symbol


@_compiled
def select(
    values: Array,
    bits: Array,
    width: int,
    choice: Choice,
    mask: Array,
    symbols: Array,
) -> int:  # pragma: no cover - compiled
    """Mark and quantise what lies above the limit, the first ties that equal it, and the largest of a row without any.

    Returns how many. A row of zeros keeps none.

    Args:
        values, bits: float32 [n] and their magnitudes' bits.
        width: of a row; n is a whole number of rows.
        choice: limit, ties and levels.
        mask: uint8 [ceil(n / 8)], zeros; bit i % 8 of byte i // 8 is set where value i is kept.
        symbols: uint8, level + s of each kept value, in order; a place for what the limit keeps and one for each row.
    """
    count = 0
    limit, ties, top = choice.limit, choice.ties, choice.top
    start = np.uint32(choice.seed)
    f = np.float32(choice.factor)
    for row in range(0, values.size, width):
        before = count
        for i in range(row, row + width):
            b = bits[i]
            taken = b > limit
            if b == limit and ties > 0:
                ties -= 1
                taken = True
            if taken:
                symbols[count] = _symbol(values[i], f, start, i, top)
                mask[i >> 3] |= np.uint8(1 << (i & 7))
                count += 1
        # A token without any value would pass the next layer's norm with a huge gradient.
        if count == before:
            i = row + int(np.argmax(bits[row : row + width]))
            if bits[i] > 0:
                symbols[count] = _symbol(values[i], f, start, i, top)
                mask[i >> 3] |= np.uint8(1 << (i & 7))
                count += 1
    return count


@_compiled
def scatter(mask: Array, symbols: Array, step: float, top: int, out: Array) -> int:  # pragma: no cover - compiled
    """Inverse of `select` into zeros float32 [n]; how many values the mask asked for, -1 for more than there are."""
    count = 0
    for byte in range(mask.size):
        left = mask[byte]
        place = byte << 3
        while left:
            if left & 1:
                if count >= symbols.size or place >= out.size:
                    return -1
                out[place] = np.float32((np.int64(symbols[count]) - top) * step)
                count += 1
            left >>= 1
            place += 1
    return count


@_compiled
def quantise_rows(
    values: Array, scales: Array, top: int, seed: int, symbols: Array
) -> None:  # pragma: no cover - compiled
    """Place of every value [rows, d] on a grid of top + 1 points from -scale to scale, a scale for each row [rows]."""
    start = np.uint32(seed)
    rows, width = values.shape
    for r in range(rows):
        scale = scales[r]
        f = np.float32(0.5) * np.float32(top) / scale if scale > 0 else np.float32(0)
        base = np.uint32(r * width)
        for c in range(width):
            level = np.int32((values[r, c] + scale) * f + _uniform(start, np.uint32(base + np.uint32(c))))
            symbols[r, c] = np.uint8(min(max(level, np.int32(0)), np.int32(top)))


@_compiled
def restore_rows(symbols: Array, scales: Array, top: int, out: Array) -> None:  # pragma: no cover - compiled
    """Inverse of `quantise_rows` into float32 [rows, d]."""
    rows, width = out.shape
    for r in range(rows):
        step = np.float32(scales[r]) / np.float32(top)
        for c in range(width):
            out[r, c] = np.float32(2 * np.int32(symbols[r, c]) - np.int32(top)) * step


@_compiled
def pack_symbols(symbols: Array, width: int, out: Array) -> None:  # pragma: no cover - compiled
    """Several symbols of `width` bits (2 or 4) into each byte, the first lowest."""
    each = 8 // width
    whole = symbols.size // each
    for i in range(whole):
        if width == 4:
            out[i] = symbols[2 * i] | (symbols[2 * i + 1] << 4)
        else:
            j = 4 * i
            out[i] = symbols[j] | (symbols[j + 1] << 2) | (symbols[j + 2] << 4) | (symbols[j + 3] << 6)
    for i in range(whole * each, symbols.size):
        out[whole] |= symbols[i] << np.uint8(width * (i - whole * each))


@_compiled
def unpack_symbols(packed: Array, width: int, out: Array) -> None:  # pragma: no cover - compiled
    """Inverse of `pack_symbols`."""
    each = 8 // width
    low = np.uint8((1 << width) - 1)
    whole = out.size // each
    for i in range(whole):
        b = packed[i]
        for k in range(each):
            out[i * each + k] = (b >> np.uint8(width * k)) & low
    for i in range(whole * each, out.size):
        out[i] = (packed[whole] >> np.uint8(width * (i - whole * each))) & low


@_compiled
def rice_bits(mask: Array, shift: int) -> int:  # pragma: no cover - compiled
    """Bits that the gaps of a mask take as Rice codes of that shift."""
    total, last = 0, -1
    for byte in range(mask.size):
        left = mask[byte]
        place = byte << 3
        while left:
            if left & 1:
                total += ((place - last - 1) >> shift) + 1 + shift
                last = place
            left >>= 1
            place += 1
    return total


@_compiled
def rice_encode(mask: Array, shift: int, out: Array) -> None:  # pragma: no cover - compiled
    """Gaps between kept values: the quotient by 2^shift in unary (ones, then a zero), the rest in `shift` bits."""
    at, last = 0, -1
    for byte in range(mask.size):
        left = mask[byte]
        place = byte << 3
        while left:
            if left & 1:
                gap = place - last - 1
                for _ in range(gap >> shift):
                    out[at >> 3] |= np.uint8(1 << (at & 7))
                    at += 1
                at += 1
                for k in range(shift):
                    out[at >> 3] |= np.uint8(((gap >> k) & 1) << (at & 7))
                    at += 1
                last = place
            left >>= 1
            place += 1


@_compiled
def rice_decode(data: Array, shift: int, kept: int, size: int, mask: Array) -> bool:  # pragma: no cover - compiled
    """Inverse of `rice_encode` into a mask of zeros over `size` values; False for bytes that cannot be it."""
    at, last, end = 0, -1, data.size << 3
    for _ in range(kept):
        quotient = 0
        while at < end and (data[at >> 3] >> np.uint8(at & 7)) & 1:
            quotient += 1
            at += 1
        at += 1
        if at + shift > end:
            return False
        rest = 0
        for k in range(shift):
            rest |= int((data[at >> 3] >> np.uint8(at & 7)) & 1) << k
            at += 1
        place = last + 1 + (quotient << shift) + rest
        if place >= size:
            return False
        mask[place >> 3] |= np.uint8(1 << (place & 7))
        last = place
    return True
