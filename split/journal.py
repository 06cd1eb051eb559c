"""What is finished, on disk: after a crash a run goes on from its last finished round.

    OUT/journal.json         settings, finished turns, closed rounds; replaced whole, never changed in place
    OUT/state-K.safetensors  adapters and optimizer state of all layers after the K-th commit
    OUT/adapters/            the same adapters for PEFT, written when the run ends

A commit writes the state under a new name, then the journal that names it, each flushed to the disk; a process
killed at any moment leaves the one or the other whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cardlab.core.errors import RunError
from cardlab.core.plain import from_plain, to_plain
from cardlab.split.adapters import AdapterSet, flat, unflat
from cardlab.split.settings import RunSettings

_NAME = "journal.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedTurn:
    """One round of one device as it was finished.

    Attributes:
        device: label; `description` is its Device record as plain JSON.
        terms: seconds by term, waiting apart.
        predicted, predicted_ci95, delay_ci95: what was expected, where anything was.
        elapsed_s: from the server's first act to the adapters' return.
        energy_j: of the server over that time, None without a meter.
        details: bytes of each direction and of the adapters, shortest round trip.
    """

    round: int
    device: str
    description: Mapping[str, object]
    cut: int
    frequency_hz: float | None
    losses: tuple[float, ...]
    terms: Mapping[str, float]
    waiting_s: float
    elapsed_s: float
    energy_j: float | None
    predicted: Mapping[str, float] = field(default_factory=dict)
    predicted_ci95: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    delay_ci95: tuple[float, float] | None = None
    details: Mapping[str, object] = field(default_factory=dict)

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
    """

    settings: RunSettings
    started_at: str
    closed: int = 0
    turns: tuple[FinishedTurn, ...] = ()
    state: str | None = None
    done: bool = False


class Journal:
    """The journal in one folder; `progress` is what is on disk."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.folder, self.progress = folder, progress

    @classmethod
    def begin(cls, folder: Path, settings: RunSettings, started_at: str) -> Journal:
        """A new run; RunError where an unfinished one is there."""
        if (folder / _NAME).exists() and not _read(folder).done:
            raise RunError(
                f"{folder} holds an unfinished run", remedy="go on with --resume, or name another folder with --out"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            journal = cls(folder, Progress(settings=settings, started_at=started_at))
            journal._write(journal.progress)
        except OSError as error:
            raise RunError(f"{folder} cannot be written: {error}", remedy="name another folder with --out") from error
        for old in folder.glob("state-*.safetensors"):
            old.unlink()
        return journal

    @classmethod
    def resume(cls, folder: Path) -> Journal:
        """The unfinished run in the folder; RunError if there is none."""
        if not (folder / _NAME).exists():
            raise RunError(f"{folder} holds no run to go on with", remedy="start afresh without --resume")
        return cls(folder, _read(folder))

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

    def commit(self, adapters: AdapterSet, *turns: FinishedTurn, close: bool = False) -> None:
        """Keep the adapters and the turns that led to them; when this returns, both are on disk."""
        from safetensors.torch import save

        old = self.progress
        name = f"state-{len(old.turns) + len(turns)}.safetensors"
        _put(self.folder / name, save({key: tensor.contiguous() for key, tensor in flat(adapters).items()}))
        self._write(
            Progress(
                settings=old.settings,
                started_at=old.started_at,
                closed=old.closed + int(close),
                turns=(*old.turns, *turns),
                state=name,
            )
        )
        if old.state is not None and old.state != name:
            (self.folder / old.state).unlink(missing_ok=True)

    def close_round(self, *, done: bool = False) -> None:
        """The round in progress is over; with `done` the whole run is."""
        old = self.progress
        closed = old.closed if done else old.closed + 1
        self._write(
            Progress(
                settings=old.settings,
                started_at=old.started_at,
                closed=closed,
                turns=old.turns,
                state=old.state,
                done=done,
            )
        )

    def finished_in(self, number: int) -> set[str]:
        """Devices that finished that round."""
        return {turn.device for turn in self.progress.turns if turn.round == number}

    def _write(self, progress: Progress) -> None:
        _put(self.folder / _NAME, json.dumps(to_plain(progress)).encode("utf-8"))
        self.progress = progress


def _read(folder: Path) -> Progress:
    try:
        plain: Any = json.loads((folder / _NAME).read_text("utf-8"))
        return from_plain(Progress, plain)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{folder / _NAME} cannot be understood: {error}", remedy="start afresh in another --out"
        ) from error


def _put(path: Path, data: bytes) -> None:
    """Write a file so that it is whole or not there, and on the disk when this returns."""
    draft = path.with_name(path.name + ".part")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
