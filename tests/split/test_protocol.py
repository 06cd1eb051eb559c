# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, one side believes what the other never said, or says no in words that only people understand."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from cardlab import __version__
from cardlab.core.errors import RunError
from cardlab.core.plain import to_plain
from cardlab.core.records.device import Device
from cardlab.core.records.plan import TERMS
from cardlab.core.records.training import WAITING, DeviceReading
from cardlab.split import protocol
from cardlab.split.codecs.base import Packed
from cardlab.split.codecs.registry import pack_tensor
from cardlab.split.facts import Facts
from cardlab.split.frames import PROTOCOL, Frame, pack_frame
from cardlab.split.protocol import MESSAGES, Message, decode, encode
from cardlab.split.refusals import FrameError, NotFiniteError, RefusalCode, RefusalError, code_of
from cardlab.split.settings import RunSettings
from cardlab.split.shaping import PlannedRates
from tests import records

SETTINGS = RunSettings(
    run="5" * 32, task=records.TASK, rounds=3, epochs=2, learning_rate=1e-2, wire_dtype="float32", cut=2
)
# A packed tensor that can be hashed, as hypothesis wants its values.
NOTHING: Any = type("Nothing", (dict,), {"__hash__": lambda self: 0})()
seconds = st.floats(-1e6, 1e6)
counts = st.integers(1, 1000)
texts = st.text(max_size=30)
terms = st.dictionaries(st.sampled_from((*TERMS, WAITING)), seconds)
norms = st.none() | st.lists(st.floats(0.0, 1e6), max_size=3).map(tuple)
names = st.builds(
    "{}/q.lora_{}.default.weight{}".format,
    st.integers(0, 2),
    st.sampled_from("AB"),
    st.sampled_from(("", "#exp_avg", "#step")),
)


def tensor(*shape: int, dtype: Any = torch.float32) -> Packed:
    packed = pack_tensor(torch.ones(shape, dtype=dtype))
    return replace(packed, data=bytes(packed.data), more=NOTHING)


