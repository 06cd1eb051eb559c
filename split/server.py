"""The server of a split run: rounds, whose turn it is, and what happens when a device fails.

    one after the other (CARD)   each device starts from the adapters that the one before it left
    in parallel (SFT)            all start from the same adapters; those that finish are averaged; their mini-batches
                                 are computed one by one, or as one (`batched`)

A device that dies, stalls or sends nonsense loses its round and nothing else. A round counts when at least one
device finished it; otherwise it is made again when a device is there. Every finished turn is on disk before the
next begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cardlab.core.errors import RunError
from cardlab.split.adapters import AdapterSet, averaged, initial_adapters
from cardlab.split.batched import BATCHED, Together, common_cut
from cardlab.split.clocks import EnergyMeter, ServerClock
from cardlab.split.codec import warm_codec
from cardlab.split.frames import Message, unpack
from cardlab.split.journal import FinishedTurn, Journal
from cardlab.split.laps import now_s
from cardlab.split.members import Member, Members
from cardlab.split.schedule import Schedule, unknown_device
from cardlab.split.server_transport import ServerTransport
from cardlab.split.sockets import SILENCE_S
from cardlab.split.turn import NotFiniteError, Turn, Workplace

if TYPE_CHECKING:
    from cardlab.split.halves import Half

_LOOK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the server waits, seconds.

    Attributes:
        join_s: for the devices it needs to begin, and for one to come back when none is left.
        silence_s: without a sign of life before a device counts as dead.
        stage_s: for the next message of a turn from a device that lives.
    """

    join_s: float = 300.0
    silence_s: float = SILENCE_S
    stage_s: float = 900.0


