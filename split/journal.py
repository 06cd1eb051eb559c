"""What is finished, on disk: after a crash a run goes on from its last finished round.

    OUT/journal.json         settings, finished turns, closed rounds; replaced whole, never changed in place
    OUT/state-K.safetensors  adapters and optimizer state of all layers after the K-th commit
    OUT/adapters/            the same adapters for PEFT, written when the run ends

A commit writes the state under a new name, then the journal that names it, each flushed to the disk; a process
killed at any moment leaves the one or the other whole. A journal of 0.1.0 (format 1) is read as one of this version.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from cardlab import __version__
from cardlab.core.errors import RunError
from cardlab.core.plain import from_plain, to_plain
from cardlab.core.quantity import Provenance
from cardlab.core.records.device import Device
from cardlab.core.records.plan import TERMS
from cardlab.core.records.training import TrainQuality
from cardlab.split.adapters import AdapterSet, flat, unflat
from cardlab.split.settings import Inputs, RunSettings, check_inputs, check_same_tokenizer

_NAME, _LOCK = "journal.json", ".lock"
FORMAT = 2


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
    gradient_norms: tuple[float, ...] = ()
    rows: int = 1
    tokens: int | None = None

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
    def loss(self) -> float:
        """Mean over the mini-batches."""
        return sum(self.losses) / len(self.losses)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The journal's content.

    Attributes:
        closed: rounds that are over.
        turns: finished, in order.
        state: file name of the adapters after them, None before the first.
        done: the run has ended.
        inputs: what each device trains with, by label.
        judged: how well each device's held-out rows were predicted, in order.
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
    format: int = FORMAT


class Journal:
    """The journal in one folder; `progress` is what is on disk."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.folder, self.progress = folder, progress

    @classmethod
    def begin(cls, folder: Path, settings: RunSettings, started_at: str) -> Journal:
        """A new run; RunError where an unfinished one is there that has finished a round.

        A run that failed before its first round holds nothing, and gives way to the corrected command.
        """
        if (folder / _NAME).exists():
            found = _read(folder)
            if found.turns and not found.done:
                raise RunError(
                    f"{folder} holds an unfinished run", remedy="go on with --resume, or name another folder with --out"
                )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            journal = cls(folder, Progress(settings=settings, started_at=started_at))
            journal._write(journal.progress)
        except OSError as error:
            raise RunError(f"{folder} cannot be written: {error}", remedy="name another folder with --out") from error
        # After the journal is there: until then the old files are what it names.
        for old in folder.glob("state-*.safetensors"):
            old.unlink()
        return journal

    @classmethod
    def check_vacant(cls, folder: Path) -> None:
        """Raise RunError where a finished run is: its adapters would be lost."""
        if (folder / _NAME).exists() and _read(folder).done:
            raise RunError(
                f"{folder} holds a finished run and its adapters", remedy="name another folder with --out, or remove it"
            )

    @classmethod
    def resume(cls, folder: Path) -> Journal:
        """The unfinished run in the folder, which goes on with this version; RunError if there is none."""
        if not (folder / _NAME).exists():
            raise RunError(f"{folder} holds no run to go on with", remedy="start afresh without --resume")
        found = _read(folder)
        return cls(folder, replace(found, settings=replace(found.settings, version=__version__)))

    def adapters(self) -> AdapterSet | None:
        """Adapters and optimizer state after the last commit, None before the first."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if self.progress.state is None:
            return None
        path = self.folder / self.progress.state
        try:
            return unflat(load_file(str(path)))
        except (OSError, SafetensorError) as error:
            raise RunError(f"{path} cannot be read: {error}", remedy="start afresh in another --out") from error

    def admit(self, name: str, inputs: Inputs) -> None:
        """Keep what a device trains with. Raises RefusalError if its rounds so far, or other devices, had another.

        Else a run that goes on with other data or another tokenizer would train on nonsense without a word.
        """
        old = self.progress
        check_same_tokenizer(name, inputs, old.inputs)
        before = old.inputs.get(name)
        if before is not None and any(turn.device == name for turn in old.turns):
            check_inputs(name, inputs, before)
        if before != inputs:
            self._write(replace(old, inputs={**old.inputs, name: inputs}))

    def commit(self, adapters: AdapterSet, *turns: FinishedTurn, close: bool = False) -> None:
        """Keep the adapters and the turns that led to them; when this returns, both are on disk."""
        from safetensors.torch import save

        old = self.progress
        name = f"state-{len(old.turns) + len(turns)}.safetensors"
        _put(self.folder / name, save({key: tensor.contiguous() for key, tensor in flat(adapters).items()}))
        closed, done = old.closed + int(close), (*old.turns, *turns)
        self._write(replace(old, closed=closed, turns=done, state=name))
        # Only now: a crash before this leaves the state that the journal names.
        if old.state is not None and old.state != name:
            (self.folder / old.state).unlink(missing_ok=True)

    def judge(self, *judged: TrainQuality) -> None:
        """Keep how well held-out rows were predicted."""
        self._write(replace(self.progress, judged=(*self.progress.judged, *judged)))

    def close_round(self, *, done: bool = False) -> None:
        """The round in progress is over; with `done` the whole run is."""
        old = self.progress
        self._write(replace(old, closed=old.closed if done else old.closed + 1, done=done))

    def finished_in(self, number: int) -> set[str]:
        """Devices that finished that round."""
        return {turn.device for turn in self.progress.turns if turn.round == number}

    def _write(self, progress: Progress) -> None:
        _put(self.folder / _NAME, json.dumps(to_plain(progress)).encode("utf-8"))
        self.progress = progress


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder; RunError where another process does, as two servers would overwrite each other's files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error}", remedy="name another folder with --out") from error
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


def _read(folder: Path) -> Progress:
    path = folder / _NAME
    try:
        plain = json.loads(path.read_text("utf-8"))
        if not isinstance(plain, dict):
            raise ValueError("it is no object")
        number = plain.get("format", 1)
        if number in (1, FORMAT):
            return from_plain(Progress, _from_first(plain) if number == 1 else plain)
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path} cannot be understood: {error}", remedy="start afresh in another --out") from error
    raise RunError(
        f"{path} has the format {str(number)[:20]}, and this cardlab reads 1 and {FORMAT}",
        remedy="go on with the cardlab that began the run, or start afresh in another --out",
    )


# What 0.1.0 kept of a turn in a dictionary without a schema, and under other names.
_MOVED = {
    "codec": "codec",
    "adapters_bytes": "adapter_bytes",
    "up_bytes": "up_bytes",
    "down_bytes": "down_bytes",
    "rtt_s": "rtt_s",
    "round_power_w": "power_w",
}


def _from_first(plain: dict[str, object]) -> dict[str, object]:
    """A journal of 0.1.0 as this version writes it; ValueError if it is none."""
    turns = plain.get("turns", [])
    if not isinstance(turns, list):
        raise ValueError("its turns are no list")
    return {**plain, "format": FORMAT, "turns": [_turn_from_first(turn) for turn in turns]}


def _turn_from_first(turn: object) -> dict[str, object]:
    if not isinstance(turn, dict) or not isinstance(turn.get("details"), dict):
        raise ValueError("a turn of it makes no sense")
    moved = {new: turn["details"][old] for old, new in _MOVED.items() if old in turn["details"]}
    return {**turn, "predicted_delay_ci95": turn.get("delay_ci95"), **moved}


def _put(path: Path, data: bytes) -> None:
    """Write a file so that it is whole or not there, and on the disk when this returns."""
    draft = path.with_name(path.name + ".part")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        # Renaming a file whose bytes are not on the disk yet may leave an empty one after a power cut.
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # The name itself is part of the folder and needs a flush of its own.
        os.fsync(folder)
    finally:
        os.close(folder)