adapters = st.dictionaries(names, st.just(tensor(2, 3)), max_size=4)
rates = st.builds(PlannedRates, uplink_bps=st.floats(1.0, 1e10), downlink_bps=st.floats(1.0, 1e10))
BUILT: dict[type[Message], st.SearchStrategy[Message]] = {
    protocol.Hello: st.builds(protocol.Hello, version=st.just(__version__), device=st.just(records.DEVICE)),
    protocol.Welcome: st.builds(
        lambda n, sharing: protocol.Welcome(settings=replace(SETTINGS, rounds=n, server_sharing=sharing)),
        counts,
        st.sampled_from(("serial", "batched")),
    ),
    protocol.Ready: st.builds(
        protocol.Ready,
        tokenizer=texts,
        data=texts,
        dtype=texts,
        names=texts,
        rows=counts,
        held_out_rows=st.integers(0, 9),
        batch=st.none() | counts,
    ),
    protocol.Refused: st.builds(protocol.Refused, code=st.sampled_from(RefusalCode), message=texts, remedy=texts),
    protocol.RoundStart: st.builds(
        protocol.RoundStart,
        round=counts,
        cut=st.integers(3, 9),
        codec=st.sampled_from(("none", "dense:4")),
        link=st.none() | rates,
        frequency_hz=st.none() | st.floats(1e8, 3e9),
        sent_s=seconds,
        terms=terms,
        adapters=adapters,
    ),
    protocol.Activations: st.builds(
        protocol.Activations,
        round=counts,
        epoch=st.integers(0, 9),
        activation=st.just(tensor(2, 3, 4)),
        labels=st.just(tensor(2, 3, dtype=torch.int32)),
        step_tokens=counts,
        norms=norms,
    ),
    protocol.Gradients: st.builds(
        protocol.Gradients,
        round=counts,
        epoch=st.integers(0, 9),
        loss=seconds,
        arrived_s=seconds,
        sent_s=seconds,
        terms=terms,
        gradient=st.just(tensor(2, 3, 4)),
        norms=norms,
    ),
    protocol.AdaptersReturn: st.builds(
        protocol.AdaptersReturn,
        norms=norms,
        round=counts,
        sent_s=seconds,
        terms=terms,
        up_bytes=st.integers(0, 2**39),
        down_bytes=st.integers(0, 2**39),
        rtt_s=st.none() | st.floats(0.0, 10.0),
        reading=st.builds(
            DeviceReading,
            held_hz=st.none() | st.floats(1e8, 3e9),
            refusal=st.none() | texts,
            temperature_c=st.none() | st.floats(-40.0, 120.0),
            power_mode=st.none() | st.just("15W"),
            throttled=st.sampled_from((None, True, False)),
            power_w=st.none() | st.floats(0.0, 400.0),
        ),
        adapters=adapters,
    ),
    protocol.Evaluate: st.builds(
        protocol.Evaluate,
        round=st.integers(0, 9),
        cut=st.integers(3, 9),
        codec=st.sampled_from(("none", "dense:4")),
        adapters=adapters,
    ),
    protocol.HeldOut: st.builds(
        protocol.HeldOut,
        round=st.integers(0, 9),
        number=st.integers(0, 9),
        activation=st.just(tensor(2, 3, 4)),
        labels=st.just(tensor(2, 3, dtype=torch.int32)),
        mask=st.none() | st.just(tensor(2, 3, dtype=torch.int32)),
    ),
    protocol.Judged: st.builds(protocol.Judged, round=st.integers(0, 9), number=st.integers(0, 9), loss=seconds),
    protocol.Evaluated: st.builds(protocol.Evaluated, round=st.integers(0, 9), batches=counts),
    protocol.Stored: st.builds(protocol.Stored, round=counts, loss=seconds, delay_s=seconds),
    protocol.Abandoned: st.builds(protocol.Abandoned, round=st.none() | counts, reason=texts),
    protocol.End: st.builds(protocol.End, rounds=counts),
    protocol.Bye: st.builds(protocol.Bye, reason=texts),
    protocol.Probe: st.builds(protocol.Probe, size_bytes=st.integers(4, 2**28), payload=st.just(tensor(8))),
    protocol.ProbeAnswer: st.builds(
        protocol.ProbeAnswer, arrived_s=seconds, sent_s=seconds, payload=st.just(tensor(8))
    ),
}
# Beside values of another type, which are wrong for every fact: what is out of range, by fact.
OUT_OF_RANGE: dict[tuple[str, str], tuple[object, ...]] = {
    **{(kind, "round"): (0, -1, 2**40) for kind in ("round", "activations", "gradients", "adapters", "stored")},
    ("abandoned", "round"): (0, -1),
    ("round", "cut"): (0, -1, 2**40),
    ("activations", "epoch"): (-1, 2**40),
    ("gradients", "epoch"): (-1, 2**40),
    ("end", "rounds"): (0,),
    ("evaluate", "round"): (-1, 2**40),
    ("held_out", "number"): (-1, 2**40),
    ("evaluated", "batches"): (0, 2**40),
    ("ready", "rows"): (0, -1, 2**40),
    ("ready", "batch"): (0, -1),
    ("adapters", "up_bytes"): (-1, 2**41),
    ("adapters", "down_bytes"): (-1, 2**41),
    ("adapters", "rtt_s"): (-1e-3,),
    ("round", "frequency_hz"): (0, -1.0, 0.5),
    ("adapters", "reading"): tuple(
        to_plain(DeviceReading()) | wrong
        for wrong in (
            {"power_w": -1.0},
            {"energy_j": "x"},
            {"throttled": 1},
            {"power_mode": "x" * 81},
            {"refusal": 5},
            {"temperature_c": -300.0},
            {"more": 1},
        )
    ),
    ("probe", "size_bytes"): (0, 3, 2**28 + 1),
    ("round", "link"): ({}, {"uplink_bps": 1e6}, {"uplink_bps": 1e6, "downlink_bps": 0}, {"uplink_bps": "x"}),
    ("refused", "code"): ("takes part already", ""),
    ("hello", "device"): ({}, {"key": "k", "name": "", "platform": "cpu"}, {"key": "k", "name": 5, "platform": "cpu"}),
}
OPTIONAL = {
    ("activations", "norms"),
    ("gradients", "norms"),
    ("adapters", "norms"),
    ("abandoned", "round"),
    ("ready", "batch"),
    ("adapters", "rtt_s"),
    ("round", "link"),
    ("round", "frequency_hz"),
}
ANY = st.sampled_from(MESSAGES).flatmap(lambda kind: BUILT[kind])


def travelled(frame: Frame) -> Message:
    return decode([bytes(part) for part in pack_frame(frame)])


