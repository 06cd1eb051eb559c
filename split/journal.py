"""What is finished, on disk: after a crash a run goes on from its last finished round.

    OUT/journal.json         what the run began with
    OUT/turns.jsonl          what happened since, a line a step: finished turns, closed rounds, changes
    OUT/state-K.safetensors  adapters and optimizer state of all layers after K turns
    OUT/adapters/            the same adapters for PEFT, written when the run ends

A commit writes the state under a new name, then the step that names it, each flushed to the disk; a process
killed at any moment leaves the one or the other whole. Journals of 0.1.0 (format 1) and those that were rewritten with
every turn (format 2) are read too, and become one of this format with their next step.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from cardlab import __version__
from cardlab.core.errors import RunError
from cardlab.core.plain import Document, from_plain, to_plain
from cardlab.core.quantity import Provenance
from cardlab.core.records.device import Device
from cardlab.core.records.plan import TERMS, Decision
from cardlab.core.records.training import DeviceReading, TrainQuality
from cardlab.split.adapters import AdapterSet, flat, unflat
from cardlab.split.journal_files import FORMAT, HEAD, STEPS, Steps, from_first, put
from cardlab.split.settings import Inputs, RunSettings, check_inputs, check_same_tokenizer

_LOCK = ".lock"
_AGAIN = "start afresh in another --out"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedTurn:
    """One round of one device as it was finished.

    Attributes:
        description: of the device; its name is the label.
        codec: of smashed data and gradients.
        gradient_norms: of the whole model at each step, before clipping; () without clipping.
        rows: of the device's data, |D_m|, which it counts for in an average.
        tokens: that were trained on, padding apart; None in older journals.
        terms: seconds by term, waiting apart.
        elapsed_s: from the server's first act to the adapters' return.
        up_bytes, down_bytes, adapter_bytes: payload from and to the device, and its adapters (one way).
        rtt_s: shortest round trip seen.
        frequency_hz: of the server under load, None where it cannot be read.
        power_w, energy_j: of the server, mean and over that time, None without a meter; devices at once have no
            energy of their own.
        predicted, predicted_ci95, predicted_delay_ci95: what was expected, where anything was.
        predicted_provenance: what that was made of; None where nothing was expected, or in older journals.
        predicted_ratios: of terms, what the profile's prediction was multiplied by, as rounds before had taught.
        predicted_energy_j, predicted_device_energy_j: of the server and of the device, as a meter counts.
        temperature_c: of the server under load, None where it cannot be read.
        device_reading: what the device read of itself; None in older journals.
    """

    round: int
    description: Device
    cut: int
    codec: str
    losses: tuple[float, ...]
    terms: Mapping[str, float]
    waiting_s: float
    elapsed_s: float
    up_bytes: int
    down_bytes: int
    adapter_bytes: int
    rtt_s: float | None = None
    frequency_hz: float | None = None
    power_w: float | None = None
    energy_j: float | None = None
    predicted: Mapping[str, float] = field(default_factory=dict)
    predicted_ci95: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    predicted_delay_ci95: tuple[float, float] | None = None
    predicted_provenance: Provenance | None = None
    predicted_ratios: Mapping[str, float] = field(default_factory=dict)
    gradient_norms: tuple[float, ...] = ()
    rows: int = 1
    tokens: int | None = None
    predicted_energy_j: float | None = None
    predicted_device_energy_j: float | None = None
    temperature_c: float | None = None
    device_reading: DeviceReading | None = None

    def __post_init__(self) -> None:
        if set(self.terms) != set(TERMS) or not {*self.predicted, *self.predicted_ci95} <= set(TERMS):
            raise ValueError(f"a finished turn has the terms {sorted(self.terms)}")
        if not self.losses:
            raise ValueError("a finished turn has no losses")

    @property
    def device(self) -> str:
        """Label of the device."""
        return self.description.name

    @property
    def delay_s(self) -> float:
        """Round delay: the sum of the terms."""
        return float(sum(self.terms.values()))

    @property
    def grad_norm(self) -> float | None:
        """Of the whole model at the last step, before clipping; None without clipping."""
        return self.gradient_norms[-1] if self.gradient_norms else None

    @property
    def device_energy_j(self) -> float | None:
        """Of the device over its round; None without a meter."""
        return None if self.device_reading is None else self.device_reading.energy_j

    @property
    def device_frequency_hz(self) -> float | None:
        """Of the device under load; None where it cannot be read."""
        return None if self.device_reading is None else self.device_reading.frequency_hz

    @property
    def loss(self) -> float:
        """Mean over the mini-batches."""
        return sum(self.losses) / len(self.losses)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Under what a run is made that does not shape its results: CPU threads of the server, shape of the links."""

    threads: int | None = None
    link: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What was changed when a run went on.

    Attributes:
        after: rounds that were over.
        turns: that were finished: more than those of these rounds where one was in progress.
        at: time of day, UTC.
        rounds, learning_rate, conditions: from then on; None as before.
    """

    after: int
    turns: int
    at: str
    rounds: int | None = None
    learning_rate: float | None = None
    conditions: Conditions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Readjustment:
    """What was decided anew between two rounds.

    Attributes:
        after: rounds that were over.
        decisions: of all devices, by planned label, from the next round on.
        lines: in words.
    """

    after: int
    decisions: tuple[Decision, ...]
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The journal's content.

    Attributes:
        settings: as they are now; `rates` says what held before.
        closed: rounds that are over.
        turns: finished, in order.
        state: file name of the adapters after them, None before the first.
        done: the run has ended.
        inputs: what each device trains with, by label.
        judged: how well each device's held-out rows were predicted, in order.
        conditions: now; unknown in older journals.
        changes: in order.
        rates: learning rates by the round from which they held, in order.
        readjusted: decisions that were made between rounds, in order.
        format: of the journal.
    """

    settings: RunSettings
    started_at: str
    closed: int = 0
    turns: tuple[FinishedTurn, ...] = ()
    state: str | None = None
    done: bool = False
    inputs: Mapping[str, Inputs] = field(default_factory=dict)
    judged: tuple[TrainQuality, ...] = ()
    conditions: Conditions = field(default_factory=Conditions)
    changes: tuple[Change, ...] = ()
    rates: tuple[tuple[int, float], ...] = ()
    readjusted: tuple[Readjustment, ...] = ()
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    """Content of journal.json."""

    settings: RunSettings
    started_at: str
    conditions: Conditions = field(default_factory=Conditions)
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A line of turns.jsonl: turns that were finished, and what else is another from then on; None as before."""

    turns: tuple[FinishedTurn, ...] = ()
    closed: int | None = None
    state: str | None = None
    done: bool | None = None
    inputs: Mapping[str, Inputs] | None = None
    judged: tuple[TrainQuality, ...] = ()
    change: Change | None = None
    readjusted: Readjustment | None = None


def _after(found: Progress, step: _Step) -> Progress:
    """Everything but the turns, which would be copied with each step."""
    told = {name: value for name in ("closed", "state", "done", "inputs") if (value := getattr(step, name)) is not None}
    if step.judged:
        told["judged"] = (*found.judged, *step.judged)
    if step.readjusted is not None:
        told["readjusted"] = (*found.readjusted, step.readjusted)
    if step.change is None:
        return replace(found, **told)
    change, settings = step.change, found.settings
    rate = settings.learning_rate if change.learning_rate is None else change.learning_rate
    # What held for no round is no part of the history.
    rates = tuple(entry for entry in found.rates if entry[0] <= change.after)
    return replace(
        found,
        settings=replace(settings, rounds=change.rounds or settings.rounds, learning_rate=rate),
        conditions=change.conditions or found.conditions,
        changes=(*found.changes, change),
        rates=found.rates if change.learning_rate is None else (*rates, (change.after + 1, rate)),
        **told,
    )


class Journal:
    """The journal in one folder; what it says is on disk."""

    def __init__(self, folder: Path, progress: Progress, steps: Steps | None = None) -> None:
        self.folder = folder
        # Turns in a list of their own: a step costs the same however many there are.
        self._now, self._turns = replace(progress, turns=()), list(progress.turns)
        self._whole: Progress | None = progress
        # None of an older format, whose file holds everything.
        self._steps = steps
        # Asked for, and on disk only with the first thing that is done under it.
        self._asked: _Step | None = None
        self._finished: dict[int, set[str]] = {}
        self._names: set[str] = set()
        self._index(self._turns)

    @property
    def progress(self) -> Progress:
        """All that is on disk, and a change that is not yet; put together when it is asked for."""
        if self._whole is None:
            self._whole = replace(self._now, turns=tuple(self._turns))
        return self._whole

    @property
    def settings(self) -> RunSettings:
        """Those of the run, as they are now."""
        return self._now.settings

    @property
    def inputs(self) -> Mapping[str, Inputs]:
        """What each device that ever was ready trains with, by label."""
        return self._now.inputs

    @property
    def judged(self) -> tuple[TrainQuality, ...]:
        """What held-out rows said, in order."""
        return self._now.judged

    @property
    def went_on_after(self) -> int:
        """Rounds that were over when the run was last made longer; 0 where it never was."""
        return next((change.after for change in reversed(self._now.changes) if change.rounds is not None), 0)

    @property
    def readjusted(self) -> tuple[Readjustment, ...]:
        """What was decided anew between rounds, in order."""
        return self._now.readjusted

    def readjust(self, found: Readjustment) -> None:
        """Keep what the rounds to come do, before the first of them begins."""
        self._add(_Step(readjusted=found))

    @property
    def closed(self) -> int:
        """Rounds that are over."""
        return self._now.closed

    @property
    def turns(self) -> Sequence[FinishedTurn]:
        """Finished ones in order, as many as there are now; not a copy."""
        return self._turns

    @classmethod
    def begin(
        cls, folder: Path, settings: RunSettings, started_at: str, conditions: Conditions | None = None
    ) -> Journal:
        """A new run; RunError where an unfinished one is there that has finished a round.

        A run that failed before its first round holds nothing, and gives way to the corrected command.
        """
        if (folder / HEAD).exists():
            found, _ = _read(folder)
            if found.turns and not found.done:
                raise RunError(
                    f"{folder} holds an unfinished run", remedy="go on with --resume, or name another folder with --out"
                )
        progress = Progress(
            settings=settings,
            started_at=started_at,
            conditions=conditions or Conditions(),
            rates=((1, settings.learning_rate),),
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{folder} cannot be written: {error.strerror or error}", remedy="name another folder with --out"
            ) from error
        # Emptied first: the steps of the run that was there are not those of this one.
        put(folder / STEPS, b"")
        put(folder / HEAD, _head(progress))
        # After the journal is there: until then the old files are what it names.
        for old in folder.glob("state-*.safetensors"):
            old.unlink()
        return cls(folder, progress, Steps(folder / STEPS))

    @classmethod
    def check_vacant(cls, folder: Path) -> None:
        """Raise RunError where a finished run is: its adapters would be lost."""
        if (folder / HEAD).exists() and _read(folder)[0].done:
            raise RunError(
                f"{folder} holds a finished run and its adapters", remedy="name another folder with --out, or remove it"
            )

    @classmethod
    def resume(cls, folder: Path) -> Journal:
        """The run in the folder, which goes on with this version; RunError if there is none. Writes nothing."""
        if not (folder / HEAD).exists():
            raise RunError(f"{folder} holds no run to go on with", remedy="start afresh without --resume")
        found, steps = _read(folder)
        return cls(folder, replace(found, settings=replace(found.settings, version=__version__)), steps)

    def adapters(self) -> AdapterSet | None:
        """Adapters and optimizer state after the last commit, None before the first."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if self._now.state is None:
            return None
        path = self.folder / self._now.state
        try:
            return unflat(load_file(str(path)))
        except (OSError, SafetensorError) as error:
            raise RunError(f"{path} cannot be read: {error}", remedy=_AGAIN) from error

    def admit(self, name: str, inputs: Inputs) -> None:
        """Keep what a device trains with. Raises RefusalError if its rounds so far, or other devices, had another.

        Else a run that goes on with other data or another tokenizer would train on nonsense without a word.
        """
        known = self._now.inputs
        check_same_tokenizer(name, inputs, known)
        self.check_inputs(name, inputs)
        if known.get(name) != inputs:
            self._add(_Step(inputs={**known, name: inputs}))

    def check_inputs(self, name: str, inputs: Inputs) -> None:
        """Raise RefusalError for what is not what a device trained with in its rounds so far."""
        before = self._now.inputs.get(name)
        if before is not None and name in self._names:
            check_inputs(name, inputs, before)

    def commit(self, adapters: AdapterSet, *turns: FinishedTurn, close: bool = False) -> None:
        """Keep the adapters and the turns that led to them; when this returns, both are on disk. Raises DiskError."""
        from safetensors.torch import save

        old = self._now
        name = f"state-{len(self._turns) + len(turns)}.safetensors"
        put(self.folder / name, save({key: tensor.contiguous() for key, tensor in flat(adapters).items()}))
        self._add(_Step(turns=turns, closed=old.closed + int(close), state=name))
        # Only now: a crash before this leaves the state that the journal names.
        if old.state is not None and old.state != name:
            (self.folder / old.state).unlink(missing_ok=True)

    def judge(self, *judged: TrainQuality) -> None:
        """Keep how well held-out rows were predicted."""
        self._add(_Step(judged=judged))

    def close_round(self, *, done: bool = False) -> None:
        """The round in progress is over; with `done` the whole run is."""
        if done:
            self._add(_Step(done=True))
        else:
            self._add(_Step(closed=self._now.closed + 1))

    def change(self, change: Change) -> None:
        """Go on with other settings; a run with rounds left is not done any more.

        It is on disk with the first turn, verdict or end that follows. A run whose devices are refused stays as it was.
        """
        if self._steps is None:
            # An older journal is written anew as it is, before it holds what was only asked for.
            self._convert()
        more = (change.rounds or self.settings.rounds) > self.closed
        self._asked = _Step(change=change, done=False if more else None)
        self._now, self._whole = _after(self._now, self._asked), None

    def finished_in(self, number: int) -> set[str]:
        """Devices that finished that round."""
        return self._finished.get(number, set())

    def _add(self, step: _Step) -> None:
        if self._steps is None:
            self._convert()
        assert self._steps is not None
        # A device that is let in has done nothing yet.
        if self._asked is not None and step.inputs is None:
            asked, self._asked = self._asked, None
            self._steps.add(_plain(asked))
        self._steps.add(_plain(step))
        self._now = _after(self._now, step)
        self._turns += step.turns
        self._index(step.turns)
        self._whole = None

    def _convert(self) -> None:
        """Write an older journal anew; until the second file is there, the old one is what counts."""
        put(self.folder / STEPS, b"")
        self._steps = Steps(self.folder / STEPS)
        whole = self.progress
        so_far = {name: to_plain(getattr(whole, name)) for name in ("turns", "closed", "state", "done", "inputs")}
        self._steps.add({key: value for key, value in so_far.items() if value is not None})
        put(self.folder / HEAD, _head(whole))

    def _index(self, turns: Sequence[FinishedTurn]) -> None:
        for turn in turns:
            self._finished.setdefault(turn.round, set()).add(turn.device)
            self._names.add(turn.device)


