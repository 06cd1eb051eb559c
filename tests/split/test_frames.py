# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a damaged or foreign message is taken for a tensor."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from cardlab.core.errors import RunError
from cardlab.split.codecs.registry import codec_named, pack_tensor, unpack_tensor
from cardlab.split.frames import PROTOCOL, Frame, pack_frame, unpack_frame
from cardlab.split.protocol import MESSAGES, decode
from cardlab.split.refusals import FrameError, RefusalCode

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int32": torch.int32}
KINDS = [message.KIND for message in MESSAGES]
shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


def frame(shape=(2, 3), dtype="float32", kind="activations"):
    tensor = (torch.arange(torch.Size(shape).numel()) - 3).reshape(shape).to(DTYPES[dtype])
    return Frame(kind, {"round": 1, "epoch": 0}, {"activation": pack_tensor(tensor)}), tensor


@settings(max_examples=60, deadline=None)
@given(shape=shapes, dtype=st.sampled_from(sorted(DTYPES)), kind=st.sampled_from(KINDS))
def test_what_goes_in_comes_out(shape, dtype, kind) -> None:
    sent, tensor = frame(shape, dtype, kind)
    came = unpack_frame([bytes(part) for part in pack_frame(sent)])
    assert (came.kind, came.head) == (kind, sent.head)
    back = unpack_tensor(came.tensors["activation"], shape)
    assert back.dtype == tensor.dtype and back.shape == tensor.shape and torch.equal(back, tensor)
    assert len(came.tensors["activation"].data) == tensor.numel() * tensor.element_size()


@pytest.mark.parametrize("wire", ["bfloat16", "float16"])
def test_a_wire_dtype_halves_the_bytes(wire) -> None:
    packed = pack_tensor(torch.randn(4, 8), "none", wire)
    assert len(packed.data) == 64 and unpack_tensor(packed).dtype == DTYPES[wire]


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_changed_byte_goes_unnoticed(seed) -> None:
    chance = random.Random(seed)
    sent, _ = frame((3, 4))
    parts = [bytearray(part) for part in pack_frame(sent)]
    part = chance.choice(parts)
    place = chance.randrange(len(part))
    part[place] ^= 1 << chance.randrange(8)
    # Two reserved bytes of the prefix mean nothing.
    if part is parts[0] and place in (6, 7):
        return
    with pytest.raises(FrameError):
        unpack_tensor(unpack_frame([bytes(p) for p in parts]).tensors["activation"])


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.binary(max_size=200), max_size=4), prefixed=st.booleans())
def test_nonsense_is_refused_and_never_crashes(parts, prefixed) -> None:
    if prefixed and parts:
        parts[0] = b"CLSP" + parts[0]
    with pytest.raises(FrameError):
        decode(parts)


@pytest.mark.parametrize("keep", [0, 5, 16, 40])
def test_a_message_cut_short_is_refused(keep) -> None:
    parts = [bytes(part) for part in pack_frame(frame()[0])]
    for cut in ([parts[0][:keep], *parts[1:]], parts[:1], [parts[0], parts[1][:-1]], [*parts, b"more"]):
        with pytest.raises(FrameError):
            unpack_frame(cut)


def test_another_version_is_named() -> None:
    parts = [bytearray(part) for part in pack_frame(frame()[0])]
    parts[0][5] += 1
    with pytest.raises(FrameError, match=f"protocol {PROTOCOL + 1}, this one {PROTOCOL}"):
        unpack_frame([bytes(p) for p in parts])


def test_a_tensor_of_another_shape_or_codec_is_refused_by_its_code() -> None:
    packed = frame()[0].tensors["activation"]
    with pytest.raises(FrameError, match="shape") as refused:
        unpack_tensor(packed, (3, 2))
    assert refused.value.code is RefusalCode.TENSOR
    other = type(packed)("zip", packed.dtype, packed.shape, packed.data, packed.crc32, {})
    with pytest.raises(FrameError, match="codec") as refused:
        unpack_tensor(other)
    assert refused.value.code is RefusalCode.CODEC
    damaged = type(packed)("none", packed.dtype, packed.shape, bytes(len(packed.data)), packed.crc32, {})
    with pytest.raises(FrameError, match="checksum") as refused:
        unpack_tensor(damaged)
    assert refused.value.code is RefusalCode.DAMAGED
    with pytest.raises(RunError, match="none"):
        codec_named("zip")
