"""A device of a split run: waits for its rounds and trains its layers on its own data.

It keeps nothing between rounds but frozen weights: adapters and optimizer state come with the round and go back at
its end. So a device that was killed is simply started again, and one that lost its server waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cardlab import __version__
from cardlab.core.errors import CardlabError, RunError
from cardlab.core.records.device import Device
from cardlab.core.records.training import DeviceReading
from cardlab.split.adapters import pack_adapters, unpack_adapters
from cardlab.split.batches import NO_LOSS, MiniBatch
from cardlab.split.codecs.base import Packed
from cardlab.split.codecs.registry import pack_tensor, unpack_tensor, warm_codec
from cardlab.split.device_transport import CONNECT_S, DeviceTransport
from cardlab.split.frequency import OwnReadings, Watched
from cardlab.split.laps import Laps, now_s
from cardlab.split.protocol import (
    Abandoned,
    Activations,
    AdaptersReturn,
    Bye,
    End,
    Evaluate,
    Evaluated,
    Gradients,
    HeldOut,
    Hello,
    Judged,
    Message,
    Ready,
    Refused,
    RoundStart,
    Stored,
    Welcome,
)
from cardlab.split.refusals import FrameError, NotFiniteError, RefusalCode, RefusalError
from cardlab.split.settings import Inputs, RunSettings, check_version
from cardlab.split.shaping import describe_rates
from cardlab.split.sockets import SILENCE_S, Arrived

if TYPE_CHECKING:
    from cardlab.split.halves import Half

_LOOK_S = 0.25
_MAX_REASON = 1000


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a device trains with.

    Attributes:
        half: its side of the model.
        batch: mini-batches by number.
        inputs: what those come from.
        held_out: mini-batches that it judges adapters by, each row once.
    """

    half: Half
    batch: Callable[[int], MiniBatch]
    inputs: Inputs = field(default_factory=Inputs)
    held_out: Callable[[], Iterator[MiniBatch]] = lambda: iter(())


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePatience:
    """How long a device waits, seconds.

    Attributes:
        connect_s: for a server that is not there yet.
        handshake_s: for what listens there to answer as a server.
        silence_s: without a pulse, before the server counts as lost.
        server_s: for a lost server to come back.
    """

    connect_s: float = CONNECT_S
    handshake_s: float = CONNECT_S
    silence_s: float = SILENCE_S
    server_s: float = 120.0


class _Abandoned(Exception):
    """The server gave this device's round up; join again."""


class _ServerLost(Exception):
    """The server is silent or was restarted."""


class _RunOver(Exception):
    """The server ended the run."""


@dataclass(slots=True)
class DeviceRun:
    """What a device did, for the person before it."""

    rounds: int = 0
    losses: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _DeviceRound:
    """A round in progress on the device.

    Attributes:
        offset_s: server's timer minus this one; one for the whole round, so that the terms add up to what passed.
        up_bytes, down_bytes: payload of its mini-batches.
        step: mini-batches of the step in progress, those to come first in line.
        step_tokens: of all of them, those with a loss.
        norms: of this side's gradients of the last step, where the server waits for them.
    """

    settings: RunSettings
    equipment: Equipment
    start: RoundStart
    offset_s: float
    laps: Laps
    up_bytes: int = 0
    down_bytes: int = 0
    step: list[MiniBatch] = field(default_factory=list)
    step_tokens: int = 0
    norms: tuple[float, ...] | None = None

    def next_batch(self, number: int) -> MiniBatch:
        """Mini-batch `number` of the run; all of a step are made at its begin, since each counts by its tokens."""
        if not self.step:
            self.step = [self.equipment.batch(number + later) for later in range(self.settings.accumulate)]
            self.step_tokens = sum(int((batch.labels[:, 1:] != NO_LOSS).sum()) for batch in self.step)
        return self.step.pop(0)