def _plain(step: _Step) -> Document:
    return {key: value for key, value in to_plain(step).items() if value not in (None, [])}


def _head(progress: Progress) -> bytes:
    begun = _Begun(settings=progress.settings, started_at=progress.started_at, conditions=progress.conditions)
    return json.dumps(to_plain(begun)).encode("utf-8")


def check_room(folder: Path, state_bytes: int) -> None:
    """Raise RunError where a disk has no room for the adapters of a run and for those that replace them.

    Args:
        state_bytes: of adapters and optimizer state.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    disk = shutil.disk_usage(there)
    # File systems of the kernel have no size, and one that is mounted read-only takes nothing of root's either.
    if disk.total == 0 or not os.access(there, os.W_OK):
        raise RunError(f"{folder} cannot be written: {there} takes no files", remedy="name another folder with --out")
    free = disk.free
    if free < 2 * state_bytes:
        raise RunError(
            f"{folder} has room for {free // 2**20} MiB, and a run keeps {2 * state_bytes // 2**20 + 1} MiB there",
            remedy="make room, or name a folder on another disk with --out",
        )


def _unwritable(folder: Path, error: OSError) -> RunError:
    return RunError(f"{folder} cannot be written: {error.strerror or error}", remedy="name another folder with --out")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder; RunError where another process does, as two servers would overwrite each other's files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written: {error.strerror or error}", remedy="name another folder with --out"
        ) from error
    try:
        try:
            # Given back by the system when the process ends, however it ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another run works in {folder}", remedy="wait for its end, or name another folder with --out"
            ) from None
        except OSError:
            # A file system without locks: as before there were any.
            pass
        yield
    finally:
        os.close(lock)


def _read(folder: Path) -> tuple[Progress, Steps | None]:
    """What a folder's journal says, and its steps; None of an older format."""
    path = folder / HEAD
    try:
        plain = json.loads(path.read_text("utf-8"))
        if not isinstance(plain, dict):
            raise ValueError("it is no object")
        number = plain.get("format", 1)
        if number in (1, 2):
            return _from_older(plain if number == 2 else from_first(plain)), None
        if number == FORMAT:
            return _replayed(from_plain(_Begun, plain), *Steps.read(folder / STEPS))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path} cannot be understood: {error}", remedy=_AGAIN) from error
    raise RunError(
        f"{path} has the format {str(number)[:20]}, and this cardlab reads 1 to {FORMAT}",
        remedy="go on with the cardlab that began the run, or start afresh in another --out",
    )


def _from_older(plain: Document) -> Progress:
    found = from_plain(Progress, {**plain, "format": FORMAT})
    return replace(found, rates=((1, found.settings.learning_rate),))


def _replayed(begun: _Begun, steps: Steps, found: list[Document]) -> tuple[Progress, Steps]:
    progress = Progress(
        settings=begun.settings,
        started_at=begun.started_at,
        conditions=begun.conditions,
        rates=((1, begun.settings.learning_rate),),
    )
    turns: list[FinishedTurn] = []
    for plain in found:
        step = from_plain(_Step, plain)
        progress = _after(progress, step)
        turns += step.turns
    return replace(progress, turns=tuple(turns)), steps
