"""What the lossy codecs share: floats in and out, levels of a quantiser, values that are not finite.

A value that is NaN or infinite has no level. It travels beside the others, as position and kind, and comes back as
it was; the finite values are coded as if it were zero, so it spoils no scale.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cardlab.core.errors import RunError
from cardlab.split.codecs import kernels
from cardlab.split.codecs.base import Buffer, Packed
from cardlab.split.codecs.coding import expand, squeeze
from cardlab.split.refusals import TensorError

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
LOSSY_DTYPES = ("float32", "bfloat16", "float16")
BITS = range(2, 9)
_NON_FINITE = np.dtype([("place", "<u4"), ("value", "<f4")])
_SEED_BYTES = 2**16


def levels(bits: int) -> int:
    """Highest level s of a signed quantiser of that many bits: -s..s, step = scale / s."""
    return int(2 ** (bits - 1) - 1)


def width_of(bits: int) -> int:
    """Bits that a symbol takes in a byte before coding: 2, 4 or 8."""
    return 2 if bits == 2 else 4 if bits <= 4 else 8


def to_floats(tensor: torch.Tensor, wire_dtype: str) -> Floats:
    """Values as they would travel, float32 [n]; RunError for a dtype that is no float."""
    import torch

    if wire_dtype not in LOSSY_DTYPES or not tensor.dtype.is_floating_point:
        raise RunError(f"{wire_dtype} is not compressed", remedy="use the codec none for it")
    flat = tensor.detach().to("cpu", getattr(torch, wire_dtype)).to(torch.float32).contiguous()
    found: Floats = flat.view(-1).numpy()
    return found


def from_floats(values: Floats, packed: Packed) -> torch.Tensor:
    """A tensor of the announced dtype and shape."""
    import torch

    return torch.from_numpy(values).to(getattr(torch, packed.dtype)).view(packed.shape)


def take_non_finite(values: Floats) -> tuple[Floats, bytes]:
    """The values with zeros for those that are not finite, and these."""
    # The sum is finite unless a value is not, or it overflows; then they are looked for.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum(dtype=np.float64)):
            return values, b""
    places = np.flatnonzero(~np.isfinite(values))
    rest = np.empty(places.size, _NON_FINITE)
    rest["place"], rest["value"] = places, values[places]
    clean = values.copy()
    clean[places] = 0.0
    return clean, rest.tobytes()


def put_non_finite(values: Floats, data: bytes) -> None:
    """Inverse of `take_non_finite`, in place; TensorError for places outside."""
    if len(data) % _NON_FINITE.itemsize:
        raise TensorError("values that are not finite came cut short")
    rest = np.frombuffer(data, _NON_FINITE)
    if rest.size and int(rest["place"].max()) >= values.size:
        raise TensorError("a value that is not finite came for a place that is not there")
    values[rest["place"]] = rest["value"]


def seed_of(values: Floats) -> int:
    """A seed that depends on the values, so that encoding again gives the same bytes."""
    # Both ends are enough to tell tensors apart; all of it would cost as much as encoding.
    view = values.view(np.uint8).data
    return zlib.crc32(view[-_SEED_BYTES:], zlib.crc32(view[:_SEED_BYTES]))


def squeeze_symbols(symbols: Bytes, bits: int) -> tuple[str, bytes]:
    """Symbols of that many bits, several to a byte where they fit, without loss."""
    width = width_of(bits)
    # One symbol fills a byte already.
    if width == 8:
        return squeeze(symbols)
    packed = np.zeros(-(-symbols.size * width // 8), np.uint8)
    kernels.pack_symbols(symbols, width, packed)
    return squeeze(packed)


def expand_symbols(name: str, data: bytes, bits: int, count: int, highest: int) -> Bytes:
    """Inverse of `squeeze_symbols`; TensorError also for a symbol above the highest."""
    width = width_of(bits)
    symbols = expand(name, data, -(-count * width // 8))
    if width < 8:
        packed, symbols = symbols, np.empty(count, np.uint8)
        kernels.unpack_symbols(packed, width, symbols)
    # A level beyond the highest would come back larger than any value that was sent.
    if count and int(symbols.max()) > highest:
        raise TensorError("a level came that the codec does not have")
    return symbols


def join_parts(parts: Mapping[str, tuple[str, bytes]], rest: bytes) -> tuple[dict[str, object], Buffer]:
    """Header entries {name: [coding, length]} and the parts one after the other, values that are not finite last."""
    more: dict[str, object] = {name: [coding, len(data)] for name, (coding, data) in parts.items()}
    return more, b"".join([*(data for _, data in parts.values()), rest])


def split_parts(packed: Packed, names: tuple[str, ...]) -> tuple[dict[str, tuple[str, bytes]], bytes]:
    """Inverse of `join_parts`; TensorError for lengths that do not fit."""
    data, at = bytes(packed.data), 0
    parts = {}
    for name in names:
        entry = packed.more.get(name)
        known = isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)
        length = entry[1] if known and isinstance(entry, list) else None
        if isinstance(length, bool) or not isinstance(length, int) or not 0 <= length <= len(data) - at:
            raise TensorError(f"a compressed tensor came whose {name} makes no sense")
        parts[name] = (str(entry[0]) if isinstance(entry, list) else "", data[at : at + length])
        at += length
    return parts, data[at:]


def value_count(packed: Packed) -> int:
    """Values of the announced shape."""
    count = math.prod(packed.shape)
    # Positions of values that are not finite travel as 32 bits.
    if count >= 2**32:
        raise TensorError(f"a tensor of {count} values is not compressed")
    return count