class SplitDevice:
    """Takes part in a run until its end.

    Args:
        transport: connecting already.
        description: who this device is; its name is its label in the run.
        equip: makes the equipment for the announced settings; raises RunError for a mismatch.
        readings: of this device's own frequency and power; None reads and holds nothing.
        note: is told what a person wants to know.
    """

    def __init__(
        self,
        transport: DeviceTransport,
        description: Device,
        equip: Callable[[RunSettings], Equipment],
        *,
        readings: OwnReadings | None = None,
        patience: DevicePatience | None = None,
        note: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._readings = readings
        self._transport, self._description, self._equip = transport, description, equip
        self._patience = patience or DevicePatience()
        self._note = note
        self._settings: RunSettings | None = None
        self._equipment: Equipment | None = None
        self._session: bytes | None = None
        self.done = DeviceRun()

    def run(self) -> DeviceRun:
        """Join and work; returns at the end of the run.

        Raises RunError: unreachable, refused, a mismatch, or a server that did not come back.
        """
        patience = self._patience
        self._transport.check_connected(now_s() + patience.connect_s, patience.handshake_s, self._note)
        joined = False
        while True:
            try:
                if not joined:
                    self._join()
                    joined = True
                came = self._wait(resting=True)
                if isinstance(came.message, RoundStart):
                    self._round(came.message, came.arrived_s)
                elif isinstance(came.message, Evaluate):
                    self._evaluate(came.message)
            except _RunOver:
                return self.done
            except _Abandoned:
                joined = False
            except _ServerLost:
                self._note("the server is silent; waiting for it")
                if self._readings is not None:
                    self._readings.rest()
                self._transport_back()
                joined = False

    def _join(self) -> None:
        """Hello, welcome, ready. A label that is still taken by a dead process becomes free after a while."""
        trying_s = max(self._patience.handshake_s, 2.0 * self._patience.silence_s)
        until_s, said = now_s() + trying_s, False
        while True:
            self._session = self._transport.session
            self._transport.send(Hello(version=__version__, device=self._description))
            try:
                # The server answers pulses while it still builds its model; it is given the time.
                came = self._wait(now_s() + self._patience.server_s, resting=True)
            except _Abandoned:
                continue
            except _ServerLost:
                self._transport_back()
                continue
            except RefusalError as refused:
                if refused.code is not RefusalCode.NAME_TAKEN or now_s() > until_s:
                    raise
                if not said:
                    self._note(f"{refused.message}; if that one has died, its place is free in up to {trying_s:g} s")
                    said = True
                self._transport.check_open(0.5)
                continue
            if isinstance(came.message, Welcome):
                break
        self._prepare(came.message.settings)
        self._transport.settle_timers()
        assert self._equipment is not None
        inputs = self._equipment.inputs
        self._transport.send(
            Ready(
                tokenizer=inputs.tokenizer,
                data=inputs.data,
                dtype=inputs.dtype,
                quantization=inputs.quantization,
                names=inputs.names[:_MAX_REASON],
                rows=inputs.rows,
                held_out_rows=inputs.held_out_rows,
                batch=inputs.batch,
            )
        )

    def _prepare(self, settings: RunSettings) -> None:
        # A run that goes on may have another learning rate, or another number of rounds to let it fall over.
        if self._equipment is not None and self._settings == settings:
            return
        try:
            check_version(settings.version)
            warm_codec(settings.codec)
            self._equipment = self._equip(settings)
        except CardlabError as error:
            self._leave(error)
            raise
        self._settings = settings

    def _leave(self, error: CardlabError) -> None:
        self._transport.send(Bye(reason=str(error)[:_MAX_REASON]))

    def _transport_back(self) -> None:
        """Wait until the server answers pulses again; RunError after `server_s`."""
        until_s = now_s() + self._patience.server_s
        while self._transport.silence_s() > min(1.0, self._patience.silence_s):
            if now_s() > until_s:
                raise RunError(
                    f"the server {self._transport.where} did not come back within {self._patience.server_s:g} s",
                    remedy="restart it with --resume, then start this device again",
                )
            self._transport.check_open(0.1)

    def _wait(self, until_s: float | None = None, *, resting: bool = False) -> Arrived:
        """The next message that asks for something: a welcome, the start of a round or gradients.

        `resting`: outside of a round, where a frequency is held no longer once nothing comes.

        Raises _ServerLost, _Abandoned, _RunOver, RefusalError for a refusal, FrameError for what no server sends, or
        RunError for nothing by `until_s`.
        """
        while True:
            try:
                came = self._transport.receive(_LOOK_S)
            except RefusalError as error:
                self._leave(error)
                raise
            if came is not None and self._is_asking(came.message):
                return came
            if came is None:
                if resting and self._readings is not None:
                    self._readings.rest()
                self._check_server(until_s)

    def _check_server(self, until_s: float | None) -> None:
        """Whether waiting makes sense still."""
        if self._transport.session != self._session or self._transport.silence_s() > self._patience.silence_s:
            raise _ServerLost
        if until_s is not None and now_s() > until_s:
            raise RunError(
                f"the server {self._transport.where} does not answer",
                remedy="see what it says; start it again with --resume",
            )

    def _is_asking(self, message: Message) -> bool:
        """Do what every message means wherever it comes; whether there is more to do for it."""
        match message:
            case Refused():
                raise RefusalError(message.message, code=message.code, remedy=message.remedy)
            case Abandoned():
                self._note(f"the server gave this round up: {message.reason}")
                raise _Abandoned
            case End():
                raise _RunOver
            case Stored():
                self.done.rounds += 1
                self._note(f"round {message.round} is stored: loss {message.loss:.4f}, {message.delay_s:.3f} s")
                return False
            case Welcome() | RoundStart() | Gradients() | Evaluate() | Judged():
                return True
            case _:
                error = FrameError(f"a message {message.KIND!r} came where none belongs", code=RefusalCode.OUT_OF_TURN)
                self._leave(error)
                raise error

    def _evaluate(self, asked: Evaluate) -> None:
        """Send all held-out rows through this side's layers, one mini-batch after the other."""
        settings, equipment = self._settings, self._equipment
        assert settings is not None and equipment is not None
        self._check_cut(asked.cut, settings)
        half = equipment.half
        half.set_cut(asked.cut)
        half.load(unpack_adapters(asked.adapters, settings.task, range(asked.cut)))
        batches = 0
        for batch in equipment.held_out():
            with half.judging():
                activation = half.forward(batch.ids, batch.rows)
            self._transport.send(
                HeldOut(
                    round=asked.round,
                    number=batches,
                    activation=pack_tensor(activation, asked.codec, settings.wire_dtype),
                    **_packed_rows(batch),
                )
            )
            self._judged(asked.round, batches)
            batches += 1
        self._transport.send(Evaluated(round=asked.round, batches=batches))

    def _judged(self, number: int, batch: int) -> None:
        """Wait until that mini-batch is judged; older answers are passed over."""
        while True:
            message = self._wait().message
            if isinstance(message, Judged) and (message.round, message.number) == (number, batch):
                return

    def _check_cut(self, cut: int, settings: RunSettings) -> None:
        last = settings.task.architecture.layers - 1
        # The message cannot know how many layers the model has.
        if cut > last:
            raise FrameError(f"a round came with cut {cut}, and the last is {last}", code=RefusalCode.FIELD)

    def _gradients_of(self, number: int, epoch: int) -> tuple[Gradients, float]:
        """The gradients of that mini-batch and when they came; older ones are passed over."""
        while True:
            try:
                came = self._wait()
            except _RunOver:
                raise RunError("the run ended in the middle of a round", remedy="see what the server says") from None
            message = came.message
            if isinstance(message, Gradients) and (message.round, message.epoch) == (number, epoch):
                return message, came.arrived_s

    def _round(self, start: RoundStart, arrived_s: float) -> None:
        settings, equipment = self._settings, self._equipment
        assert settings is not None and equipment is not None
        self._check_cut(start.cut, settings)
        said = describe_rates(self._transport.shape, start.link)
        if said is not None:
            self._note(f"round {start.round}: {said}")
        this = _DeviceRound(settings, equipment, start, self._transport.offset_s, Laps(0.0))
        laps, half = this.laps, equipment.half
        # What the server did before sending; its times are on its own timer.
        laps.merge(start.terms, start.sent_s - this.offset_s)
        laps.mark("adapters", arrived_s)
        with self._watched(start.frequency_hz) as watched:
            # Frozen layers come from the disk here, and the frequency is set; the adapters only after them.
            half.set_cut(start.cut)
            laps.mark("switch")
            half.load(unpack_adapters(start.adapters, settings.task, range(start.cut)))
            laps.mark("adapters")
            for epoch in range(settings.epochs):
                self._mini_batch(this, epoch)
                if watched is not None:
                    watched.look()
            packed = pack_adapters(half.export())
        laps.mark("adapters")
        answer = AdaptersReturn(
            round=start.round,
            sent_s=laps.last_s + this.offset_s,
            terms=laps.terms,
            up_bytes=this.up_bytes,
            down_bytes=this.down_bytes,
            rtt_s=self._transport.rtt_s,
            norms=this.norms,
            reading=DeviceReading() if watched is None else watched.reading,
            adapters=packed,
        )
        self._transport.send(answer)

    def _watched(self, frequency_hz: float | None) -> AbstractContextManager[Watched | None]:
        return nullcontext() if self._readings is None else self._readings.round(frequency_hz)

    def _mini_batch(self, this: _DeviceRound, epoch: int) -> None:
        """One forward and backward pass."""
        settings, half, laps, number = this.settings, this.equipment.half, this.laps, this.start.round
        half.clock.step = (number - 1) * settings.epochs + epoch
        batch = this.next_batch(half.clock.step)
        activation = half.forward(batch.ids, batch.rows)
        laps.mark("device")
        message = Activations(
            round=number,
            epoch=epoch,
            activation=pack_tensor(activation, this.start.codec, settings.wire_dtype),
            **_packed_rows(batch),
            step_tokens=this.step_tokens,
            norms=this.norms,
        )
        this.norms = None
        sent_s = self._transport.send(message)
        laps.mark("encode", sent_s)
        answer, back_s = self._gradients_of(number, epoch)
        _mark_link(laps, answer, back_s, this.offset_s)
        gradient = unpack_tensor(answer.gradient, tuple(activation.shape))
        laps.mark("decode")
        try:
            this.norms = half.backward(activation, gradient, answer.norms)
        except NotFiniteError as error:
            self._leave(error)
            raise
        laps.mark("device")
        self.done.losses.append(answer.loss)
        this.up_bytes += message.payload_bytes
        this.down_bytes += answer.payload_bytes


def _packed_rows(batch: MiniBatch) -> dict[str, Packed]:
    """Labels, and mask or positions where there are some, ready to travel."""
    import torch

    told = {"labels": batch.labels, "mask": batch.rows.mask, "positions": batch.rows.positions}
    # Token numbers fit in four bytes, and the server checks them against its vocabulary.
    return {name: pack_tensor(tensor.to(torch.int32)) for name, tensor in told.items() if tensor is not None}


def _mark_link(laps: Laps, answer: Gradients, back_s: float, offset_s: float) -> None:
    """From sending to receiving: up, what the server says of its own time, and down.

    How long both ways took together is known exactly; how it divides, to the error of the timers' offset.
    """
    both_s = max(0.0, back_s - laps.last_s - (answer.sent_s - answer.arrived_s))
    up_s = min(max(0.0, answer.arrived_s - offset_s - laps.last_s), both_s)
    laps.add("uplink", up_s)
    laps.add("downlink", both_s - up_s)
    laps.merge(answer.terms, back_s)
