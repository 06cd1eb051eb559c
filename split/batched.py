"""A parallel round in which the server computes the devices' mini-batches as one (`server_sharing = "batched"`).

    smashed data of all devices, one epoch  ->  concatenated  ->  one forward and backward pass, one optimizer step
    loss = mean of the devices' own mean losses        gradient to device n = that of its own mean loss

All devices share one set of server-side adapters, so they must have the same cut. The server waits until every device
that still takes part has sent; one that dies is dropped by its silence and the others go on. What a dropped device gave
to earlier mini-batches of the round stays in the server's adapters; its own adapters are lost with its turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cardlab.core.errors import RunError, UsageError
from cardlab.core.records.plan import BATCHED, SERIAL, SHARINGS, Plan
from cardlab.core.records.training import WAITING
from cardlab.split.adapters import AdapterSet, copied
from cardlab.split.laps import Laps, now_s
from cardlab.split.protocol import Gradients
from cardlab.split.recipe import Weight
from cardlab.split.refusals import FrameError, RefusalCode
from cardlab.split.shared_half import SharedHalf
from cardlab.split.turn import Arrival, Turn, Unpacked


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
    # Plans of older versions do not name it: they were made for one mini-batch after the other.
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

    came: Unpacked
    arrived_s: float
    laps: Laps


class BatchedSteps:
    """The mini-batches of all devices of one round as one; it owns what the half holds for all of them.

    Attributes:
        shared: the server's half.
        adapters: all layers', the server's of them moving.
        cut: that of all devices.
        active: whether the half's adapters are to be kept.
    """

    def __init__(self, shared: SharedHalf, adapters: AdapterSet, cut: int) -> None:
        self.shared = shared
        self.adapters = copied(adapters)
        self.cut = cut
        self.active = True
        self._pending: dict[bytes, _Pending] = {}

    def enter(self, turn: Turn) -> None:
        """Set the half's cut; nobody else works here, and the adapters that all share stay where they are."""
        self.shared.half.set_cut(self.cut)

    def occupy(self, turn: Turn) -> None:
        """Let the half hold what all turns train."""
        self.shared.hold(self)

    def take(self, turn: Turn, arrival: Arrival) -> None:
        """Keep a mini-batch until those of the others have come. Raises FrameError for a second one."""
        if turn.peer in self._pending:
            raise FrameError("a mini-batch came before the one before it was answered", code=RefusalCode.OUT_OF_TURN)
        came = turn.unpack(arrival.message)
        arrival.laps.mark("decode")
        self._pending[turn.peer] = _Pending(came, arrival.arrived_s, arrival.laps)

    def due(self, turns: Iterable[Turn]) -> Sequence[Turn]:
        """The turns whose mini-batches are to be computed now; none while one is still to come."""
        # Devices that only have their adapters to send back hold nobody up.
        learning = [t for t in turns if not t.learned]
        if learning and all(t.peer in self._pending for t in learning):
            return learning
        for turn in learning:
            if turn.peer in self._pending:
                # It waits here for others; that is no sign that it has stopped.
                turn.last_s = now_s()
        return ()

    def compute(self, turns: Sequence[Turn]) -> Iterator[tuple[Turn, Gradients]]:
        """Compute these mini-batches as one; each device's gradients as soon as they are encoded.

        Raises NotFiniteError naming the places of those whose loss is not finite; then nothing was changed.
        """
        ready = [(turn, self._pending[turn.peer]) for turn in turns]
        begin_s = now_s()
        for _, pending in ready:
            pending.laps.mark(WAITING, begin_s)
        self.shared.hold(self)
        self.shared.half.clock.step = turns[0].step
        came = [pending.came for _, pending in ready]
        steps = self.shared.half.train_batched(
            [one.activation for one in came],
            [one.labels for one in came],
            [one.rows for one in came],
            [Weight(in_step=one.weight) for one in came],
        )
        end_s = now_s()
        for _, pending in ready:
            pending.laps.mark("server", end_s)
        for (turn, pending), step in zip(ready, steps, strict=True):
            # The gradients of the devices before it were encoded meanwhile.
            pending.laps.mark(WAITING)
            del self._pending[turn.peer]
            yield turn, turn.gradients(step, pending.arrived_s, pending.laps)
