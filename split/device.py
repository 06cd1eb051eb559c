"""A device of a split run: waits for its rounds and trains its layers on its own data.

It keeps nothing between rounds but frozen weights: adapters and optimizer state come with the round and go back at
its end. So a device that was killed is simply started again, and one that lost its server waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cardlab import __version__
from cardlab.core.errors import CardlabError, RunError
from cardlab.core.plain import to_plain
from cardlab.core.records.device import Device
from cardlab.split.adapters import pack_adapters, unpack_adapters
from cardlab.split.codec import FrameError, codec_named, pack_tensor, unpack_tensor, warm_codec
from cardlab.split.device_transport import CONNECT_S, DeviceTransport
from cardlab.split.frames import Message, number, text, whole
from cardlab.split.laps import Laps, now_s
from cardlab.split.settings import TERMS, WAITING, RunSettings, check_version, settings_from
from cardlab.split.shaping import words_of
from cardlab.split.sockets import SILENCE_S, Arrived

if TYPE_CHECKING:
    from cardlab.split.halves import Half

_LOOK_S = 0.25


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a device trains with: its half, and mini-batches by number."""

    half: Half
    batch: Callable[[int], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePatience:
    """How long a device waits, seconds: to connect, without a pulse, and for a lost server to come back."""

    connect_s: float = CONNECT_S
    silence_s: float = SILENCE_S
    server_s: float = 120.0


class _Abandoned(Exception):
    """The server gave this device's round up; be ready again."""


class _ServerLost(Exception):
    """The server is silent or was restarted."""


@dataclass(slots=True)
class DeviceRun:
    """What a device did, for the person before it."""

    rounds: int = 0
    losses: list[float] = field(default_factory=list)


class SplitDevice:
    """Takes part in a run until its end.

    Args:
        transport: connecting already.
        description: who this device is; its name is its label in the run.
        equip: makes the equipment for the announced settings; raises RunError for a mismatch.
        note: is told what a person wants to know.
    """

    def __init__(
        self,
        transport: DeviceTransport,
        description: Device,
        equip: Callable[[RunSettings], Equipment],
        *,
        patience: DevicePatience | None = None,
        note: Callable[[str], None] = lambda _text: None,
    ) -> None:
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
        self._transport.check_connected(now_s() + self._patience.connect_s)
        self._join()
        while True:
            try:
                message = self._wait()
                if message.message.kind == "end":
                    return self.done
                if message.message.kind == "round":
                    self._round(message)
                elif message.message.kind == "stored":
                    self._stored(message.message)
            except _Abandoned:
                self._join()
            except _ServerLost:
                self._note("the server is silent; waiting for it")
                self._transport_back()
                self._join()

    def _join(self) -> None:
        """Hello, welcome, ready. A label that is still taken by a dead process becomes free after a while."""
        until_s = now_s() + max(self._patience.connect_s, 2.0 * self._patience.silence_s)
        while True:
            self._session = self._transport.session
            head = {"version": __version__, "device": to_plain(self._description)}
            self._transport.send(Message("hello", head))
            try:
                # The server answers pulses while it still builds its model; it is given the time.
                welcome = self._wait(now_s() + self._patience.server_s)
            except _Abandoned:
                continue
            except _ServerLost:
                self._transport_back()
                continue
            except _Refused as refused:
                if "takes part already" not in refused.message or now_s() > until_s:
                    raise
                self._transport.stop_waiting.wait(0.5)
                continue
            if welcome.message.kind == "welcome":
                break
        self._prepare(settings_from(welcome.message.head.get("settings")))
        self._transport.settle_clocks()
        self._transport.send(Message("ready"))

    def _prepare(self, settings: RunSettings) -> None:
        known = self._settings
        if known is not None and self._equipment is not None and known.run == settings.run:
            return
        try:
            check_version(settings.version)
            warm_codec(settings.codec)
            self._equipment = self._equip(settings)
        except CardlabError as error:
            self._transport.send(Message("bye", {"reason": str(error)}))
            raise
        self._settings = settings

    def _transport_back(self) -> None:
        """Wait until the server answers pulses again; RunError after `server_s`."""
        until_s = now_s() + self._patience.server_s
        while self._transport.silence_s() > min(1.0, self._patience.silence_s):
            if now_s() > until_s:
                raise RunError(
                    f"the server {self._transport.where} did not come back within {self._patience.server_s:g} s",
                    remedy="restart it with --resume, then start this device again",
                )
            self._transport.stop_waiting.wait(0.1)

    def _wait(self, until_s: float | None = None) -> Arrived:
        """The next message. Raises _ServerLost, _Abandoned, or RunError for a refusal or nothing by `until_s`."""
        while True:
            came = self._transport.receive(_LOOK_S)
            if came is None:
                if self._transport.session != self._session or self._transport.silence_s() > self._patience.silence_s:
                    raise _ServerLost
                if until_s is not None and now_s() > until_s:
                    raise RunError(
                        f"the server {self._transport.where} does not answer",
                        remedy="see what it says; start it again with --resume",
                    )
                continue
            if came.message.kind == "refused":
                head = came.message.head
                raise _Refused(str(head.get("message"))[:1000], remedy=str(head.get("remedy"))[:1000])
            if came.message.kind == "abandoned":
                self._note(f"the server gave this round up: {came.message.head.get('reason')}")
                raise _Abandoned
            return came

    def _wait_for_gradients(self, round_number: int, epoch: int) -> Arrived:
        while True:
            came = self._wait()
            head: Mapping[str, Any] = came.message.head
            if came.message.kind == "gradients" and (head.get("round"), head.get("epoch")) == (round_number, epoch):
                return came
            if came.message.kind == "end":
                raise RunError("the run ended in the middle of a round", remedy="see what the server says")

    def _round(self, came: Arrived) -> None:
        settings, equipment = self._settings, self._equipment
        assert settings is not None and equipment is not None
        head = came.message.head
        round_number, cut = whole(head, "round", 1), whole(head, "cut", 1, settings.task.architecture.layers - 1)
        codec = codec_named(text(head, "codec")).name
        said = words_of(self._transport.shape, head)
        if said is not None:
            self._note(f"round {round_number}: {said}")
        # One offset for the whole round, so that the terms add up to what passed.
        offset_s = self._transport.offset_s
        laps = Laps(0.0)
        laps.merge(_times(head), number(head, "sent_s") - offset_s)
        laps.mark("adapters", came.arrived_s)
        adapters = unpack_adapters(came.message.tensors, settings.task, range(cut))
        laps.mark("adapters")
        equipment.half.set_cut(cut)
        laps.mark("switch")
        equipment.half.load(adapters)
        laps.mark("adapters")
        up_bytes = down_bytes = 0
        for epoch in range(settings.epochs):
            sent, received = self._mini_batch(settings, equipment, codec, round_number, epoch, offset_s, laps)
            up_bytes, down_bytes = up_bytes + sent, down_bytes + received
        tensors = pack_adapters(equipment.half.export())
        laps.mark("adapters")
        answer = {
            "round": round_number,
            "terms": laps.terms,
            "sent_s": laps.last_s + offset_s,
            "up_bytes": up_bytes,
            "down_bytes": down_bytes,
            "rtt_s": self._transport.rtt_s,
        }
        self._transport.send(Message("adapters", answer, tensors))

    def _mini_batch(
        self,
        settings: RunSettings,
        equipment: Equipment,
        codec: str,
        round_number: int,
        epoch: int,
        offset_s: float,
        laps: Laps,
    ) -> tuple[int, int]:
        """One forward and backward pass; payload bytes up and down."""
        ids = equipment.batch((round_number - 1) * settings.epochs + epoch)
        activation = equipment.half.forward(ids)
        laps.mark("device")
        import torch

        tensors = {
            "activation": pack_tensor(activation, codec, settings.wire_dtype),
            "labels": pack_tensor(ids.to(torch.int32)),
        }
        message = Message("activations", {"round": round_number, "epoch": epoch}, tensors)
        sent_s = self._transport.send(message)
        laps.mark("encode", sent_s)
        came = self._wait_for_gradients(round_number, epoch)
        head = came.message.head
        _mark_link(laps, head, came.arrived_s, offset_s)
        if set(came.message.tensors) != {"gradient"}:
            raise FrameError("gradients came without a gradient")
        gradient = unpack_tensor(came.message.tensors["gradient"], tuple(activation.shape))
        laps.mark("decode")
        equipment.half.backward(activation, gradient)
        laps.mark("device")
        self.done.losses.append(number(head, "loss"))
        return message.payload_bytes, came.message.payload_bytes

    def _stored(self, message: Message) -> None:
        self.done.rounds += 1
        self._note(
            f"round {whole(message.head, 'round')} is stored: loss {number(message.head, 'loss'):.4f},"
            f" {number(message.head, 'delay_s'):.3f} s"
        )


class _Refused(RunError):
    """The server said no."""


def _mark_link(laps: Laps, head: Mapping[str, Any], back_s: float, offset_s: float) -> None:
    """From sending to receiving: up, what the server says of its own time, and down.

    How long both ways took together is known exactly; how it divides, to the error of the clocks' offset.
    """
    arrived_s, sent_s = number(head, "arrived_s"), number(head, "sent_s")
    both_s = max(0.0, back_s - laps.last_s - (sent_s - arrived_s))
    up_s = min(max(0.0, arrived_s - offset_s - laps.last_s), both_s)
    laps.add("uplink", up_s)
    laps.add("downlink", both_s - up_s)
    laps.merge(_times(head), back_s)


def _times(head: Mapping[str, Any]) -> dict[str, float]:
    sent = head.get("terms")
    if not isinstance(sent, dict) or not set(sent) <= {*TERMS, WAITING}:
        raise FrameError("the server sent no times")
    return {term: number(sent, term) for term in sent}
