"""The server of a split run: rounds, whose turn it is, and what happens when a device fails.

    one after the other (CARD)   each device starts from the adapters that the one before it left
    in parallel (SFT)            all start from the same adapters; those that finish are averaged; their mini-batches
                                 are computed one by one, or as one (`batched`)

A device that dies, stalls or sends nonsense loses its round and nothing else. A round counts when at least one
device finished it; otherwise it is made again when a device is there. Every finished turn is on disk before the
next begins.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cardlab.core.errors import CardlabError, RunError
from cardlab.core.identity import content_hash
from cardlab.core.order import natural
from cardlab.core.records.device import Device
from cardlab.core.records.plan import BATCHED
from cardlab.core.records.training import TrainQuality, best_quality, qualities
from cardlab.profilers.devices.device import State
from cardlab.split.adapters import AdapterSet, averaged, initial_adapters
from cardlab.split.batched import BatchedSteps, common_cut
from cardlab.split.codecs.registry import warm_codec
from cardlab.split.evaluation import Evaluation, Subject
from cardlab.split.frequency import EnergyMeter, HeldFrequency
from cardlab.split.journal import FinishedTurn, Journal
from cardlab.split.journal_files import DiskError
from cardlab.split.laps import now_s
from cardlab.split.members import Member, Members
from cardlab.split.protocol import (
    Abandoned,
    Activations,
    AdaptersReturn,
    Bye,
    End,
    Evaluated,
    Gradients,
    HeldOut,
    Hello,
    Judged,
    Message,
    Ready,
    Stored,
    decode,
)
from cardlab.split.refusals import FrameError, NotFiniteError, RefusalCode
from cardlab.split.schedule import Prediction, Schedule
from cardlab.split.server_transport import ServerTransport
from cardlab.split.shared_half import SharedHalf
from cardlab.split.sockets import SILENCE_S
from cardlab.split.turn import SerialSteps, Steps, Turn, TurnOrder

if TYPE_CHECKING:
    import torch

    from cardlab.split.halves import Half

# How long to wait for a message before looking after the devices again.
_LOOK_S = 0.1
# Rounds in a row that no device finishes within the deadline, before the run gives up.
_FRUITLESS = 3


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerParts:
    """What a server is made of.

    Attributes:
        transport: bound already.
        half: the server's side of the model.
        schedule: cuts and frequencies.
        journal: begun or resumed; its settings are the run's.
        frequency: of the server's platform.
    """

    transport: ServerTransport
    half: Half
    schedule: Schedule
    journal: Journal
    frequency: HeldFrequency


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCallbacks:
    """Who is told what.

    Attributes:
        finished: is called with each finished turn after it is on disk.
        judged: is called with what the devices' held-out rows say of a round, after it is on disk.
        closed: is called with the number of each round that is over.
        note: is told what a person wants to know.
        watch: is called again and again while waiting; raises RunError when waiting is in vain.
    """

    finished: Callable[[FinishedTurn], None] = lambda _turn: None
    judged: Callable[[Sequence[TrainQuality]], None] = lambda _judged: None
    closed: Callable[[int], None] = lambda _number: None
    note: Callable[[str], None] = lambda _text: None
    watch: Callable[[], None] = lambda: None


class Server:
    """Runs what the journal says is left to do; `devices`: how many must be ready before the first round."""

    def __init__(
        self,
        parts: ServerParts,
        *,
        devices: int = 1,
        patience: Patience | None = None,
        callbacks: RunCallbacks | None = None,
    ) -> None:
        self.settings = parts.journal.settings
        self._transport, self._schedule, self._journal = parts.transport, parts.schedule, parts.journal
        self._frequency = parts.frequency
        self._shared = SharedHalf(parts.half)
        self._patience = patience or Patience()
        self._callbacks = callbacks or RunCallbacks()
        self._devices = max(devices, 1)
        silence_s, note = self._patience.silence_s, self._callbacks.note
        self._members = Members(parts.transport, self.settings, self._admit, silence_s, note)
        self._read, self._meter_said = State(), False
        self._residuals: dict[str, torch.Tensor | None] = {}
        self._judging: dict[bytes, Evaluation] = {}
        seeded = initial_adapters(self.settings.task, self.settings.seed, parts.half.magnitudes)
        self.adapters: AdapterSet = parts.journal.adapters() or seeded

    def run(self) -> AdapterSet:
        """Make the rounds that are left; returns the adapters.

        Raises RunError when no device is left and none comes in time. Devices are told why the run ends.
        """
        try:
            return self._run()
        except DiskError as error:
            # It goes on with --resume, and devices wait for that.
            self._members.tell_all(Abandoned(round=None, reason=f"the server ends: {error.message}"))
            raise
        except CardlabError as error:
            # On machines of their own they would wait for a server that does not come back.
            self._members.refuse_all(error)
            raise

    def _run(self) -> AdapterSet:
        self._wait_for(self._devices)
        try:
            self._name_absent()
            # A server that was killed before the evaluation of a round makes it now, unless a device has gone on.
            if not self._journal.finished_in(self._journal.closed + 1):
                self._evaluate(self._journal.closed)
                # Or between that and the round's checkpoint, whose place among the best is known only now.
                self._callbacks.closed(self._journal.closed)
            while self._journal.closed < self.settings.rounds and not self._is_enough():
                self._make(self._journal.closed + 1)
                # Judged first: whoever is told may keep these adapters as the best.
                self._evaluate(self._journal.closed)
                self._callbacks.closed(self._journal.closed)
            self._members.tell_all(End(rounds=self._journal.closed))
        finally:
            self._frequency.release()
        self._journal.close_round(done=True)
        return self.adapters

    def _name_absent(self) -> None:
        absent = [name for name in self.settings.cuts if name not in self._members.ready()]
        if absent:
            self._callbacks.note(f"--cuts names {', '.join(absent)}: no such device is here yet")

    def _make(self, number: int) -> None:
        """Try that round until a device has finished it. Raises RunError where a deadline lets none."""
        tries = 0
        while not self._round(number):
            tries += 1
            if self.settings.deadline_s is not None and tries == _FRUITLESS:
                raise RunError(
                    f"no device finished round {number} within --deadline {self.settings.deadline_s:g} s,"
                    f" {_FRUITLESS} times",
                    remedy="begin another run with a longer --deadline, or without",
                )
            self._callbacks.note(f"round {number}: no device finished it; waiting for one")
            self._wait_for(1)

    def _is_enough(self) -> bool:
        """Whether `patience` evaluations in a row did not lower the loss."""
        found = list(qualities(self._journal.judged).values())
        best, patience = best_quality(found), self.settings.patience
        if best is None or patience is None:
            return False
        # A run that was made longer is given the same patience anew.
        since = sum(1 for one in found if one.number > max(best.number, self._journal.went_on_after))
        if since >= patience:
            self._callbacks.note(
                f"the held-out loss was lowest after round {best.number} ({best.loss:.4f}) and not lowered in the"
                f" {since} evaluation(s) since: the run ends here"
            )
        return since >= patience

    def _evaluate(self, number: int) -> None:
        """Let the devices judge the adapters after that round by their held-out rows, if that is due."""
        every, last = self.settings.eval_every, self.settings.rounds
        if number in qualities(self._journal.judged) or (number % every and number != last):
            return
        ready = self._members.ready()
        # The first round's cuts, before any.
        at = max(number, 1)
        members = [ready[name] for name in sorted(ready, key=natural) if ready[name].inputs.held_out_rows]
        if not members:
            self._note_unjudged(number)
        for member in members:
            assignment = self._schedule.at(at, member.planned, member.device.key)
            subject = Subject(
                number=number,
                device=member.device,
                cut=assignment.cut,
                codec=assignment.codec or self.settings.codec,
                inputs=member.inputs,
                adapters=self.adapters,
            )
            self._judging[member.peer] = Evaluation(self.settings, subject, self._shared)
            self._transport.send(member.peer, self._judging[member.peer].start())
        done = self._judged()
        self._shared.forget()
        if done:
            self._journal.judge(*done)
            self._callbacks.judged(done)

    def _note_unjudged(self, number: int) -> None:
        """Nobody judges a round. Raises RunError where nobody ever could and the run is to end by it."""
        known = any(inputs.held_out_rows for inputs in self._journal.inputs.values())
        if known:
            self._callbacks.note(f"round {number} is not judged: no device with held-out rows is here")
        elif self.settings.patience is not None:
            raise RunError(
                "the run is to end by its held-out loss, and no device has held-out rows",
                remedy="start devices with --eval-share or --eval-data, or leave --patience out",
            )
        elif self.settings.eval_every > 1 and number == 0:
            self._callbacks.note("--eval-every has no effect yet: no device has held-out rows")

    def _judged(self) -> list[TrainQuality]:
        """Answer the devices that judge until each has finished or was given up."""
        done = []
        while self._judging:
            self._receive({}, _LOOK_S)
            for peer, evaluation in list(self._judging.items()):
                silent = self._transport.silence_s(peer) > self._patience.silence_s
                late = now_s() - evaluation.last_s > self._patience.stage_s
                if evaluation.result is not None:
                    done.append(evaluation.result)
                elif not (silent or late or self._members.of(peer) is None):
                    continue
                else:
                    name, number = evaluation.subject.device.name, evaluation.subject.number
                    self._callbacks.note(f"the held-out rows of {name} are missing in the evaluation of round {number}")
                    self._transport.send(peer, Abandoned(round=None, reason="its evaluation took too long"))
                    member = self._members.of(peer)
                    # It joins again when it hears that; until then it waits for an answer that does not come.
                    if member is not None:
                        member.ready = False
                del self._judging[peer]
        return done

    def _admit(self, device: Device, taken: frozenset[str]) -> str:
        planned = self._schedule.planned(device.name, device.key, taken)
        lines = [] if planned == device.name else [f"{device.name} is the plan's {planned}: the same hardware"]
        other = self._schedule.mismatch(planned, device.key)
        for line in [*lines, *([] if other is None else [other])]:
            self._callbacks.note(line)
        return planned

    def _order(self, number: int, failed: Collection[str] = ()) -> list[str]:
        """Labels of the devices that are to take part in that round and are ready, in their order."""
        ready, finished = self._members.ready(), self._journal.finished_in(number)
        places = {label: place for place, label in enumerate(self._schedule.devices)}
        order = sorted(ready, key=lambda name: (places.get(ready[name].planned, 0), natural(name)))
        wanted = self.settings.participants
        if wanted is None:
            return order
        # By a number of each own, so that who comes or leaves changes nobody else's turn.
        others = set(ready) - set(failed) - finished
        drawn = sorted(others, key=lambda name: self._lot(number, name))[: max(0, wanted - len(finished))]
        return [name for name in order if name in drawn or name in finished]

    def _lot(self, number: int, name: str) -> str:
        return content_hash({"seed": self.settings.seed, "round": number, "device": name})

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
            # Asked again before each turn: devices come and go while others compute.
            finished = self._journal.finished_in(number)
            left = [n for n in self._order(number, tried - finished) if n not in tried | finished]
            if not left:
                break
            tried.add(left[0])
            self._alone(number, left[0])
        if not self._journal.finished_in(number):
            return False
        self._journal.close_round()
        return True

    def _alone(self, number: int, name: str) -> None:
        steps = SerialSteps(self._shared)
        with self._measured() as meter:
            turn = self._begin(number, name, steps)
            if turn is not None:
                self._serve([turn], steps)
        if turn is None or turn.finished is None:
            return
        power_w = meter.power_w
        # The meter's window is a little longer than the turn: power is its mean, time is the turn's.
        energy_j = None if power_w is None else power_w * turn.finished.elapsed_s
        done = replace(self._with_state(turn.finished), energy_j=energy_j, power_w=power_w)
        self.adapters = turn.adapters
        self._journal.commit(self.adapters, done)
        self._keep(turn, done)

    def _parallel(self, number: int) -> bool:
        with self._measured() as meter:
            order = self._order(number)
            steps = self._steps(number, order)
            turns = [turn for name in order if (turn := self._begin(number, name, steps)) is not None]
            self._serve(turns, steps)
        finished = [(turn, turn.finished) for turn in turns if turn.finished is not None]
        if not finished:
            return False
        # The round's energy belongs to all of them: only the power is theirs.
        done = [replace(self._with_state(f), power_w=meter.power_w) for _, f in finished]
        self.adapters = averaged([turn.adapters for turn, _ in finished], [turn.rows for turn, _ in finished])
        self._journal.commit(self.adapters, *done, close=True)
        for (turn, _), kept in zip(finished, done, strict=True):
            self._keep(turn, kept)
        return True

    def _steps(self, number: int, order: list[str]) -> Steps:
        if self.settings.server_sharing != BATCHED:
            return SerialSteps(self._shared)
        ready = self._members.ready()
        cuts = {name: self._schedule.at(number, ready[name].planned).cut for name in order if name in ready}
        cut = common_cut(cuts, number)
        return BatchedSteps(self._shared, self.adapters, cut)

    @contextmanager
    def _measured(self) -> Iterator[EnergyMeter]:
        meter = EnergyMeter(self._frequency.platform)
        self._read = State()
        with meter.recording():
            yield meter
        if meter.problem is not None and not self._meter_said:
            self._meter_said = True
            self._callbacks.note(f"the server's energy is not known: {meter.problem}")
        self._shared.forget()

    def _begin(self, number: int, name: str, steps: Steps) -> Turn | None:
        member: Member | None = self._members.ready().get(name)
        if member is None:
            return None
        assignment = self._schedule.at(number, member.planned, member.device.key)
        if member.inputs.batch not in (None, self.settings.task.batch):
            # Profiles and plans are of the task's mini-batches.
            assignment = replace(assignment, expected=Prediction())
        # Compiling takes seconds and would be taken for the first round's encoding.
        warm_codec(assignment.codec or self.settings.codec)
        begin_s = now_s()
        # Inside the time of the turn: what the switch takes is part of the round.
        refused = self._frequency.hold(assignment.frequency_hz)
        if refused is not None:
            self._callbacks.note(f"the server's frequency is not the planned one: {refused}")
        order = TurnOrder(
            settings=self.settings,
            peer=member.peer,
            device=member.device,
            round=number,
            assignment=assignment,
            inputs=member.inputs,
            adapters=self.adapters,
            residual=self._residuals.get(name),
        )
        turn = Turn(order, steps)
        self._transport.send(member.peer, turn.start(begin_s))
        return turn

    def _serve(self, turns: list[Turn], steps: Steps) -> None:
        """Answer these devices until each has finished or was given up."""
        active = {turn.peer: turn for turn in turns}
        while active:
            self._receive(active, _LOOK_S)
            for turn in [t for t in active.values() if t.finished is not None]:
                del active[turn.peer]
            for turn in list(active.values()):
                self._check_alive(turn, active)
            self._compute(steps, active)

    def _compute(self, steps: Steps, active: dict[bytes, Turn]) -> None:
        """Compute the mini-batches that waited for one another, when all have come."""
        turns = steps.due(active.values())
        if not turns:
            return
        try:
            for turn, answer in steps.compute(turns):
                self._transport.send(turn.peer, answer)
        except NotFiniteError as error:
            for turn in [turns[place] for place in error.places]:
                self._give_up(turn, active, error.message)
                self._members.refuse(turn.peer, error)
        self._read_state()

    def _read_state(self) -> None:
        """Once in each round, under load."""
        if self._read == State():
            self._read = self._frequency.read()

    def _with_state(self, turn: FinishedTurn) -> FinishedTurn:
        return replace(turn, frequency_hz=self._read.frequency_hz, temperature_c=self._read.temperature_c)

    def _check_alive(self, turn: Turn, active: dict[bytes, Turn]) -> None:
        member = self._members.of(turn.peer)
        if member is None:
            self._give_up(turn, active, "the device left")
        elif self._transport.silence_s(turn.peer) > self._patience.silence_s:
            self._give_up(turn, active, f"the device is silent for {self._patience.silence_s:g} s")
            self._members.drop(turn.peer, "it is silent")
        elif now_s() - turn.last_s > self._patience.stage_s:
            self._give_up(turn, active, f"nothing came for {self._patience.stage_s:g} s")
            # It answers pulses, so it lives: it may come back when it is ready again.
            member.ready = False
        elif turn.taken_s > (self.settings.deadline_s or float("inf")):
            self._give_up(turn, active, f"it took longer than --deadline {self.settings.deadline_s:g} s")
            member.ready = False

    def _give_up(self, turn: Turn, active: dict[bytes, Turn], reason: str) -> None:
        # Before anything is sent: the shared half must not give adapters back to a turn that is lost.
        turn.active = False
        active.pop(turn.peer, None)
        self._callbacks.note(f"round {turn.round} of {turn.device.name} is abandoned: {reason}")
        self._transport.send(turn.peer, Abandoned(round=turn.round, reason=reason))

    def _receive(self, active: dict[bytes, Turn], timeout_s: float) -> None:
        """Take one message, whoever sent it; who sends nonsense is refused."""
        came = self._transport.receive(timeout_s)
        if came is None:
            self._callbacks.watch()
            return
        peer, parts, arrived_s = came
        try:
            answer = self._answer(peer, decode(parts), active, arrived_s)
        except DiskError:
            # No fault of the device: nothing can be kept any more.
            raise
        except RunError as error:
            turn = active.get(peer)
            if turn is not None:
                self._give_up(turn, active, error.message)
            self._members.refuse(peer, error)
            return
        if answer is not None:
            self._transport.send(peer, answer)

    def _answer(
        self, peer: bytes, message: Message, active: dict[bytes, Turn], arrived_s: float
    ) -> Gradients | Judged | None:
        """Do what a message asks for. Raises RunError for what has no place here."""
        turn, evaluation = active.get(peer), self._judging.get(peer)
        match message:
            case Hello():
                self._judging.pop(peer, None)
                if turn is not None:
                    self._give_up(turn, active, "the device joined again")
                self._members.join(peer, message)
            case Ready():
                member = self._members.of(peer)
                if member is not None:
                    self._journal.admit(member.device.name, message.inputs)
                self._members.mark_ready(peer, message.inputs)
            case Bye():
                self._members.drop(peer, message.reason[:300] or "it said goodbye")
            case Activations() | AdaptersReturn() if turn is None:
                # What comes of a round that was given up is late, and no fault of a device that is known here.
                if self._members.of(peer) is None:
                    self._members.ask_to_join(peer)
            case Activations() if turn is not None:
                answer = turn.mini_batch(message, arrived_s, shared=len(active) > 1)
                self._read_state()
                return answer
            case AdaptersReturn() if turn is not None:
                turn.finish(message, arrived_s)
                self._read_state()
            case HeldOut() | Evaluated() if evaluation is None:
                if self._members.of(peer) is None:
                    self._members.ask_to_join(peer)
            case HeldOut() if evaluation is not None:
                return evaluation.judge(message)
            case Evaluated() if evaluation is not None:
                evaluation.finish(message)
            case _:
                raise FrameError(f"a message {message.KIND!r} came where none belongs", code=RefusalCode.OUT_OF_TURN)
        return None

    def _keep(self, turn: Turn, done: FinishedTurn) -> None:
        if turn.feedback is not None:
            self._residuals[done.device] = turn.feedback.residual
        self._callbacks.finished(done)
        # Only after the disk has it: the device counts the round as done from here on.
        self._transport.send(turn.peer, Stored(round=done.round, loss=done.loss, delay_s=done.delay_s))
