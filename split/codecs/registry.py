"""Codecs by name, and tensors through them. A name holds its parameters:

none                  as they are
dense:BITS            every value, stochastic quantisation, one scale for each token
topk:KEEP:BITS        the largest KEEP (a fraction) of the values
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import TYPE_CHECKING

from cardlab.core.errors import RunError
from cardlab.core.numerals import decimal, whole
from cardlab.split.codecs.base import WIRE_BYTES, Codec, Packed
from cardlab.split.codecs.plain import Plain
from cardlab.split.refusals import RefusalCode, TensorError

if TYPE_CHECKING:
    import torch

FORMS = ("none", "dense:BITS", "topk:KEEP:BITS")


@lru_cache(maxsize=64)
def codec_named(name: str) -> Codec:
    """The codec of that name; RunError saying what the names are, or which parameter is out of range."""
    kind, *parameters = name.split(":")
    try:
        if kind == "none" and not parameters:
            return Plain()
        # The others load numba, which takes a second: only where they are named.
        if kind == "dense" and len(parameters) == 1:
            from cardlab.split.codecs.dense import Dense

            return Dense(whole(parameters[0]))
        if kind == "topk" and len(parameters) == 2:
            from cardlab.split.codecs.topk import TopK

            return TopK(decimal(parameters[0]), whole(parameters[1]))
    except ValueError as error:
        raise RunError(f"{name!r} is no codec: {error}", remedy=f"use one of: {', '.join(FORMS)}") from error
    raise RunError(f"there is no codec {name!r}", remedy=f"use one of: {', '.join(FORMS)}")


@lru_cache(maxsize=64)
def warm_codec(name: str) -> None:
    """Let a codec compile its loops now, once, so that the first tensor of a run does not pay for it."""
    import torch

    if name != "none":
        unpack_tensor(pack_tensor(torch.linspace(-1.0, 1.0, 4096).view(64, 64), name))


def pack_tensor(tensor: torch.Tensor, codec: str = "none", wire_dtype: str | None = None) -> Packed:
    """A tensor ready to travel; `wire_dtype` None keeps its own dtype."""
    dtype = wire_dtype or str(tensor.dtype).removeprefix("torch.")
    if dtype not in WIRE_BYTES:
        raise RunError(f"{dtype} does not travel", remedy=f"use one of: {', '.join(WIRE_BYTES)}")
    more, data = codec_named(codec).encode(tensor, dtype)
    return Packed(codec, dtype, tuple(tensor.shape), data, zlib.crc32(data), more)


def unpack_tensor(packed: Packed, shape: tuple[int, ...] | None = None) -> torch.Tensor:
    """The tensor, its checksum verified; TensorError also when it has not the shape that was expected."""
    try:
        codec = codec_named(packed.codec)
    except RunError as error:
        raise TensorError(
            f"a tensor came in the unknown codec {packed.codec[:40]!r}", code=RefusalCode.CODEC
        ) from error
    if shape is not None and packed.shape != shape:
        raise TensorError(f"a tensor of shape {packed.shape} came where {shape} was expected")
    return codec.decode(packed.verified())
