"""Messages on the wire: a fixed prefix, a JSON head, and one part for each tensor. No pickle.

    part 0:  "CLSP"  version u16  0 u16  head length u32  head crc32 u32 | head, UTF-8 JSON
    part k:  the bytes of tensor k, whose codec, dtype, shape, length and crc32 stand in the head

The prefix keeps its layout in every version, so that an older or newer side is recognised and named.
Nothing is trusted: lengths, counts, dtypes and checksums are verified before anything is used.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cardlab.split.codec import WIRE_BYTES, Buffer, FrameError, Packed

PROTOCOL = 1
MAGIC = b"CLSP"
_PREFIX = struct.Struct(">4sHHII")
_MAX_HEAD_BYTES = 4 * 2**20
_MAX_TENSORS = 100_000

KINDS = (
    "hello",  # device: who I am, what I hold
    "welcome",  # server: the run
    "ready",  # device: model built, waiting for a round
    "refused",  # server: why not, and what to do
    "round",  # server: cut and device-side adapters (stage 1)
    "activations",  # device: smashed data and labels (stage 2)
    "gradients",  # server: gradients and loss (stages 3 and 4)
    "adapters",  # device: adapters back after T epochs (stage 5)
    "stored",  # server: the round is kept
    "abandoned",  # server: your round was given up; be ready again
    "end",  # server: the run is over
    "bye",  # device: I leave
    "probe",  # either: bytes to time a link with
)


@dataclass(frozen=True, slots=True)
class Message:
    """What one side says to the other: a kind, plain JSON facts, and tensors by name."""

    kind: str
    head: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Packed] = field(default_factory=dict)

    @property
    def payload_bytes(self) -> int:
        """Bytes of its tensors."""
        return sum(len(packed.data) for packed in self.tensors.values())


def pack(message: Message) -> list[Buffer]:
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
        for name, p in message.tensors.items()
    ]
    document = {"kind": message.kind, "head": message.head, "tensors": listed}
    head = json.dumps(document, separators=(",", ":"), allow_nan=False).encode("utf-8")
    prefix = _PREFIX.pack(MAGIC, PROTOCOL, 0, len(head), zlib.crc32(head))
    return [prefix + head, *(p.data for p in message.tensors.values())]


def unpack(parts: Sequence[Buffer]) -> Message:
    """The message of these parts; FrameError saying what is wrong with them."""
    document = _document(parts)
    kind, head, listed = document.get("kind"), document.get("head"), document.get("tensors")
    if kind not in KINDS or not isinstance(head, dict) or not isinstance(listed, list):
        raise FrameError("a message came whose head makes no sense")
    if len(listed) != len(parts) - 1 or len(listed) > _MAX_TENSORS:
        raise FrameError(f"a message came with {len(parts) - 1} tensors where its head lists {len(listed)}")
    tensors = {}
    for entry, data in zip(listed, parts[1:], strict=True):
        name, packed = _packed(entry, data)
        tensors[name] = packed
    return Message(kind, head, tensors)


def _document(parts: Sequence[Buffer]) -> dict[str, Any]:
    if not parts or len(parts[0]) < _PREFIX.size or bytes(parts[0][:4]) != MAGIC:
        raise FrameError("something came that is no cardlab message", remedy="point both sides at each other")
    _, version, _, length, crc32 = _PREFIX.unpack_from(parts[0])
    if version != PROTOCOL:
        raise FrameError(f"the other side speaks protocol {version}, this one {PROTOCOL}")
    head = bytes(parts[0][_PREFIX.size :])
    if len(head) != length or length > _MAX_HEAD_BYTES or zlib.crc32(head) != crc32:
        raise FrameError("a message came damaged or cut short", remedy="repeat the round; check the network")
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
        raise FrameError("a message describes a tensor that cannot be")
    if length != len(data):
        raise FrameError(f"tensor {name!r} has {len(data)} bytes, {length} were announced")
    return str(name), Packed(str(codec), str(dtype), tuple(shape or ()), data, int(crc32 or 0), more or {})


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40


def whole(head: Mapping[str, Any], key: str, low: int = 0, high: int = 2**31) -> int:
    """A whole number of a head within bounds; FrameError naming the key otherwise."""
    value = head.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise FrameError(f"a message came with {key} = {value!r}")
    return value


def number(head: Mapping[str, Any], key: str) -> float:
    """A finite number of a head; FrameError naming the key otherwise."""
    value = head.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
        raise FrameError(f"a message came with {key} = {value!r}")
    return float(value)


def text(head: Mapping[str, Any], key: str) -> str:
    """A text of a head; FrameError naming the key otherwise."""
    value = head.get(key)
    if not isinstance(value, str) or len(value) > 4000:
        raise FrameError(f"a message came with {key} that is no text")
    return value
