"""Bytes and bitmaps to fewer bytes without loss: the smallest of what is worth trying.

    raw        as they are                zstd     level 1
    huffman    deflate, Huffman only      rice     gaps between the ones of a bitmap

Bytes whose neighbours are independent gain from nothing but their frequencies: where zstd is within 0.5 % of the
entropy of single bytes, deflate (ten times slower) is not tried. Decoding trusts no length.
"""

from __future__ import annotations

import math
import zlib
from types import ModuleType

import numpy as np
import numpy.typing as npt

from cardlab.core.errors import MissingDependencyError
from cardlab.split.codecs import kernels
from cardlab.split.refusals import TensorError

Bytes = npt.NDArray[np.uint8]
_NEAR = 1.005
_ZSTD_LEVEL = 1


def squeeze(data: Bytes) -> tuple[str, bytes]:
    """The name of the coder that was smallest, and its bytes."""
    plain = data.tobytes()
    best = ("raw", plain)
    # A coder's own header is longer than what it could save.
    if len(plain) < 16:
        return best
    counts = np.bincount(data, minlength=256)
    shares = counts[counts > 0] / data.size
    floor = float(-(shares * np.log2(shares)).sum()) * data.size / 8.0
    # Bytes that are nearly uniform: every coder would only add to them.
    if floor > 0.998 * len(plain):
        return best
    packed = _zstd().ZstdCompressor(level=_ZSTD_LEVEL).compress(plain)
    best = min(best, ("zstd", packed), key=lambda found: len(found[1]))
    if len(packed) > _NEAR * floor:
        coder = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
        best = min(best, ("huffman", coder.compress(plain) + coder.flush()), key=lambda found: len(found[1]))
    return best


def expand(name: str, data: bytes, size: int) -> Bytes:
    """The `size` bytes that were squeezed; TensorError if these are not they."""
    try:
        if name == "raw":
            plain = data
        elif name == "huffman":
            # One byte more than expected is enough to know that it is too long.
            plain = zlib.decompressobj(-15).decompress(data, size + 1)
        elif name == "zstd":
            module = _zstd()
            # The frame says its size: a bomb is refused before any memory is taken.
            if module.frame_content_size(data) != size:
                raise TensorError(f"compressed bytes came that are not the {size} expected")
            plain = module.ZstdDecompressor().decompress(data, max_output_size=size)
        else:
            raise TensorError(f"bytes came in the unknown coding {name!r}")
    except (zlib.error, _zstd_error()) as error:
        raise TensorError("compressed bytes came damaged") from error
    if len(plain) != size:
        raise TensorError(f"{len(plain)} bytes came where {size} were expected")
    return np.frombuffer(plain, dtype=np.uint8)


def squeeze_mask(mask: Bytes, kept: int, size: int) -> tuple[str, bytes]:
    """A bitmap over `size` values of which `kept` are set, as bytes or as Rice codes."""
    name, data = squeeze(mask)
    if not 0 < kept < size:
        return name, data
    shift = rice_shift(kept, size)
    bits = kernels.rice_bits(mask, shift)
    # Rice codes win only where the ones are spread evenly; structure is what zstd finds.
    if (bits + 7) // 8 >= len(data):
        return name, data
    out = np.zeros((bits + 7) // 8, np.uint8)
    kernels.rice_encode(mask, shift, out)
    return "rice", out.tobytes()


def expand_mask(name: str, data: bytes, kept: int, size: int) -> Bytes:
    """Inverse of `squeeze_mask`; TensorError if the bytes cannot be it."""
    if name != "rice":
        return expand(name, data, (size + 7) // 8)
    mask = np.zeros((size + 7) // 8, np.uint8)
    if not 0 < kept < size or not kernels.rice_decode(
        np.frombuffer(data, np.uint8), rice_shift(kept, size), kept, size, mask
    ):
        raise TensorError("a bitmap came damaged")
    return mask


def rice_shift(kept: int, size: int) -> int:
    """The best Rice parameter for ones that are spread evenly: half of the gaps below 2^shift."""
    share = min(max(kept / size, 1e-9), 0.999)
    return max(0, round(math.log2(max(-math.log(2.0) / math.log1p(-share), 1.0))))


def _zstd() -> ModuleType:
    try:
        import zstandard
    except ImportError as error:
        raise MissingDependencyError(
            "compression needs the zstandard package", remedy="pip install 'cardlab[models]'"
        ) from error
    return zstandard


def _zstd_error() -> type[Exception]:
    found: type[Exception] = _zstd().ZstdError
    return found
