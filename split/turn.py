"""One device's round, the server's part (stages 1 to 5 of the framework).

    start                     cut and clock set, device-side adapters sent down              stage 1
    activations  x T          decode, forward and backward from the cut, gradient sent       stages 2-4
    adapters                  the device's adapters come back: the turn is finished          stage 5

A turn works on a copy of the adapters. Nothing outside it changes until it is finished, so a device that dies in
any stage takes only its own round with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from cardlab.core.errors import RunError
from cardlab.core.plain import to_plain
from cardlab.core.records.device import Device
from cardlab.split.adapters import AdapterSet, copied, pack_adapters, size_bytes, unpack_adapters
from cardlab.split.codec import FrameError, pack_tensor, unpack_tensor
from cardlab.split.codecs.feedback import ErrorFeedback
from cardlab.split.frames import Message, number, whole
from cardlab.split.journal import FinishedTurn
from cardlab.split.laps import Laps, now_s
from cardlab.split.schedule import Assignment
from cardlab.split.settings import TERMS, WAITING, RunSettings

if TYPE_CHECKING:
    from cardlab.split.halves import Half, ServerStep


class NotFiniteError(RunError):
    """A loss that is infinite or NaN; `places`: of the mini-batches that gave it."""

    def __init__(self, places: tuple[int, ...] = (0,)) -> None:
        super().__init__("the loss is not finite", remedy="lower --learning-rate, or look at the data")
        self.places = places


class Holder(Protocol):
    """Whose adapters the half may hold: a turn's, or those that the turns of a round share."""

    adapters: AdapterSet
    active: bool

    @property
    def cut(self) -> int:
        """Layers on the device."""


class Workplace:
    """The server's half of the model, shared by the turns; each brings its own adapters."""

    def __init__(self, half: Half) -> None:
        self.half = half
        self._holder: Holder | None = None

    def give(self, holder: Holder) -> None:
        """Let the half hold that one's cut and adapters; those of the one before are kept in it."""
        if self._holder is holder:
            return
        self.put_back()
        self.half.set_cut(holder.cut)
        self.half.load(holder.adapters)
        self._holder = holder

    def put_back(self) -> None:
        """Keep what the half holds where it belongs to; moving the cut would lose the optimizer's state."""
        if self._holder is not None and self._holder.active:
            self._holder.adapters.update(self.half.export())
        self._holder = None

    def leave(self) -> None:
        """Nobody works here now."""
        self._holder = None