class Server:
    """Runs what the journal says is left to do.

    Args:
        transport: bound already.
        half: the server's side of the model.
        schedule: cuts and clocks.
        journal: begun or resumed; its settings are the run's.
        clock: of the server's platform.
        devices: how many must be ready before the first round.
        finished: is called with each finished turn after it is on disk.
        note: is told what a person wants to know.
        watch: is called again and again while waiting; raises RunError when waiting is in vain.
    """

    def __init__(
        self,
        transport: ServerTransport,
        half: Half,
        schedule: Schedule,
        journal: Journal,
        clock: ServerClock,
        *,
        devices: int = 1,
        patience: Patience | None = None,
        finished: Callable[[FinishedTurn], None] = lambda _turn: None,
        note: Callable[[str], None] = lambda _text: None,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = journal.progress.settings
        self._transport, self._schedule, self._journal, self._clock = transport, schedule, journal, clock
        self._place = Workplace(half)
        self._patience = patience or Patience()
        self._devices = max(devices, 1)
        self._finished, self._note, self._watch = finished, note, watch
        self._members = Members(transport, self.settings, self._admit, self._patience.silence_s, note)
        self._read_hz: float | None = None
        self._residuals: dict[str, Any] = {}
        self.adapters: AdapterSet = journal.adapters() or initial_adapters(self.settings.task, self.settings.seed)

    def run(self) -> AdapterSet:
        """Make the rounds that are left; returns the adapters.

        Raises RunError when no device is left and none comes in time.
        """
        self._wait_for(self._devices)
        try:
            for number in range(self._journal.progress.closed + 1, self.settings.rounds + 1):
                while not self._round(number):
                    self._note(f"round {number}: no device finished it; waiting for one")
                    self._wait_for(1)
            self._members.tell_all(Message("end", {"rounds": self.settings.rounds}))
        finally:
            self._clock.release()
        self._journal.close_round(done=True)
        return self.adapters

    def _admit(self, name: str) -> None:
        if self._schedule.devices and name not in self._schedule.devices:
            raise unknown_device(name, self._schedule.devices)

    def _order(self) -> list[str]:
        ready = self._members.ready()
        return [n for n in self._schedule.devices if n in ready] or sorted(ready)

    def _wait_for(self, count: int) -> None:
        until_s = now_s() + self._patience.join_s
        while len(self._members.ready()) < count:
            if now_s() > until_s:
                raise RunError(
                    f"{len(self._members.ready())} of {count} device(s) came within {self._patience.join_s:g} s",
                    remedy="start them with: card run device --server HOST:PORT; finished rounds are kept for --resume",
                )
            self._receive({}, _LOOK_S)

    def _round(self, number: int) -> bool:
        """One round; whether any device has finished it."""
        if self.settings.parallel:
            return self._parallel(number)
        tried: set[str] = set()
        while True:
            left = [n for n in self._order() if n not in tried | self._journal.finished_in(number)]
            if not left:
                break
            tried.add(left[0])
            self._alone(number, left[0])
        if not self._journal.finished_in(number):
            return False
        self._journal.close_round()
        return True

    def _alone(self, number: int, name: str) -> None:
        with self._measured() as meter:
            turn = self._begin(number, name)
            if turn is not None:
                self._serve([turn])
        if turn is None or turn.finished is None:
            return
        power_w = meter.power_w
        energy_j = None if power_w is None else power_w * turn.finished.elapsed_s
        done = replace(turn.finished, frequency_hz=self._read_hz, energy_j=energy_j)
        self.adapters = turn.adapters
        self._journal.commit(self.adapters, done)
        self._keep(turn, done)

    def _parallel(self, number: int) -> bool:
        with self._measured() as meter:
            order = self._order()
            together = None
            if self.settings.server_sharing == BATCHED:
                cut = common_cut({name: self._schedule.at(number, name).cut for name in order}, number)
                together = Together(self._place, self.adapters, cut)
            turns = [turn for name in order if (turn := self._begin(number, name, together)) is not None]
            self._serve(turns, together)
        good = [turn for turn in turns if turn.finished is not None]
        if not good:
            return False
        done = []
        for turn in good:
            assert turn.finished is not None
            details = dict(turn.finished.details)
            if meter.power_w is not None:
                details["round_power_w"] = meter.power_w
            done.append(replace(turn.finished, frequency_hz=self._read_hz, details=details))
        self.adapters = averaged([turn.adapters for turn in good])
        self._journal.commit(self.adapters, *done, close=True)
        for turn, kept in zip(good, done, strict=True):
            self._keep(turn, kept)
        return True

    @contextmanager
    def _measured(self) -> Iterator[EnergyMeter]:
        meter = EnergyMeter(self._clock.platform)
        self._read_hz = None
        with meter.recording():
            yield meter
        self._place.leave()

    def _begin(self, number: int, name: str, together: Together | None = None) -> Turn | None:
        member: Member | None = self._members.ready().get(name)
        if member is None:
            return None
        assignment = self._schedule.at(number, name)
        warm_codec(assignment.codec or self.settings.codec)
        begin_s = now_s()
        self._clock.hold(assignment.frequency_hz)
        make = Turn if together is None else together.turn
        turn = make(
            self.settings,
            self._place,
            member.peer,
            member.device,
            number,
            assignment,
            self.adapters,
            self._residuals.get(name),
        )
        self._transport.send(member.peer, turn.start(begin_s))
        return turn

    def _serve(self, turns: list[Turn], together: Together | None = None) -> None:
        """Answer these devices until each has finished or was given up; `together`: their mini-batches as one."""
        active = {turn.peer: turn for turn in turns}
        while active:
            self._receive(active, _LOOK_S)
            for turn in [t for t in active.values() if t.finished is not None]:
                del active[turn.peer]
            for turn in list(active.values()):
                self._check_alive(turn, active)
            if together is not None:
                self._compute(together, active)

    def _compute(self, together: Together, active: dict[bytes, Turn]) -> None:
        """Compute the mini-batches of all active devices as one when all have come."""
        turns = together.due(active.values())
        if not turns:
            return
        try:
            for turn, answer in together.compute(turns):
                self._transport.send(turn.peer, answer)
        except NotFiniteError as error:
            for turn in [turns[place] for place in error.places]:
                self._give_up(turn, active, error.message)
                self._members.refuse(turn.peer, error.message, error.remedy)
        if self._read_hz is None:
            self._read_hz = self._clock.read_hz()

    def _check_alive(self, turn: Turn, active: dict[bytes, Turn]) -> None:
        member = self._members.of(turn.peer)
        if member is None:
            self._give_up(turn, active, "the device left")
        elif self._transport.silence_s(turn.peer) > self._patience.silence_s:
            self._give_up(turn, active, f"the device is silent for {self._patience.silence_s:g} s")
            self._members.drop(turn.peer, "it is silent")
        elif now_s() - turn.last_s > self._patience.stage_s:
            self._give_up(turn, active, f"nothing came for {self._patience.stage_s:g} s")
            member.ready = False

    def _give_up(self, turn: Turn, active: dict[bytes, Turn], reason: str) -> None:
        turn.active = False
        active.pop(turn.peer, None)
        self._note(f"round {turn.round} of {turn.device.name} is abandoned: {reason}")
        self._transport.send(turn.peer, Message("abandoned", {"round": turn.round, "reason": reason}))

    def _receive(self, active: dict[bytes, Turn], timeout_s: float) -> None:
        """Take one message, whoever sent it."""
        came = self._transport.receive(timeout_s)
        if came is None:
            self._watch()
            return
        peer, parts, arrived_s = came
        turn = active.get(peer)
        try:
            message = unpack(parts)
            if message.kind == "hello" and turn is not None:
                self._give_up(turn, active, "the device joined again")
            if self._members.handle(peer, message):
                return
            if turn is None:
                if self._members.of(peer) is None:
                    # It slept while it was given up, or a server of this run was restarted: it says hello again.
                    self._transport.send(peer, Message("abandoned", {"reason": "this device has not said hello"}))
                return
            answer = turn.handle(message, arrived_s, shared=len(active) > 1)
            if self._read_hz is None:
                self._read_hz = self._clock.read_hz()
        except RunError as error:
            if turn is not None:
                self._give_up(turn, active, error.message)
            self._members.refuse(peer, error.message, error.remedy)
            return
        if answer is not None:
            self._transport.send(peer, answer)

    def _keep(self, turn: Turn, done: FinishedTurn) -> None:
        if turn.feedback is not None:
            self._residuals[done.device] = turn.feedback.residual
        self._finished(done)
        self._transport.send(
            turn.peer, Message("stored", {"round": done.round, "loss": done.loss, "delay_s": done.delay_s})
        )
