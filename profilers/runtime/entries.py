"""The header of a safetensors file: which tensors it holds, and where their bytes lie."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from cardlab.core.errors import ProfileError

# Bytes of one value by the format's word for its dtype.
FLOATS: Mapping[str, int] = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
AGAIN = "download the model again"
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tensor of a file: its name there, dtype in the format's word, shape, and where its bytes lie [low, high)."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    low: int
    high: int


def read_header(file: Path) -> dict[str, Entry]:
    """Tensors of a safetensors file by name. Raises ProfileError for what is none, or is cut short."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length)) if length < 2**28 else None
        if not isinstance(header, dict):
            raise ValueError("no header")
        begin = 8 + length
        found = {
            str(name): _entry(file, str(name), entry, begin) for name, entry in header.items() if name != "__metadata__"
        }
        end = max((entry.high for entry in found.values()), default=begin)
    except OSError as error:
        raise ProfileError(f"cannot read {file}: {error.strerror or error}", remedy="make it readable") from error
    except (ValueError, KeyError, TypeError, struct.error, RecursionError) as error:
        if _begins_with(file, _POINTER):
            raise ProfileError(
                f"{file} is a pointer of Git LFS, not the weights", remedy=f"fetch them: git lfs pull, in {file.parent}"
            ) from error
        raise ProfileError(f"{file} is no safetensors file", remedy=AGAIN) from error
    if end > size:
        raise ProfileError(f"{file} is cut short: {size} bytes of {end}", remedy=AGAIN)
    return found


def _begins_with(file: Path, words: bytes) -> bool:
    try:
        with file.open("rb") as stream:
            return stream.read(len(words)) == words
    except OSError:
        return False


def _entry(file: Path, name: str, plain: Mapping[str, object], begin: int) -> Entry:
    offsets, shape, dtype = plain["data_offsets"], plain["shape"], plain["dtype"]
    if not isinstance(offsets, list) or not isinstance(shape, list) or not isinstance(dtype, str):
        raise ValueError("no tensor")
    low, high = (int(offset) for offset in offsets)
    sizes = tuple(int(side) for side in shape)
    width = FLOATS.get(dtype)
    if not 0 <= low <= high or min(sizes, default=0) < 0 or (width and high - low != width * prod(sizes)):
        raise ValueError("bytes that are not those of the shape")
    return Entry(file=file, name=name, dtype=dtype, shape=sizes, low=begin + low, high=begin + high)
