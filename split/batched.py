"""A parallel round in which the server computes the devices' mini-batches as one (`server_sharing = "batched"`).

    smashed data of all devices, one epoch  ->  concatenated  ->  one forward and backward pass, one optimizer step
    loss = mean of the devices' own mean losses        gradient to device n = that of its own mean loss

All devices share one set of server-side adapters, so they must have the same cut. The server waits until every device
that still takes part has sent; one that dies is dropped by its silence and the others go on. What a dropped device gave
to earlier mini-batches of the round stays in the server's adapters; its own adapters are lost with its turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cardlab.core.errors import RunError, UsageError
from cardlab.core.records.plan import Plan
from cardlab.split.adapters import AdapterSet, copied
from cardlab.split.codec import FrameError
from cardlab.split.frames import Message
from cardlab.split.laps import Laps, now_s
from cardlab.split.settings import WAITING
from cardlab.split.turn import Turn, Workplace

SERIAL, BATCHED = "serial", "batched"
SHARINGS = (SERIAL, BATCHED)


def common_cut(cuts: Mapping[str, int], number: int) -> int:
    """The cut of all devices of round `number`, 1 without devices. Raises RunError if they differ."""
    if len(set(cuts.values())) > 1:
        words = ", ".join(f"{cut} for {name}" for name, cut in cuts.items())
        raise RunError(
            f"round {number}: a server that computes all devices at once needs one cut, and the cuts are {words}",
            remedy='plan with blocks = "common" (card plan --from-db --scheme sft --server-sharing batched does), or'
            " run with --server-sharing serial",
        )
    return next(iter(cuts.values()), 1)


def sharing_of(asked: str | None, plan: Plan | None, parallel: bool) -> str:
    """How a run's server is shared: as asked, else as planned, else "serial".

    Raises UsageError for a name that is none, for `batched` without devices at once and against the plan, RunError
    for a batched plan with different cuts.
    """
    if asked not in (None, *SHARINGS):
        raise UsageError(f"there is no server sharing {asked!r}", remedy=f"use one of: {', '.join(SHARINGS)}")
    planned = None
    if plan is not None and plan.scheme == "sft":
        planned = plan.server_sharing or SERIAL
    if None not in (asked, planned) and asked != planned:
        raise UsageError(f"the plan is for a {planned} server", remedy="leave --server-sharing out, or plan again")
    sharing = asked or planned or SERIAL
    if sharing == BATCHED and not parallel:
        raise UsageError("a batched server is for devices at once", remedy="give --parallel too")
    if sharing == BATCHED and plan is not None:
        for planned_round in plan.rounds:
            common_cut({d.device: d.cut for d in planned_round.devices}, planned_round.round)
    return sharing


@dataclass(frozen=True, slots=True)
class _Pending:
    """A mini-batch that waits for those of the others."""

    activation: Any
    labels: Any
    arrived_s: float
    laps: Laps


class Together:
    """What the devices of one round share at the server; it holds the workplace for all of them.

    Attributes:
        adapters: all layers', the server's of them moving.
        cut: that of all devices.
        active: whether the half's adapters are to be kept.
    """

    def __init__(self, place: Workplace, adapters: AdapterSet, cut: int) -> None:
        self.place = place
        self.adapters = copied(adapters)
        self.cut = cut
        self.active = True

    def turn(self, *arguments: Any) -> SharedTurn:
        """A device's turn in this round; arguments as those of `Turn`."""
        return SharedTurn(self, *arguments)

    def due(self, turns: Iterable[Turn]) -> list[SharedTurn]:
        """The turns whose mini-batches are to be computed now; none while one is still to come."""
        learning = [t for t in turns if isinstance(t, SharedTurn) and not t.learned]
        if learning and all(t.pending is not None for t in learning):
            return learning
        for turn in learning:
            if turn.pending is not None:
                # It waits here for others; that is no sign that it has stopped.
                turn.last_s = now_s()
        return []

    def compute(self, turns: list[SharedTurn]) -> Iterator[tuple[SharedTurn, Message]]:
        """Compute these mini-batches as one; each device's gradients as soon as they are encoded.

        Raises NotFiniteError naming the places of those whose loss is not finite; then nothing was changed.
        """
        ready = [(t, t.pending) for t in turns if t.pending is not None]
        begin_s = now_s()
        for _, pending in ready:
            pending.laps.mark(WAITING, begin_s)
        self.place.give(self)
        steps = self.place.half.train_together([p.activation for _, p in ready], [p.labels for _, p in ready])
        end_s = now_s()
        for _, pending in ready:
            pending.laps.mark("server", end_s)
        for (turn, pending), step in zip(ready, steps, strict=True):
            # The gradients of the devices before it were encoded meanwhile.
            pending.laps.mark(WAITING)
            turn.pending = None
            yield turn, turn.gradients(step, pending.arrived_s, pending.laps)


class SharedTurn(Turn):
    """One device's turn of a round that is computed together.

    Attributes:
        pending: its mini-batch, waiting for those of the others; None without one.
    """

    def __init__(self, together: Together, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pending: _Pending | None = None
        self._together = together

    def _enter(self) -> None:
        # Nobody else works here, and the adapters that all share stay where they are.
        self.place.half.set_cut(self.cut)

    def _take_place(self) -> None:
        self.place.give(self._together)

    def _mini_batch(self, message: Message, arrived_s: float, laps: Laps) -> None:
        if self.pending is not None:
            raise FrameError("a mini-batch came before the one before it was answered")
        self.check_epoch(message)
        activation, labels = self._tensors(message)
        laps.mark("decode")
        self.pending = _Pending(activation, labels, arrived_s, laps)
