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
from cardlab.split.codec import FrameError, codec_named, pack_tensor, unpack_tensor
from cardlab.split.frames import KINDS, PROTOCOL, Message, number, pack, text, unpack, whole

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int32": torch.int32}
shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


def message(shape=(2, 3), dtype="float32"):
    tensor = (torch.arange(torch.Size(shape).numel()) - 3).reshape(shape).to(DTYPES[dtype])
    return Message("activations", {"round": 1, "epoch": 0}, {"activation": pack_tensor(tensor)}), tensor


@settings(max_examples=60, deadline=None)
@given(shape=shapes, dtype=st.sampled_from(sorted(DTYPES)), kind=st.sampled_from(KINDS))
def test_what_goes_in_comes_out(shape, dtype, kind) -> None:
    sent, tensor = message(shape, dtype)
    parts = [bytes(part) for part in pack(Message(kind, sent.head, sent.tensors))]
    came = unpack(parts)
    assert (came.kind, came.head) == (kind, sent.head)
    back = unpack_tensor(came.tensors["activation"], shape)
    assert back.dtype == tensor.dtype and back.shape == tensor.shape and torch.equal(back, tensor)
    assert came.payload_bytes == tensor.numel() * tensor.element_size()


@pytest.mark.parametrize("wire", ["bfloat16", "float16"])
def test_a_wire_dtype_halves_the_bytes(wire) -> None:
    packed = pack_tensor(torch.randn(4, 8), "none", wire)
    assert len(packed.data) == 64 and unpack_tensor(packed).dtype == DTYPES[wire]


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_changed_byte_goes_unnoticed(seed) -> None:
    chance = random.Random(seed)
    sent, tensor = message((3, 4))
    parts = [bytearray(part) for part in pack(sent)]
    part = chance.choice(parts)
    place = chance.randrange(len(part))
    part[place] ^= 1 << chance.randrange(8)
    # Two reserved bytes of the prefix mean nothing.
    if part is parts[0] and place in (6, 7):
        return
    with pytest.raises(FrameError):
        unpack_tensor(unpack([bytes(p) for p in parts]).tensors["activation"])


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.binary(max_size=200), max_size=4), prefixed=st.booleans())
def test_nonsense_is_refused_and_never_crashes(parts, prefixed) -> None:
    if prefixed and parts:
        parts[0] = b"CLSP" + parts[0]
    with pytest.raises(FrameError):
        unpack(parts)


@pytest.mark.parametrize("keep", [0, 5, 16, 40])
def test_a_message_cut_short_is_refused(keep) -> None:
    parts = [bytes(part) for part in pack(message()[0])]
    for cut in ([parts[0][:keep], *parts[1:]], parts[:1], [parts[0], parts[1][:-1]], [*parts, b"more"]):
        with pytest.raises(FrameError):
            unpack(cut)


def test_another_version_is_named() -> None:
    parts = [bytearray(part) for part in pack(message()[0])]
    parts[0][5] += 1
    with pytest.raises(FrameError, match=f"protocol {PROTOCOL + 1}, this one {PROTOCOL}"):
        unpack([bytes(p) for p in parts])


def test_a_tensor_of_another_shape_or_codec_is_refused() -> None:
    packed = message()[0].tensors["activation"]
    with pytest.raises(FrameError, match="shape"):
        unpack_tensor(packed, (3, 2))
    other = type(packed)("zip", packed.dtype, packed.shape, packed.data, packed.crc32, {})
    with pytest.raises(FrameError, match="codec"):
        unpack_tensor(other)
    with pytest.raises(RunError, match="none"):
        codec_named("zip")


@pytest.mark.parametrize("value", [None, "1", 1.5, True, -1, 2**40, float("inf")])
def test_numbers_of_a_head_are_checked(value) -> None:
    with pytest.raises(FrameError):
        whole({"round": value}, "round")
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value == float("inf"):
        with pytest.raises(FrameError):
            number({"x": value}, "x")
    if not isinstance(value, str):
        with pytest.raises(FrameError):
            text({"x": value}, "x")
