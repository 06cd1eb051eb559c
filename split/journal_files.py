"""The files of a journal as plain documents, written so that a process killed at any moment leaves them whole.

    journal.json   what the run began with; written once, under another name first
    turns.jsonl    what happened since, one line a step: {"step": 1, ...}; each is on the disk before the next

So a step costs what it holds, however many there were. A kill in the middle of one leaves a line without its end,
which never counted and is cut off by the next step; such a line anywhere else is damage.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cardlab.core.errors import RunError
from cardlab.core.plain import Document

HEAD, STEPS = "journal.json", "turns.jsonl"
FORMAT = 3


class DiskError(RunError):
    """The folder of a run cannot be written: it is full, read-only or gone."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line what stands in the way of writing there; raises DiskError."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        first = "make room" if full else "make it writable, or name another folder with --out"
        raise DiskError(
            f"cannot write {path}: {error.strerror or error}",
            remedy=f"{first}; finished rounds are kept, and go on with --resume",
        ) from error


def put(path: Path, data: bytes) -> None:
    """Write a file so that it is whole or not there, and on the disk when this returns. Raises DiskError."""
    draft = path.with_name(path.name + ".part")
    with writing(path):
        try:
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                # Renaming a file whose bytes are not on the disk yet may leave an empty one after a power cut.
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError:
            # What is half there would keep the room that is missing.
            draft.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            # The name itself is part of the folder and needs a flush of its own.
            os.fsync(folder)
        finally:
            os.close(folder)


class Steps:
    """The steps of a journal: a file that only grows.

    Args:
        size: bytes of the steps that count; what lies behind them is what a kill left.
        count: of those steps.
    """

    def __init__(self, path: Path, size: int = 0, count: int = 0) -> None:
        self._path, self._size, self._count = path, size, count

    @classmethod
    def read(cls, path: Path) -> tuple[Steps, list[Document]]:
        """The steps of a file in order. Raises OSError, or ValueError naming the line that is damaged."""
        *lines, rest = path.read_bytes().split(b"\n")
        found, size = [], 0
        for number, line in enumerate(lines, 1):
            try:
                found.append(_step(line, number))
            except ValueError as error:
                # The disk may have kept the end of the last line and not its middle, when the power went.
                if number == len(lines) and not rest:
                    break
                raise ValueError(f"line {number} of {path.name} is damaged ({error})") from error
            size += len(line) + 1
        return cls(path, size, len(found)), found

    def add(self, plain: Document) -> None:
        """Append a step; it is on the disk when this returns. Raises DiskError; the steps before stay as they are."""
        line = json.dumps({"step": self._count + 1, **plain}).encode("utf-8") + b"\n"
        with writing(self._path):
            number = os.open(self._path, os.O_WRONLY)
            try:
                if os.fstat(number).st_size != self._size:
                    os.ftruncate(number, self._size)
                at = 0
                while at < len(line):
                    at += os.pwrite(number, line[at:], self._size + at)
                os.fsync(number)
            finally:
                os.close(number)
        self._size, self._count = self._size + len(line), self._count + 1


def _step(line: bytes, number: int) -> Document:
    plain = json.loads(line)
    if not isinstance(plain, dict) or plain.get("step") != number:
        raise ValueError(f"no step {number}")
    return plain


# What 0.1.0 kept of a turn in a dictionary without a schema, and under other names.
_MOVED = {
    "codec": "codec",
    "adapters_bytes": "adapter_bytes",
    "up_bytes": "up_bytes",
    "down_bytes": "down_bytes",
    "rtt_s": "rtt_s",
    "round_power_w": "power_w",
}


def from_first(plain: Document) -> Document:
    """A journal of 0.1.0 (format 1) as format 2 has it; ValueError if it is none."""
    turns = plain.get("turns", [])
    if not isinstance(turns, list):
        raise ValueError("its turns are no list")
    return {**plain, "turns": [_turn_from_first(turn) for turn in turns]}


def _turn_from_first(turn: object) -> Document:
    if not isinstance(turn, dict) or not isinstance(turn.get("details"), dict):
        raise ValueError("a turn of it makes no sense")
    moved = {new: turn["details"][old] for old, new in _MOVED.items() if old in turn["details"]}
    return {**turn, "predicted_delay_ci95": turn.get("delay_ci95"), **moved}
