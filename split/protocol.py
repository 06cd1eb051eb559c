"""What server and device say to each other: one class for each message, with what its facts may be.

    device                                   server
    Hello            ──▶                            who I am, what I hold
                     ◀──   Welcome                  the run
    Ready            ──▶                            model built, and what it trains with
                     ◀──   RoundStart               cut and device-side adapters             stage 1
    Activations      ──▶                            smashed data and labels                  stage 2     } T times
                     ◀──   Gradients                gradients and loss                       stages 3, 4 }
    AdaptersReturn   ──▶                            adapters back after T mini-batches       stage 5
                     ◀──   Stored                   the round is kept
                     ◀──   Evaluate                 judge the round's adapters by held-out rows
    HeldOut          ──▶                            smashed data and labels of those             } until all are
                     ◀──   Judged                   their loss                                   } judged
    Evaluated        ──▶                            all were sent
                     ◀──   Abandoned                your round was given up; join again
                     ◀──   Refused                  why not, by code, and what to do
    Bye              ──▶                            I leave
                     ◀──   End                      the run is over
    Probe            ──▶   ProbeAnswer              bytes to time a link with

`encode` and `decode` are the only way to bytes and back. A message is refused (`FrameError`, with a code) when a fact
is missing, of another type, out of range or not known, and when its tensors have the wrong names or ranks. What depends
on the run (shapes, the round that is due) is checked by whoever knows it. Times are on the sender's own timer, in
seconds; rates are bit/s.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar

from cardlab.core.errors import RunError
from cardlab.core.plain import from_plain, to_plain
from cardlab.core.records.device import Device
from cardlab.core.records.plan import SHARINGS
from cardlab.core.records.training import DeviceReading
from cardlab.split.codecs.base import WIRE_BYTES, Buffer, Packed
from cardlab.split.codecs.registry import codec_named
from cardlab.split.facts import Facts
from cardlab.split.frames import Frame, pack_frame, unpack_frame
from cardlab.split.rates import SCHEDULES
from cardlab.split.refusals import FrameError, RefusalCode, TensorError
from cardlab.split.settings import AUTOCASTS, Inputs, RunSettings, check_version
from cardlab.split.shaping import PlannedRates

MAX_PROBE_BYTES = 2**28
_MAX_BYTES = 2**40
# LAYER/PARAMETER, and #MOMENT behind it for the state of the optimizer.
_ADAPTER = re.compile(r"^(\d{1,6})/[^#/]+(?:#(?:exp_avg|exp_avg_sq|step))?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(ABC):
    """One thing that one side says to the other.

    Attributes:
        KIND: its name on the wire.
        TENSORS: names of the fields that are tensors; all others are facts of the head.
    """

    KIND: ClassVar[str]
    TENSORS: ClassVar[tuple[str, ...]] = ()

    @property
    def tensors(self) -> Mapping[str, Packed]:
        """Its tensors by their name on the wire."""
        return {name: getattr(self, name) for name in self.TENSORS}

    @property
    def payload_bytes(self) -> int:
        """Bytes of its tensors."""
        return sum(len(packed.data) for packed in self.tensors.values())

    def head(self) -> dict[str, object]:
        """Its facts as plain JSON."""
        return {f.name: to_plain(getattr(self, f.name)) for f in fields(self) if f.name not in self.TENSORS}

    @classmethod
    @abstractmethod
    def from_head(cls, facts: Facts, tensors: Mapping[str, Packed]) -> Message:
        """The message of these facts and tensors; FrameError for what cannot be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Message):
    """A device says who it is. `version`: of its cardlab."""

    KIND = "hello"
    version: str
    device: Device

    @classmethod
    def from_head(cls, facts: Facts, tensors: Mapping[str, Packed]) -> Hello:
        """As `Message.from_head`; another version is refused before what may have changed with it is read."""
        _named(cls, tensors)
        version = facts.text("version")
        check_version(version)
        plain = facts.take("device")
        try:
            device = from_plain(Device, plain)
        except (ValueError, TypeError) as error:
            raise facts.wrong("device", f"no description of a device: {error}") from error
        # The label is what a run, its journal and its plan know the device by.
        if not device.name or not device.key:
            raise facts.wrong("device", "without name or key")
        return cls(version=version, device=device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome(Message):
    """The server announces the run."""

    KIND = "welcome"
    settings: RunSettings

    @classmethod
    def from_head(cls, facts: Facts, tensors: Mapping[str, Packed]) -> Welcome:
        """As `Message.from_head`; another version is refused before what may have changed with it is read."""
        _named(cls, tensors)
        plain = facts.take("settings")
        version = plain.get("version") if isinstance(plain, dict) else None
        # Another version may have other settings: say that instead of what they lack.
        if isinstance(version, str):
            check_version(version)
        try:
            settings = from_plain(RunSettings, plain)
        except (ValueError, TypeError) as error:
            raise facts.wrong("settings", f"no run: {error}") from error
        _check_settings(facts, settings)
        return cls(settings=settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Message):
    """A device has built its model and waits for a round; what it trains with, as `Inputs` has it."""

    KIND = "ready"
    tokenizer: str = ""
    data: str = ""
    dtype: str = ""
    quantization: str = ""
    names: str = ""
    rows: int = 1
    held_out_rows: int = 0
    batch: int | None = None

    @property
    def inputs(self) -> Inputs:
        """What the device trains with."""
        return Inputs(
            tokenizer=self.tokenizer,
            data=self.data,
            dtype=self.dtype,
            quantization=self.quantization,
            names=self.names,
            rows=self.rows,
            held_out_rows=self.held_out_rows,
            batch=self.batch,
        )

    @classmethod
    def from_head(cls, facts: Facts, tensors: Mapping[str, Packed]) -> Ready:
        """As `Message.from_head`."""
        _named(cls, tensors)
        return cls(
            tokenizer=facts.text("tokenizer"),
            data=facts.text("data"),
            dtype=facts.text("dtype"),
            quantization=facts.text("quantization"),
            names=facts.text("names"),
            rows=facts.whole("rows", 1),
            held_out_rows=facts.whole("held_out_rows"),
            batch=facts.optional_whole("batch", 1),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Message):
    """The server says no. `message` and `remedy` are for people, `code` is for the other side."""

    KIND = "refused"
    code: RefusalCode
    message: str
    remedy: str

    @classmethod
    def from_head(cls, facts: Facts, tensors: Mapping[str, Packed]) -> Refused:
        """As `Message.from_head`."""
        _named(cls, tensors)
        code = facts.text("code")
        if code not in {known.value for known in RefusalCode}:
            raise facts.wrong("code", f"{code[:40]!r}, no reason")
        return cls(code=RefusalCode(code), message=facts.text("message"), remedy=facts.text("remedy"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundStart(Message):
    """A round begins: the device gets its cut and its layers' adapters.

    Attributes:
        codec: of smashed data and gradients in this round.
        link: what the plan gives this device's link, None where it gives nothing.
        frequency_hz: what the device is to hold, None for as it is.
        sent_s, terms: when it was sent, and what passed before by term.
        adapters: of layers 0..cut-1, by "LAYER/PARAMETER" and "LAYER/PARAMETER#MOMENT".
    """

    KIND = "round"
    TENSORS = ("adapters",)
    round: int
    cut: int
    codec: str
    link: PlannedRates | None
    frequency_hz: float | None = None
    sent_s: float
    terms: Mapping[str, float]
    adapters: Mapping[str, Packed]

    def __post_init__(self) -> None:
        if _last_layer(self.adapters) >= self.cut:
            raise TensorError(f"a round of cut {self.cut} came with adapters of layer {_last_layer(self.adapters)}")

    @property
    def tensors(self) -> Mapping[str, Packed]:
        """The adapters."""
        return self.adapters

    @classmethod
    def from_head(cls, facts: Facts, tensors: Mapping[str, Packed]) -> RoundStart:
        """As `Message.from_head`."""
        number, cut, codec = facts.whole("round", 1), facts.whole("cut", 1), facts.text("codec")
        _check_codec(facts, "codec", codec)
        return cls(
            round=number,
            cut=cut,
            codec=codec,
            link=facts.rates("link"),
            frequency_hz=facts.optional_number("frequency_hz", 1.0),
            sent_s=facts.number("sent_s"),
            terms=facts.terms("terms"),
            adapters=dict(tensors),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SmashedRows(Message):
    """Smashed data [B, S, h] and labels [B, S] of one mini-batch.

    Attributes:
        labels: token numbers, -100 where there is no loss.
        mask: 1 for a token and 0 for padding [B, S], None where there is none.
        positions: of each token in its own sample [B, S], None where each row is one sample.
    """

    TENSORS = ("activation", "labels", "mask", "positions")
    round: int
    activation: Packed
    labels: Packed
    mask: Packed | None = None
    positions: Packed | None = None

    def __post_init__(self) -> None:
        _check_rank("activation", self.activation, 3)
        for name, packed in self.tensors.items():
            if name != "activation":
                _check_rank(name, packed, 2)
                if packed.dtype != "int32" or packed.shape != self.activation.shape[:2]:
                    raise TensorError(f"{name} {packed.dtype} {packed.shape} came with {self.activation.shape}")
        # transformers looks for packed samples only where there is no mask.
        if self.mask is not None and self.positions is not None:
            raise TensorError("a mask came beside positions")

    @property
    def tensors(self) -> Mapping[str, Packed]:
        """Those that it has, by name."""
        found = {name: getattr(self, name) for name in self.TENSORS}
        return {name: packed for name, packed in found.items() if packed is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations(SmashedRows):
    """A mini-batch to train on; `epoch` counts from 0 in each round.

    Attributes:
        step_tokens: tokens with a loss in all mini-batches of this one's step.
        norms: of the device's gradients of the step before, where that is clipped and so waits for them.
    """

    KIND = "activations"
    epoch: int
    step_tokens: int
    norms: tuple[float, ...] | None = None

    @classmethod
    def from_head(cls, facts: Facts, tensors: Mapping[str, Packed]) -> Activations:
        """As `Message.from_head`."""
        _named(cls, tensors, optional=("mask", "positions"))
        number, epoch, tokens = facts.whole("round", 1), facts.whole("epoch"), facts.whole("step_tokens", 1)
        return cls(round=number, epoch=epoch, step_tokens=tokens, norms=facts.norms("norms"), **tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients(Message):
    """The gradient [B, S, h] of one mini-batch and its loss.

    Attributes:
        arrived_s, sent_s: when the smashed data came and when this was sent, on the server's timer.
        terms: what passed between them.
        norms: of the server's gradients, where a step is clipped that ends with this mini-batch.
    """

    KIND = "gradients"
    TENSORS = ("gradient",)
    round: int
    epoch: int
    loss: float
    norms: tuple[float, ...] | None = None
    arrived_s: float
    sent_s: float
    terms: Mapping[str, float]
    gradient: Packed

    def __post_init__(self) -> None:
        _check_rank("gradient", self.gradient, 3)

    @classmethod
    def from_head(cls, facts: Facts, tensors: Mapping[str, Packed]) -> Gradients:
        """As `Message.from_head`."""
        (gradient,) = _named(cls, tensors)
        return cls(
            round=facts.whole("round", 1),
            epoch=facts.whole("epoch"),
            loss=facts.number("loss"),
            norms=facts.norms("norms"),
            arrived_s=facts.number("arrived_s"),
            sent_s=facts.number("sent_s"),
            terms=facts.terms("terms"),
            gradient=gradient,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptersReturn(Message):
    """The device's adapters come back at the end of a round.

    Attributes:
        sent_s, terms: when it was sent, on the server's timer, and what passed before by term.
        up_bytes, down_bytes: payload of the round's mini-batches.
        rtt_s: shortest round trip seen, None before the first.
        norms: of the device's gradients of the last step, as those of `Activations`.
        reading: what the device read of itself over the round.
        adapters: as those of `RoundStart`.
    """

    KIND = "adapters"
    TENSORS = ("adapters",)
    round: int
    sent_s: float
    terms: Mapping[str, float]
    up_bytes: int
    down_bytes: int
    rtt_s: float | None
    norms: tuple[float, ...] | None = None
    reading: DeviceReading = field(default_factory=DeviceReading)
    adapters: Mapping[str, Packed]

    def __post_init__(self) -> None:
        _last_layer(self.adapters)

    @property
    def tensors(self) -> Mapping[str, Packed]:
        """The adapters."""
        return self.adapters

    @classmethod
    def from_head(cls, facts: Facts, tensors: Mapping[str, Packed]) -> AdaptersReturn:
        """As `Message.from_head`."""
        return cls(
            round=facts.whole("round", 1),
            sent_s=facts.number("sent_s"),
            terms=facts.terms("terms"),
            up_bytes=facts.whole("up_bytes", 0, _MAX_BYTES),
            down_bytes=facts.whole("down_bytes", 0, _MAX_BYTES),
            rtt_s=facts.optional_number("rtt_s", 0.0),
            norms=facts.norms("norms"),
            reading=facts.reading("reading"),
            adapters=dict(tensors),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate(Message):
    """The device is to judge the adapters after a round (0: before the first) by its held-out rows.

    Attributes:
        codec: of smashed data.
        adapters: of layers 0..cut-1, without the optimizer's state.
    """

    KIND = "evaluate"
    TENSORS = ("adapters",)
    round: int
    cut: int
    codec: str
    adapters: Mapping[str, Packed]

    def __post_init__(self) -> None:
        if _last_layer(self.adapters) >= self.cut:
            raise TensorError(f"layers up to {self.cut} came with adapters of layer {_last_layer(self.adapters)}")

    @property
    def tensors(self) -> Mapping[str, Packed]:
        """The adapters."""
        return self.adapters

    @classmethod
    def from_head(cls, facts: Facts, tensors: Mapping[str, Packed]) -> Evaluate:
        """As `Message.from_head`."""
        number, cut, codec = facts.whole("round"), facts.whole("cut", 1), facts.text("codec")
        _check_codec(facts, "codec", codec)
        return cls(round=number, cut=cut, codec=codec, adapters=dict(tensors))


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut(SmashedRows):
    """A mini-batch to judge by; `number` counts from 0 in each evaluation."""

    KIND = "held_out"
    number: int

    @classmethod
    def from_head(cls, facts: Facts, tensors: Mapping[str, Packed]) -> HeldOut:
        """As `Message.from_head`."""
        _named(cls, tensors, optional=("mask", "positions"))
        return cls(round=facts.whole("round"), number=facts.whole("number"), **tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged(Message):
    """The mean loss of one mini-batch of held-out rows; the device may send the next."""

    KIND = "judged"
    round: int
    number: int
    loss: float

    @classmethod
    def from_head(cls, facts: Facts, tensors: Mapping[str, Packed]) -> Judged:
        """As `Message.from_head`."""
        _named(cls, tensors)
        return cls(round=facts.whole("round"), number=facts.whole("number"), loss=facts.number("loss"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated(Message):
    """All held-out rows were sent, in that many mini-batches."""

    KIND = "evaluated"
    round: int
    batches: int

    @classmethod
    def from_head(cls, facts: Facts, tensors: Mapping[str, Packed]) -> Evaluated:
        """As `Message.from_head`."""
        _named(cls, tensors)
        return cls(round=facts.whole("round"), batches=facts.whole("batches", 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored(Message):
    """The round is on the server's disk."""

    KIND = "stored"
    round: int
    loss: float
    delay_s: float

    @classmethod
    def from_head(cls, facts: Facts, tensors: Mapping[str, Packed]) -> Stored:
        """As `Message.from_head`."""
        _named(cls, tensors)
        return cls(round=facts.whole("round", 1), loss=facts.number("loss"), delay_s=facts.number("delay_s"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned(Message):
    """The server gave this device up: it joins again. `round`: None where it had none; `reason` is for people."""

    KIND = "abandoned"
    round: int | None
    reason: str

    @classmethod
    def from_head(cls, facts: Facts, tensors: Mapping[str, Packed]) -> Abandoned:
        """As `Message.from_head`."""
        _named(cls, tensors)
        return cls(round=facts.optional_whole("round", 1), reason=facts.text("reason"))


@dataclass(frozen=True, slots=True, kw_only=True)
class End(Message):
    """The run is over after that many rounds."""

    KIND = "end"
    rounds: int

    @classmethod
    def from_head(cls, facts: Facts, tensors: Mapping[str, Packed]) -> End:
        """As `Message.from_head`."""
        _named(cls, tensors)
        return cls(rounds=facts.whole("rounds", 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bye(Message):
    """A device leaves; `reason` is for people."""

    KIND = "bye"
    reason: str

    @classmethod
    def from_head(cls, facts: Facts, tensors: Mapping[str, Packed]) -> Bye:
        """As `Message.from_head`."""
        _named(cls, tensors)
        return cls(reason=facts.text("reason"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe(Message):
    """Bytes to time the way up with; as many are to come back."""

    KIND = "probe"
    TENSORS = ("payload",)
    size_bytes: int
    payload: Packed

    @classmethod
    def from_head(cls, facts: Facts, tensors: Mapping[str, Packed]) -> Probe:
        """As `Message.from_head`."""
        (payload,) = _named(cls, tensors)
        return cls(size_bytes=facts.whole("size_bytes", 4, MAX_PROBE_BYTES), payload=payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeAnswer(Message):
    """Bytes to time the way down with; when the probe came and when this was sent, on the server's timer."""

    KIND = "probe_answer"
    TENSORS = ("payload",)
    arrived_s: float
    sent_s: float
    payload: Packed

    @classmethod
    def from_head(cls, facts: Facts, tensors: Mapping[str, Packed]) -> ProbeAnswer:
        """As `Message.from_head`."""
        (payload,) = _named(cls, tensors)
        return cls(arrived_s=facts.number("arrived_s"), sent_s=facts.number("sent_s"), payload=payload)


MESSAGES: tuple[type[Message], ...] = (
    Hello,
    Welcome,
    Ready,
    Refused,
    RoundStart,
    Activations,
    Gradients,
    AdaptersReturn,
    Evaluate,
    HeldOut,
    Judged,
    Evaluated,
    Stored,
    Abandoned,
    End,
    Bye,
    Probe,
    ProbeAnswer,
)
_BY_KIND = {message.KIND: message for message in MESSAGES}


def encode(message: Message) -> list[Buffer]:
    """The parts that travel."""
    return pack_frame(Frame(message.KIND, message.head(), message.tensors))


def decode(parts: Sequence[Buffer]) -> Message:
    """The message of these parts. Raises FrameError (RefusalError for another version of cardlab)."""
    frame = unpack_frame(parts)
    kind = _BY_KIND.get(frame.kind)
    if kind is None:
        raise FrameError(f"a message came of the unknown kind {frame.kind[:40]!r}", code=RefusalCode.UNKNOWN_KIND)
    facts = Facts(frame.kind, frame.head)
    message = kind.from_head(facts, frame.tensors)
    facts.close()
    return message


def _named(kind: type[Message], tensors: Mapping[str, Packed], optional: tuple[str, ...] = ()) -> tuple[Packed, ...]:
    """The tensors of a message that has exactly those of its class, but for the optional ones, in their order."""
    if not set(kind.TENSORS) - set(optional) <= set(tensors) <= set(kind.TENSORS):
        raise TensorError(f"a message {kind.KIND!r} came with the tensors {[n[:40] for n in sorted(tensors)[:5]]}")
    return tuple(tensors[name] for name in kind.TENSORS if name in tensors)


def _check_rank(name: str, packed: Packed, rank: int) -> None:
    if len(packed.shape) != rank:
        raise TensorError(f"{name} came with the shape {packed.shape}")


def _last_layer(adapters: Mapping[str, Packed]) -> int:
    """The highest layer of these adapters, -1 without any; TensorError for a name that is none."""
    last = -1
    for name in adapters:
        match = _ADAPTER.match(name)
        if match is None:
            raise TensorError(f"adapters came with the unexpected tensor {name[:80]!r}")
        last = max(last, int(match[1]))
    return last


def _check_codec(facts: Facts, key: str, name: str) -> None:
    try:
        codec_named(name)
    except RunError as error:
        raise facts.wrong(key, f"{name[:40]!r}, no codec", RefusalCode.CODEC) from error


def _check_settings(facts: Facts, settings: RunSettings) -> None:
    """What a run cannot be, whatever its model is."""
    rate = settings.learning_rate
    last = settings.task.architecture.layers - 1
    for wrong, why in (
        (min(settings.rounds, settings.epochs) < 1, "a run without rounds"),
        (not 0.0 < rate < float("inf"), f"a run with the learning rate {rate:g}"),
        (settings.schedule not in SCHEDULES, f"a run with the schedule {settings.schedule[:40]!r}"),
        (settings.warmup_steps < 0, f"a run with {settings.warmup_steps} warm-up steps"),
        (not 0.0 <= settings.weight_decay < float("inf"), f"a run with the decay {settings.weight_decay:g}"),
        (
            settings.accumulate < 1 or settings.epochs % max(settings.accumulate, 1) != 0,
            f"a run of {settings.epochs} mini-batches a round and {settings.accumulate} a step",
        ),
        (
            settings.max_grad_norm is not None and not 0.0 < settings.max_grad_norm < float("inf"),
            f"a run clipped to {settings.max_grad_norm}",
        ),
        (settings.eval_every < 1, f"a run judged every {settings.eval_every} rounds"),
        (settings.patience is not None and settings.patience < 1, f"a run with the patience {settings.patience}"),
        (settings.participants is not None and settings.participants < 1, "a run without participants"),
        (
            settings.deadline_s is not None and not 0.0 < settings.deadline_s < float("inf"),
            f"a run with the deadline {settings.deadline_s}",
        ),
        (not all(1 <= cut <= last for cut in settings.cuts.values()), "a run with cuts outside the model"),
        (settings.autocast not in (None, *AUTOCASTS), f"a run with the autocast {str(settings.autocast)[:40]!r}"),
        (settings.wire_dtype not in WIRE_BYTES, f"a run with the wire dtype {settings.wire_dtype[:40]!r}"),
        (settings.server_sharing not in SHARINGS, f"a run with the sharing {settings.server_sharing[:40]!r}"),
        (settings.cut is not None and not 1 <= settings.cut <= last, f"a run with the cut {settings.cut}"),
    ):
        if wrong:
            raise facts.wrong("settings", why)
    _check_codec(facts, "settings.codec", settings.codec)