def wrong_values(kind: str, key: str) -> list[object]:
    found: list[object] = [[[]], [1, "a"], True, *OUT_OF_RANGE.get((kind, key), ())]
    if (kind, key) not in OPTIONAL:
        found.append(None)
    if key in ("terms", "link", "device", "settings"):
        found += ["text", 5, {"nothing": 1.0}]
    if key == "terms":
        found += [{"device": "x"}, {"device": None}, {"device": True}]
    if key in ("version", "code", "message", "remedy", "codec", "reason", "tokenizer", "data", "dtype", "names"):
        found += [5, {}, "x" * 5000]
    if key == "norms":
        found += [[-1.0], [float("1e301")], {"0": 1.0}, "1"]
    if key.endswith("_s") or key in (
        "round",
        "epoch",
        "cut",
        "loss",
        "rounds",
        "up_bytes",
        "down_bytes",
        "size_bytes",
        "step_tokens",
    ):
        found += ["1", {}, 10**400 if key in ("loss", "sent_s") else "x"]
    return found


def test_every_message_is_tried_here() -> None:
    assert set(BUILT) == set(MESSAGES) and len({m.KIND for m in MESSAGES}) == len(MESSAGES)


@settings(max_examples=300, deadline=None)
@given(message=ANY)
def test_every_message_comes_back_as_it_was(message: Message) -> None:
    assert decode([bytes(part) for part in encode(message)]) == message
    assert message.payload_bytes == sum(len(p.data) for p in message.tensors.values())


@settings(max_examples=100, deadline=None)
@given(message=ANY)
def test_every_wrong_fact_is_refused_by_its_code(message: Message) -> None:
    head = message.head()
    for key in head:
        for value in wrong_values(message.KIND, key):
            with pytest.raises(FrameError, match=key) as refused:
                travelled(Frame(message.KIND, {**head, key: value}, message.tensors))
            assert refused.value.code is RefusalCode.FIELD, (key, value)


@settings(max_examples=300, deadline=None)
@given(message=ANY, data=st.data())
def test_a_fact_that_is_missing_or_not_known_is_refused(message: Message, data: st.DataObject) -> None:
    head = message.head()
    spoiled: dict[str, object] = {**head, "more": 1}
    if len(head) > 0 and data.draw(st.booleans()):
        spoiled = dict(head)
        del spoiled[data.draw(st.sampled_from(sorted(head)))]
    with pytest.raises(FrameError) as refused:
        travelled(Frame(message.KIND, spoiled, message.tensors))
    assert refused.value.code is RefusalCode.FIELD


@settings(max_examples=300, deadline=None)
@given(message=ANY, data=st.data())
def test_a_tensor_that_is_missing_or_too_many_or_of_another_name_is_refused(
    message: Message, data: st.DataObject
) -> None:
    tensors = {**message.tensors, "more": tensor(2)}
    if message.tensors and message.TENSORS != ("adapters",) and data.draw(st.booleans()):
        tensors = dict(list(message.tensors.items())[1:])
    with pytest.raises(FrameError) as refused:
        travelled(Frame(message.KIND, message.head(), tensors))
    assert refused.value.code is RefusalCode.TENSOR


@pytest.mark.parametrize(
    ("kind", "name", "spoiled"),
    [
        (protocol.Activations, "activation", tensor(3)),
        (protocol.Activations, "labels", tensor(2, 3)),
        (protocol.Activations, "labels", tensor(2, 4, dtype=torch.int32)),
        (protocol.Gradients, "gradient", tensor(2, 3)),
        (protocol.RoundStart, "9/q.lora_A.default.weight", tensor(2, 3)),
        (protocol.RoundStart, "a/b", tensor(2, 3)),
        (protocol.AdaptersReturn, "0/q#momentum", tensor(2, 3)),
    ],
)
def test_a_tensor_of_another_rank_dtype_or_layer_is_refused(kind, name, spoiled) -> None:
    messages: dict[type[Message], Message] = {
        protocol.RoundStart: round_start(),
        protocol.AdaptersReturn: protocol.AdaptersReturn(
            round=1, up_bytes=0, down_bytes=0, rtt_s=None, adapters={}, sent_s=0.0, terms={}
        ),
        protocol.Activations: protocol.Activations(
            round=1, epoch=0, step_tokens=4, activation=tensor(2, 3, 4), labels=tensor(2, 3, dtype=torch.int32)
        ),
        protocol.Gradients: protocol.Gradients(
            round=1, epoch=0, loss=1.0, arrived_s=0.0, gradient=tensor(2, 3, 4), sent_s=0.0, terms={}
        ),
    }
    message = messages[kind]
    with pytest.raises(FrameError) as refused:
        travelled(Frame(message.KIND, message.head(), {**message.tensors, name: spoiled}))
    assert refused.value.code is RefusalCode.TENSOR


