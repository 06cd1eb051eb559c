"""Held-out rows of one device against the adapters of a round, the server's part.

The server's half judges what the device's half sends, so the labels go to the server as in training. Nothing is trained
and nothing is kept but the loss: an evaluation that breaks off is made again.
"""

from __future__ import annotations

from dataclasses import dataclass

from cardlab.core.identity import content_hash
from cardlab.core.records.device import Device
from cardlab.core.records.training import TrainQuality
from cardlab.split.adapters import AdapterSet, LayerState, pack_adapters
from cardlab.split.arrivals import unpack_rows
from cardlab.split.laps import now_s
from cardlab.split.protocol import Evaluate, Evaluated, HeldOut, Judged
from cardlab.split.refusals import FrameError, RefusalCode
from cardlab.split.settings import Inputs, RunSettings
from cardlab.split.shared_half import SharedHalf


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is judged and by whom: the adapters after round `number`, cut as the device had them there."""

    number: int
    device: Device
    cut: int
    codec: str
    inputs: Inputs
    adapters: AdapterSet


class Evaluation:
    """One device judges one round's adapters.

    Attributes:
        adapters: all layers'; never changed here.
        active: False, so that the half never gives anything back to it.
        last_s: when the device was last heard with something of it.
        result: None before all rows were judged.
    """

    active = False

    def __init__(self, settings: RunSettings, subject: Subject, shared: SharedHalf) -> None:
        self.subject, self.adapters = subject, subject.adapters
        self.result: TrainQuality | None = None
        self.last_s = self._start_s = now_s()
        self._settings, self._shared = settings, shared
        self._batches = self._tokens = self._correct = self._up_bytes = self._rows = 0
        self._loss = 0.0

    @property
    def cut(self) -> int:
        """Layers on the device."""
        return self.subject.cut

    def start(self) -> Evaluate:
        """The message that goes down."""
        # Nothing steps: the optimizer's state stays here.
        own = {layer: LayerState(self.adapters[layer].parameters) for layer in range(self.cut)}
        return Evaluate(round=self.subject.number, cut=self.cut, codec=self.subject.codec, adapters=pack_adapters(own))

    def judge(self, message: HeldOut) -> Judged:
        """The answer to a mini-batch of held-out rows. Raises FrameError for one that is not the next."""
        self._hear(message.round)
        if message.number != self._batches:
            raise FrameError(
                f"held-out rows {message.number} came where {self._batches} were due", code=RefusalCode.OUT_OF_TURN
            )
        task, inputs = self._settings.task, self.subject.inputs
        rows = message.labels.shape[0]
        self._rows += rows
        if not 1 <= rows <= (inputs.batch or task.batch) or self._rows > inputs.held_out_rows:
            raise FrameError(f"{self._rows} of {inputs.held_out_rows} held-out rows came", code=RefusalCode.OUT_OF_TURN)
        came = unpack_rows(message, task, rows)
        self._shared.hold(self)
        found = self._shared.half.judge(came.activation, came.labels, came.rows)
        self._batches += 1
        self._loss += found.loss * came.learned
        self._tokens += came.learned
        self._correct += found.correct
        self._up_bytes += message.payload_bytes
        return Judged(round=self.subject.number, number=message.number, loss=found.loss)

    def finish(self, message: Evaluated) -> None:
        """The device has sent all. Raises FrameError where it has not."""
        self._hear(message.round)
        subject = self.subject
        if message.batches != self._batches or self._rows != subject.inputs.held_out_rows:
            raise FrameError(
                f"an evaluation ended after {self._rows} of {subject.inputs.held_out_rows} rows",
                code=RefusalCode.OUT_OF_TURN,
            )
        run, name = self._settings.run, subject.device.name
        self.result = TrainQuality(
            # Made from what it is, as the uid of a round: judging twice stores once.
            uid=content_hash({"run": run, "judged": subject.number, "device": name}),
            run=run,
            device=subject.device,
            number=subject.number,
            cut=self.cut,
            loss=self._loss / self._tokens,
            tokens=self._tokens,
            correct=self._correct,
            elapsed_s=now_s() - self._start_s,
            up_bytes=self._up_bytes,
        )

    def _hear(self, number: int) -> None:
        self.last_s = now_s()
        if number != self.subject.number:
            raise FrameError(
                f"held-out rows of round {number} came in that of {self.subject.number}", code=RefusalCode.OUT_OF_TURN
            )
