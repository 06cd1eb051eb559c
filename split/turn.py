"""One device's round, the server's part (stages 1 to 5 of the framework).

    start                     cut and frequency set, device-side adapters sent down          stage 1
    mini_batch  x T           decode, forward and backward from the cut, gradient sent       stages 2-4
    finish                    the device's adapters come back: the turn is finished          stage 5

A turn works on a copy of the adapters. Nothing outside it changes until it is finished, so a device that dies in
any stage takes only its own round with it. How the server computes a mini-batch (by itself, or together with those of
other devices) is the business of `Steps`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cardlab.core.records.device import Device
from cardlab.core.records.plan import TERMS
from cardlab.core.records.training import WAITING
from cardlab.split.adapters import AdapterSet, copied, pack_adapters, shapes_by_layer, size_bytes, unpack_adapters
from cardlab.split.arrivals import Unpacked, unpack_rows
from cardlab.split.codecs.feedback import ErrorFeedback
from cardlab.split.codecs.registry import pack_tensor
from cardlab.split.journal import FinishedTurn
from cardlab.split.laps import Laps, now_s
from cardlab.split.protocol import Activations, AdaptersReturn, Gradients, RoundStart
from cardlab.split.refusals import FrameError, RefusalCode, TensorError
from cardlab.split.schedule import Assignment
from cardlab.split.settings import Inputs, RunSettings
from cardlab.split.shaping import PlannedRates
from cardlab.split.shared_half import SharedHalf

if TYPE_CHECKING:
    import torch

    from cardlab.split.halves import ServerStep


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnOrder:
    """What a turn begins with.

    Attributes:
        peer: connection of the device.
        inputs: what the device trains with.
        adapters: all layers', as the round begins; the turn copies them.
        residual: what the codec lost of this device's last gradient, None before the first.
    """

    settings: RunSettings
    peer: bytes
    device: Device
    round: int
    assignment: Assignment
    inputs: Inputs
    adapters: AdapterSet
    residual: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Arrival:
    """A mini-batch with the time it came and what has passed since."""

    message: Activations
    arrived_s: float
    laps: Laps


@dataclass(frozen=True, slots=True)
class Weighed:
    """A mini-batch with what its loss counts for in its step."""

    rows: Unpacked
    weight: float


class Steps(Protocol):
    """How the server computes the mini-batches of a round."""

    shared: SharedHalf

    def enter(self, turn: Turn) -> None:
        """Set the half's cut to that turn's."""

    def occupy(self, turn: Turn) -> None:
        """Let the half hold what that turn trains."""

    def take(self, turn: Turn, arrival: Arrival) -> Gradients | None:
        """A mini-batch of that turn: its gradients, or None where it waits for others."""

    def due(self, turns: Iterable[Turn]) -> Sequence[Turn]:
        """Of these active turns, those whose waiting mini-batches are to be computed now."""

    def compute(self, turns: Sequence[Turn]) -> Iterator[tuple[Turn, Gradients]]:
        """Compute the waiting mini-batches of these turns."""


class SerialSteps:
    """Each mini-batch by itself, as it comes."""

    def __init__(self, shared: SharedHalf) -> None:
        self.shared = shared

    def enter(self, turn: Turn) -> None:
        """Set the half's cut; what it held goes back to its owner first."""
        self.shared.give_back()
        self.shared.half.set_cut(turn.cut)

    def occupy(self, turn: Turn) -> None:
        """Let the half hold the turn's own adapters."""
        self.shared.hold(turn)

    def take(self, turn: Turn, arrival: Arrival) -> Gradients:
        """Compute at once. Raises NotFiniteError."""
        laps = arrival.laps
        self.occupy(turn)
        laps.mark("server")
        came = turn.unpack(arrival.message)
        laps.mark("decode")
        self.shared.half.clock.step = turn.step
        own = came.rows
        step = self.shared.half.train(own.activation, own.labels, own.rows, came.weight)
        laps.mark("server")
        return turn.gradients(step, arrival.arrived_s, laps)

    def due(self, turns: Iterable[Turn]) -> Sequence[Turn]:
        """None: nothing waits."""
        return ()

    def compute(self, turns: Sequence[Turn]) -> Iterator[tuple[Turn, Gradients]]:
        """Nothing: nothing waits."""
        yield from ()


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

    def __init__(self, order: TurnOrder, steps: Steps) -> None:
        self.peer, self.device, self.round, self.assignment = order.peer, order.device, order.round, order.assignment
        # The run's adapters stay as they are until the turn is finished.
        self.adapters = copied(order.adapters)
        self.active = False
        self.finished: FinishedTurn | None = None
        self.last_s = now_s()
        self.codec = order.assignment.codec or order.settings.codec
        wanted = order.settings.error_feedback and self.codec != "none"
        self.feedback = ErrorFeedback(order.residual) if wanted else None
        self._settings, self._steps, self._inputs = order.settings, steps, order.inputs
        self._tokens = 0
        self._start_s = self.last_s
        self._losses: list[float] = []
        # Norms of the gradients as they were before clipping, step by step.
        self._norms: list[float] = []
        # A clipped step waits for the device's norms: they come with what it sends next.
        self._waits_for_norms = False

    @property
    def rows(self) -> int:
        """Rows of the device's data, |D_m|."""
        return self._inputs.rows

    @property
    def taken_s(self) -> float:
        """Seconds since the turn began."""
        return now_s() - self._start_s

    @property
    def cut(self) -> int:
        """Layers on the device."""
        return self.assignment.cut

    @property
    def step(self) -> int:
        """The mini-batch that is due, counted over the whole run from 0."""
        return (self.round - 1) * self._settings.epochs + len(self._losses)

    @property
    def learned(self) -> bool:
        """Whether all its mini-batches were computed."""
        return len(self._losses) >= self._settings.epochs

    def start(self, begin_s: float) -> RoundStart:
        """Set the cut and say the round: the message that goes down. `begin_s`: when setting up began."""
        self.active = True
        self._start_s = begin_s
        laps = Laps(begin_s)
        self._steps.enter(self)
        laps.mark("switch")
        self._steps.occupy(self)
        adapters = pack_adapters({n: self.adapters[n] for n in range(self.cut)})
        laps.mark("adapters")
        self.last_s = sent_s = now_s()
        laps.mark("adapters", sent_s)
        return RoundStart(
            round=self.round,
            cut=self.cut,
            codec=self.codec,
            link=self._link(),
            frequency_hz=self.assignment.device_frequency_hz,
            sent_s=sent_s,
            terms=laps.terms,
            adapters=adapters,
        )

    def _link(self) -> PlannedRates | None:
        """What a device that shapes its link as planned takes; the others have the link they have."""
        up_bps, down_bps = self.assignment.uplink_bps, self.assignment.downlink_bps
        if up_bps is None or down_bps is None:
            return None
        return PlannedRates(uplink_bps=up_bps, downlink_bps=down_bps)

    def mini_batch(self, message: Activations, arrived_s: float, *, shared: bool) -> Gradients | None:
        """The answer to a mini-batch, or None when it has to wait for those of others.

        `shared`: others compute here too, so time between arrival and start is waiting.
        Raises FrameError for a mini-batch that is not the next one or makes no sense, NotFiniteError.
        """
        self._hear(message.round)
        laps = Laps(arrived_s)
        laps.mark(WAITING if shared else "server")
        due = len(self._losses)
        # A mini-batch that comes twice would be trained twice.
        if message.epoch != due or due >= self._settings.epochs:
            raise FrameError(f"epoch {message.epoch} came where {due} was due", code=RefusalCode.OUT_OF_TURN)
        self._finish_step(message.norms)
        return self._steps.take(self, Arrival(message, arrived_s, laps))

    def unpack(self, message: Activations) -> Weighed:
        """A mini-batch of this turn; TensorError if it cannot be the task's."""
        task, batch = self._settings.task, self._inputs.batch or self._settings.task.batch
        came = unpack_rows(message, task, batch)
        most = batch * (task.sequence - 1) * self._settings.accumulate
        fits = came.learned <= message.step_tokens <= most
        if not fits or (self._settings.accumulate == 1 and came.learned != message.step_tokens):
            raise TensorError(f"{came.learned} tokens with a loss came of {message.step_tokens} in their step")
        self._tokens += came.tokens
        return Weighed(came, came.learned / message.step_tokens)

    def gradients(self, step: ServerStep, arrived_s: float, laps: Laps) -> Gradients:
        """The answer to a mini-batch that was computed."""
        epoch = len(self._losses)
        pack = pack_tensor if self.feedback is None else self.feedback.pack
        packed = pack(step.gradient, self.codec, self._settings.wire_dtype)
        laps.mark("encode")
        self._losses.append(step.loss)
        self._waits_for_norms = step.norms is not None
        self.last_s = sent_s = now_s()
        laps.mark("encode", sent_s)
        return Gradients(
            round=self.round,
            epoch=epoch,
            loss=step.loss,
            arrived_s=arrived_s,
            sent_s=sent_s,
            terms=laps.terms,
            gradient=packed,
            norms=step.norms,
        )

    def finish(self, message: AdaptersReturn, arrived_s: float) -> None:
        """Take the device's adapters back. Raises FrameError for adapters that come too early or make no sense."""
        self._hear(message.round)
        if len(self._losses) != self._settings.epochs:
            raise FrameError(
                f"adapters came back after {len(self._losses)} of {self._settings.epochs} epochs",
                code=RefusalCode.OUT_OF_TURN,
            )
        terms = {term: message.terms.get(term, 0.0) for term in TERMS}
        # The way back of the adapters ends here, on the server's timer as it began.
        terms["adapters"] += arrived_s - message.sent_s
        back = unpack_adapters(message.adapters, self._settings.task, range(self.cut))
        self._finish_step(message.norms)
        self._steps.occupy(self)
        # The server's layers first, then the device's own: together they are all layers.
        self.adapters.update(self._steps.shared.half.export())
        self.adapters.update(back)
        expected = self.assignment.expected
        self.active = False
        self.finished = FinishedTurn(
            round=self.round,
            description=self.device,
            cut=self.cut,
            codec=self.codec,
            losses=tuple(self._losses),
            gradient_norms=tuple(self._norms),
            rows=self.rows,
            tokens=self._tokens,
            terms=terms,
            waiting_s=message.terms.get(WAITING, 0.0),
            elapsed_s=arrived_s - self._start_s,
            up_bytes=message.up_bytes,
            down_bytes=message.down_bytes,
            adapter_bytes=size_bytes(back),
            rtt_s=message.rtt_s,
            predicted=dict(expected.terms),
            predicted_ci95=dict(expected.terms_ci95),
            predicted_delay_ci95=expected.delay_ci95,
            predicted_provenance=expected.provenance,
            predicted_ratios=dict(expected.ratios),
            predicted_energy_j=expected.server_energy_j,
            predicted_device_energy_j=expected.device_energy_j,
            device_reading=message.reading,
        )

    def _finish_step(self, norms: Sequence[float] | None) -> None:
        """The step that waited for the device's norms. Raises FrameError for norms that are not those it waits for."""
        lacks = norms is None
        if lacks is self._waits_for_norms:
            raise FrameError(f"norms of gradients {'were due' if lacks else 'came'}", code=RefusalCode.OUT_OF_TURN)
        if norms is None:
            return
        shapes = shapes_by_layer(self._settings.task)
        due = sum(len(shapes[layer]) for layer in range(self.cut))
        if len(norms) != due:
            raise FrameError(f"{len(norms)} norms of gradients came, and {due} are due", code=RefusalCode.FIELD)
        self._steps.occupy(self)
        self._norms.append(self._steps.shared.half.finish_step(self.step - 1, norms))
        self._waits_for_norms = False

    def _hear(self, number: int) -> None:
        self.last_s = now_s()
        if number != self.round:
            raise FrameError(f"round {number} came in round {self.round}", code=RefusalCode.OUT_OF_TURN)