class Turn:
    """A device's round in progress.

    Attributes:
        peer: connection of the device.
        active: started and neither finished nor abandoned.
        finished: the result, None before.
        adapters: a copy of all layers' adapters, moving.
        last_s: when the device was last heard with something of this turn.
        codec: of smashed data and gradients.
        feedback: what the codec lost of this device's gradients so far; None where that is forgotten.
    """

    def __init__(
        self,
        settings: RunSettings,
        place: Workplace,
        peer: bytes,
        device: Device,
        round_number: int,
        assignment: Assignment,
        adapters: AdapterSet,
        residual: Any = None,
    ) -> None:
        self.settings, self.place, self.peer, self.device = settings, place, peer, device
        self.round, self.assignment = round_number, assignment
        self.adapters = copied(adapters)
        self.active = False
        self.finished: FinishedTurn | None = None
        self.last_s = self.start_s = now_s()
        self.codec = assignment.codec or settings.codec
        self.feedback = ErrorFeedback(residual) if settings.error_feedback and self.codec != "none" else None
        self._losses: list[float] = []

    def start(self, begin_s: float) -> Message:
        """Set the cut and say the round: the message that goes down. `begin_s`: when setting up began."""
        self.active = True
        self.start_s = begin_s
        laps = Laps(begin_s)
        self._enter()
        laps.mark("switch")
        self._take_place()
        tensors = pack_adapters({n: self.adapters[n] for n in range(self.assignment.cut)})
        laps.mark("adapters")
        self.last_s = sent_s = now_s()
        laps.mark("adapters", sent_s)
        head = {
            "round": self.round,
            "cut": self.assignment.cut,
            "codec": self.codec,
            "link": self._rates(),
            "sent_s": sent_s,
            "terms": laps.terms,
        }
        return Message("round", head, tensors)

    def _rates(self) -> dict[str, float] | None:
        """What a device that shapes its link as planned takes; the others have the link they have."""
        up_bps, down_bps = self.assignment.uplink_bps, self.assignment.downlink_bps
        return None if up_bps is None or down_bps is None else {"uplink_bps": up_bps, "downlink_bps": down_bps}

    @property
    def cut(self) -> int:
        """Layers on the device."""
        return self.assignment.cut

    @property
    def learned(self) -> bool:
        """Whether all its mini-batches were computed."""
        return len(self._losses) >= self.settings.epochs

    def _enter(self) -> None:
        """Set the half's cut to this turn's."""
        self.place.put_back()
        self.place.half.set_cut(self.assignment.cut)

    def _take_place(self) -> None:
        """Let the half hold what this turn trains."""
        self.place.give(self)

    def handle(self, message: Message, arrived_s: float, *, shared: bool) -> Message | None:
        """What the device sent; the answer, or None when there is none (yet) or the turn is finished.

        `shared`: others compute here too, so time between arrival and start is waiting.
        Raises FrameError for what does not belong here or makes no sense.
        """
        self.last_s = now_s()
        if whole(message.head, "round") != self.round:
            raise FrameError(f"round {message.head.get('round')} came in round {self.round}")
        laps = Laps(arrived_s)
        laps.mark(WAITING if shared else "server")
        if message.kind == "activations":
            return self._mini_batch(message, arrived_s, laps)
        if message.kind == "adapters":
            self._finish(message, arrived_s)
            return None
        raise FrameError(f"a message of kind {message.kind!r} came in the middle of a round")

    def check_epoch(self, message: Message) -> None:
        """Raise FrameError for a mini-batch that is not the next one."""
        epoch = whole(message.head, "epoch")
        if epoch != len(self._losses) or epoch >= self.settings.epochs:
            raise FrameError(f"epoch {epoch} came where {len(self._losses)} was due")

    def _mini_batch(self, message: Message, arrived_s: float, laps: Laps) -> Message | None:
        self.check_epoch(message)
        self._take_place()
        laps.mark("server")
        activation, labels = self._tensors(message)
        laps.mark("decode")
        step = self.place.half.train(activation, labels)
        laps.mark("server")
        return self.gradients(step, arrived_s, laps)

    def gradients(self, step: ServerStep, arrived_s: float, laps: Laps) -> Message:
        """The answer to a mini-batch."""
        epoch = len(self._losses)
        pack = pack_tensor if self.feedback is None else self.feedback.pack
        packed = pack(step.gradient, self.codec, self.settings.wire_dtype)
        laps.mark("encode")
        self._losses.append(step.loss)
        self.last_s = sent_s = now_s()
        laps.mark("encode", sent_s)
        head = {
            "round": self.round,
            "epoch": epoch,
            "loss": step.loss,
            "arrived_s": arrived_s,
            "sent_s": sent_s,
            "terms": laps.terms,
        }
        return Message("gradients", head, {"gradient": packed})

    def _tensors(self, message: Message) -> tuple[Any, Any]:
        task = self.settings.task
        if set(message.tensors) != {"activation", "labels"}:
            raise FrameError(f"activations came with the tensors {sorted(message.tensors)[:5]}")
        labels = unpack_tensor(message.tensors["labels"], (task.batch, task.sequence)).long()
        vocabulary = task.architecture.vocab_size
        if int(labels.min()) < 0 or int(labels.max()) >= vocabulary:
            raise FrameError(f"labels came outside the vocabulary of {vocabulary}")
        shape = (task.batch, task.sequence, task.architecture.hidden_size)
        return unpack_tensor(message.tensors["activation"], shape), labels

    def _finish(self, message: Message, arrived_s: float) -> None:
        if len(self._losses) != self.settings.epochs:
            raise FrameError(f"adapters came back after {len(self._losses)} of {self.settings.epochs} epochs")
        terms, waiting_s = self._terms(message, arrived_s)
        back = unpack_adapters(message.tensors, self.settings.task, range(self.assignment.cut))
        self._take_place()
        self.adapters.update(self.place.half.export())
        self.adapters.update(back)
        expected = self.assignment.expected
        self.active = False
        self.finished = FinishedTurn(
            round=self.round,
            device=self.device.name,
            description=to_plain(self.device),
            cut=self.assignment.cut,
            frequency_hz=None,
            losses=tuple(self._losses),
            terms=terms,
            waiting_s=waiting_s,
            elapsed_s=arrived_s - self.start_s,
            energy_j=None,
            predicted=dict(expected.terms),
            predicted_ci95=dict(expected.terms_ci95),
            delay_ci95=expected.delay_ci95,
            details={
                "codec": self.codec,
                "adapters_bytes": size_bytes(back),
                "up_bytes": message.head.get("up_bytes"),
                "down_bytes": message.head.get("down_bytes"),
                "rtt_s": message.head.get("rtt_s"),
            },
        )

    def _terms(self, message: Message, arrived_s: float) -> tuple[dict[str, float], float]:
        sent = message.head.get("terms")
        if not isinstance(sent, dict) or not set(sent) <= {*TERMS, WAITING}:
            raise FrameError("adapters came without the times of the round")
        terms = {term: number(sent, term) if term in sent else 0.0 for term in (*TERMS, WAITING)}
        terms["adapters"] += arrived_s - number(message.head, "sent_s")
        return {term: terms[term] for term in TERMS}, terms[WAITING]
