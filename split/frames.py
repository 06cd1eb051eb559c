"""Bytes of a message: a fixed prefix, a JSON head, and one part for each tensor. No pickle.

    part 0:  "CLSP"  version u16  0 u16  head length u32  head crc32 u32 | head, UTF-8 JSON
    part k:  the bytes of tensor k, whose codec, dtype, shape, length and crc32 stand in the head

The prefix keeps its layout in every version, so that an older or newer side is recognised and named.
Nothing is trusted: lengths, counts, dtypes and checksums are verified before anything is used. What a head may say is
not known here but in `protocol`.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cardlab.split.codecs.base import WIRE_BYTES, Buffer, Packed
from cardlab.split.refusals import FrameError, RefusalCode, TensorError

# 2: refusals carry codes, and a probe's answer is a message of its own. 3: norms and tokens of a step travel.
PROTOCOL = 4
MAGIC = b"CLSP"
_PREFIX = struct.Struct(">4sHHII")
_MAX_HEAD_BYTES = 4 * 2**20
_MAX_TENSORS = 100_000


@dataclass(frozen=True, slots=True)
class Frame:
    """A message as it travels: its kind, its facts as plain JSON, and tensors by name."""

    kind: str
    head: Mapping[str, object] = field(default_factory=dict)
    tensors: Mapping[str, Packed] = field(default_factory=dict)


def pack_frame(frame: Frame) -> list[Buffer]:
    """The parts of a message."""
    listed = [
        {
            "name": name,
            "codec": p.codec,
            "dtype": p.dtype,
            "shape": list(p.shape),
            "bytes": len(p.data),
            "crc32": p.crc32,
            "more": dict(p.more),
        }
        for name, p in frame.tensors.items()
    ]
    document = {"kind": frame.kind, "head": frame.head, "tensors": listed}
    head = json.dumps(document, separators=(",", ":"), allow_nan=False).encode("utf-8")
    prefix = _PREFIX.pack(MAGIC, PROTOCOL, 0, len(head), zlib.crc32(head))
    return [prefix + head, *(p.data for p in frame.tensors.values())]


def unpack_frame(parts: Sequence[Buffer]) -> Frame:
    """The message of these parts; FrameError saying what is wrong with them."""
    document = _document(parts)
    kind, head, listed = document.get("kind"), document.get("head"), document.get("tensors")
    if not isinstance(kind, str) or not isinstance(head, dict) or not isinstance(listed, list):
        raise FrameError("a message came whose head makes no sense")
    if len(listed) != len(parts) - 1 or len(listed) > _MAX_TENSORS:
        raise FrameError(f"a message came with {len(parts) - 1} tensors where its head lists {len(listed)}")
    tensors: dict[str, Packed] = {}
    for entry, data in zip(listed, parts[1:], strict=True):
        name, packed = _packed(entry, data)
        if name in tensors:
            raise TensorError(f"a message came with two tensors {name[:80]!r}")
        tensors[name] = packed
    return Frame(kind, head, tensors)


def _document(parts: Sequence[Buffer]) -> dict[str, object]:
    if not parts or len(parts[0]) < _PREFIX.size or bytes(parts[0][:4]) != MAGIC:
        raise FrameError("something came that is no cardlab message", remedy="point both sides at each other")
    _, version, _, length, crc32 = _PREFIX.unpack_from(parts[0])
    if version != PROTOCOL:
        raise FrameError(
            f"the other side speaks protocol {version}, this one {PROTOCOL}", code=RefusalCode.PROTOCOL_VERSION
        )
    head = bytes(parts[0][_PREFIX.size :])
    # Before parsing: a damaged head may be valid JSON that says something else.
    if len(head) != length or length > _MAX_HEAD_BYTES or zlib.crc32(head) != crc32:
        raise FrameError(
            "a message came damaged or cut short",
            code=RefusalCode.DAMAGED,
            remedy="repeat the round; check the network",
        )
    try:
        document = json.loads(head)
    except (ValueError, RecursionError) as error:
        raise FrameError("a message came whose head is no JSON") from error
    if not isinstance(document, dict):
        raise FrameError("a message came whose head is no JSON object")
    return document


def _packed(entry: object, data: Buffer) -> tuple[str, Packed]:
    if not isinstance(entry, dict):
        raise FrameError("a message lists a tensor that is no object")
    name, codec, dtype = entry.get("name"), entry.get("codec"), entry.get("dtype")
    shape, length, crc32, more = (entry.get(key) for key in ("shape", "bytes", "crc32", "more"))
    named = isinstance(name, str) and isinstance(codec, str) and dtype in WIRE_BYTES
    sized = isinstance(shape, list) and len(shape) <= 8 and all(_is_count(n) for n in shape)
    if not (named and sized and _is_count(crc32) and isinstance(more, dict)):
        raise TensorError("a message describes a tensor that cannot be")
    # ZeroMQ delivers whole parts; another length means the head is of another message.
    if length != len(data):
        raise FrameError(f"tensor {name!r} has {len(data)} bytes, {length} were announced", code=RefusalCode.DAMAGED)
    return str(name), Packed(str(codec), str(dtype), tuple(shape or ()), data, int(crc32 or 0), more or {})


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40