def round_start(**changes: Any) -> protocol.RoundStart:
    values = {"round": 1, "cut": 3, "codec": "none", "link": None, "sent_s": 0.0, "terms": {}, "adapters": {}}
    return protocol.RoundStart(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"rounds": 0}, RefusalCode.FIELD),
        ({"epochs": 0}, RefusalCode.FIELD),
        ({"learning_rate": 0.0}, RefusalCode.FIELD),
        ({"wire_dtype": "int8"}, RefusalCode.FIELD),
        ({"server_sharing": "both"}, RefusalCode.FIELD),
        ({"cut": 4}, RefusalCode.FIELD),
        ({"codec": "zip"}, RefusalCode.CODEC),
        ({"version": "0.0.1"}, RefusalCode.CARDLAB_VERSION),
    ],
    ids=str,
)
def test_a_run_that_cannot_be_is_refused(changes, code) -> None:
    with pytest.raises(RefusalError) as refused:
        decode(encode(protocol.Welcome(settings=replace(SETTINGS, **changes))))
    assert refused.value.code is code


def test_another_cardlab_is_named_before_what_it_may_say_otherwise() -> None:
    with pytest.raises(RefusalError, match="9.9") as refused:
        travelled(Frame("hello", {"version": "9.9", "device": {"a later field": 1}}))
    assert refused.value.code is RefusalCode.CARDLAB_VERSION


@pytest.mark.parametrize("version", [PROTOCOL - 1, PROTOCOL + 1, 999])
def test_another_version_of_the_protocol_is_named(version) -> None:
    parts = [bytearray(part) for part in encode(protocol.Ready())]
    parts[0][4:6] = version.to_bytes(2, "big")
    with pytest.raises(FrameError, match=f"protocol {version}, this one {PROTOCOL}") as refused:
        decode([bytes(p) for p in parts])
    assert refused.value.code is RefusalCode.PROTOCOL_VERSION


def test_a_kind_and_a_codec_that_nobody_knows_are_named() -> None:
    with pytest.raises(FrameError, match="'surprise'") as refused:
        travelled(Frame("surprise"))
    assert refused.value.code is RefusalCode.UNKNOWN_KIND
    with pytest.raises(FrameError, match="'zip'") as refused:
        decode(encode(round_start(codec="zip")))
    assert refused.value.code is RefusalCode.CODEC


def test_numbers_that_json_does_not_have_are_refused() -> None:
    for word in ("NaN", "Infinity", "-Infinity", "1e400"):
        (part, *_) = pack_frame(Frame("stored", {"round": 1, "loss": 123.5, "delay_s": 0.0}))
        head = bytes(part)[16:].replace(b"123.5", word.encode())
        value = json.loads(head)["head"]["loss"]
        assert not math.isfinite(value)
        with pytest.raises(FrameError) as refused:
            protocol.Stored.from_head(Facts("stored", {"round": 1, "loss": value, "delay_s": 0.0}), {})
        assert refused.value.code is RefusalCode.FIELD


def test_every_refusal_has_a_code_that_travels() -> None:
    assert code_of(NotFiniteError()) is RefusalCode.NOT_FINITE
    assert code_of(RunError("x", remedy="y")) is RefusalCode.FAILED
    for code in RefusalCode:
        back = decode(encode(protocol.Refused(code=code, message="m", remedy="r")))
        assert isinstance(back, protocol.Refused) and back.code is code


def test_every_fact_of_every_message_is_a_field_with_a_type() -> None:
    for kind in MESSAGES:
        assert kind.__doc__ and all(f.type not in ("Any", "object") for f in fields(kind))
    assert isinstance(records.DEVICE, Device)


def test_no_module_of_the_room_stands_in_a_circle() -> None:
    import ast

    import cardlab.split as room

    root = Path(str(room.__file__)).parent
    names = {p: p.relative_to(root).with_suffix("").parts for p in root.rglob("*.py")}
    modules = {".".join(("cardlab", "split", *parts)): path for path, parts in names.items()}
    imports = {}
    for name, path in modules.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        imports[name] = found & set(modules)
    # What nothing left over imports is taken away; circles remain.
    left = dict(imports)
    while free := [name for name in left if not left[name] & set(left)]:
        for name in free:
            del left[name]
    assert not left, sorted(left)
