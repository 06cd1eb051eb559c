"""Tokens of a training file on disk: made once, mapped into memory by every process that trains on them.

    page 0      a line of JSON: what the file is for (key), sizes, the CRC of all that follows, and facts
    tokens      [N] of 1, 2 or 4 bytes, as many as the largest needs
    offsets     [M + 1] int64: where each sample begins; none where all tokens are one text
    firsts      [M] int32: the first token of each sample, but its very first, that the loss is on
    learned     [N] bool: which tokens the loss is on; all three as above

The first page is written last, and the file gets its name when it is whole. A file that is damaged, of another version
or of something else is made anew. Makers of one file wait for each other; one that is killed leaves a draft that the
next one writes over.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from cardlab.core.errors import RunError
from cardlab.core.plain import Document

FORMAT = 1
_PAGE = 4096
_PIECE = 2**20
_UNSIGNED = (np.uint8, np.uint16, np.uint32)
ROOM = "make room there, or set XDG_CACHE_HOME to a folder with more"

NOWHERE = 2**31 - 1

TokenArray = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSamples:
    """Samples as tokens, one behind the other.

    Attributes:
        tokens: [N] of whole numbers.
        learned: bool [N]: which of them the loss is on.
        offsets: int64 [M + 1]: where samples begin, and where the last one ends.
        firsts: int32 [M]: see `first_learned`.
        highest: of the tokens, -1 for none.
    """

    tokens: TokenArray
    learned: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int64]
    firsts: npt.NDArray[np.int32]
    highest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTokens:
    """The content of a file.

    Attributes:
        tokens: [N], mapped.
        highest: of the tokens, -1 for none.
        samples: how they are samples; None where all tokens are one text.
        facts: what else was kept.
        path: of the file.
    """

    tokens: TokenArray
    highest: int
    samples: StoredSamples | None
    facts: Document
    path: Path


def first_learned(learned: npt.NDArray[np.bool_]) -> int:
    """Place of the first token behind the very first that the loss is on; `NOWHERE` for none."""
    at = int(learned[1:].argmax()) + 1 if len(learned) > 1 else 0
    return at if at and learned[at] else NOWHERE


class TokenWriter:
    """Takes what a file is to hold, in order."""

    def __init__(self, file: BinaryIO, vocabulary: int) -> None:
        self._file = file
        self._type = next(kind for kind in _UNSIGNED if vocabulary - 1 <= np.iinfo(kind).max)
        self._count = self._samples = 0
        self._highest = -1
        # Beside the draft: a folder of the system for such files may be small, or in memory.
        folder = Path(file.name).parent
        self._offsets, self._firsts, self._learned = (tempfile.TemporaryFile(dir=folder) for _ in range(3))  # noqa: SIM115
        self._file.seek(_PAGE)

    def add(self, tokens: TokenArray, learned: npt.NDArray[np.bool_] | None = None) -> None:
        """The next tokens; with `learned`: the next sample."""
        if len(tokens):
            self._highest = max(self._highest, int(tokens.max()))
        self._file.write(np.ascontiguousarray(tokens, dtype=self._type).data)
        if learned is not None:
            self._offsets.write(np.int64(self._count).tobytes())
            self._firsts.write(np.int32(first_learned(learned)).tobytes())
            self._learned.write(np.ascontiguousarray(learned, dtype=np.bool_).data)
            self._samples += 1
        self._count += len(tokens)

    def close(self) -> None:
        """Release what is only for writing."""
        self._offsets.close()
        self._firsts.close()
        self._learned.close()

    def finish(self, key: str, facts: Document) -> None:
        """Put everything in its place and say what it is."""
        if self._samples:
            self._offsets.write(np.int64(self._count).tobytes())
            self._file.write(b"\0" * (-self._file.tell() % 8))
            for part in (self._offsets, self._firsts, self._learned):
                part.seek(0)
                while piece := part.read(_PIECE):
                    self._file.write(piece)
        size = self._file.tell()
        self._file.flush()
        head = {
            "format": FORMAT,
            "key": key,
            "type": np.dtype(self._type).name,
            "tokens": self._count,
            "samples": self._samples,
            "highest": self._highest,
            "bytes": size,
            "crc": _crc(self._file),
            "facts": facts,
        }
        text = json.dumps(head).encode()
        if len(text) >= _PAGE:
            raise ValueError(f"facts of {len(text)} bytes have no room")
        self._file.seek(0)
        self._file.write(text + b"\n" * (_PAGE - len(text)))
        self._file.flush()
        os.fsync(self._file.fileno())


def _crc(file: BinaryIO) -> int:
    """Of all behind the first page."""
    file.seek(_PAGE)
    found = 0
    while piece := file.read(_PIECE):
        found = zlib.crc32(piece, found)
    return found


class Maker(Protocol):
    """Makes what a file is to hold."""

    def __call__(self, writer: TokenWriter) -> Document:
        """Hand everything to the writer; returns the facts."""


def stored_tokens(path: Path, key: str, vocabulary: int, make: Maker, wait: Callable[[], None]) -> StoredTokens:
    """What the file at `path` holds, which is made first where it is not there or not whole.

    Args:
        key: of what it is for, in words that nothing else has.
        vocabulary: no token is as high.
        wait: told that another process makes it.

    Raises RunError for a folder that cannot be written or is full, and what `make` raises.
    """
    found = read_tokens_file(path, key)
    while found is None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _draft(path, wait) as file:
                if file is not None:
                    _write(file, key, vocabulary, make)
                    Path(file.name).replace(path)
        except OSError as error:
            raise RunError(f"tokens cannot be kept in {path.parent}: {error.strerror or error}", remedy=ROOM) from error
        found = read_tokens_file(path, key)
    return found


def _write(file: BinaryIO, key: str, vocabulary: int, make: Maker) -> None:
    file.truncate(0)
    writer = TokenWriter(file, vocabulary)
    whole = False
    try:
        writer.finish(key, make(writer))
        whole = True
    finally:
        writer.close()
        if not whole:
            Path(file.name).unlink(missing_ok=True)


@contextmanager
def _draft(path: Path, wait: Callable[[], None]) -> Iterator[BinaryIO | None]:
    """The draft of a file, held by this process alone; None where another one had it and is done."""
    draft = path.with_name(f"{path.name}.part")
    with open(draft, "r+b", _PIECE, opener=lambda name, flags: os.open(name, flags | os.O_CREAT, 0o644)) as file:  # noqa: PTH123
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        # Whoever had it may have given it its name, or thrown it away.
        try:
            held = draft.stat().st_ino == os.fstat(file.fileno()).st_ino
        except FileNotFoundError:
            held = False
        yield file if held else None


def read_tokens_file(path: Path, key: str) -> StoredTokens | None:
    """What a file holds, mapped; None where it is not there, not whole or for something else."""
    try:
        with path.open("rb") as file:
            head = json.loads(file.read(_PAGE))
            size = os.fstat(file.fileno()).st_size
            if (head["format"], head["key"], head["bytes"]) != (FORMAT, key, size) or _crc(file) != head["crc"]:
                return None
            return _mapped(path, head)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _mapped(path: Path, head: Document) -> StoredTokens:
    kind, count, rows = str(head["type"]), int(head["tokens"]), int(head["samples"])
    tokens, highest = _map(path, kind, _PAGE, count), int(head["highest"])
    samples = None
    if rows:
        end = _PAGE + tokens.nbytes
        offsets = _map(path, "int64", end + (-end % 8), rows + 1)
        begin = end + (-end % 8) + offsets.nbytes
        firsts = _map(path, "int32", begin, rows)
        learned = _map(path, "bool", begin + firsts.nbytes, count)
        samples = StoredSamples(tokens=tokens, learned=learned, offsets=offsets, firsts=firsts, highest=highest)
    return StoredTokens(tokens=tokens, highest=highest, samples=samples, facts=head["facts"], path=path)


def _map(path: Path, kind: str, begin: int, count: int) -> TokenArray:
    # Nothing can be mapped of nothing.
    if not count:
        return np.empty(0, kind)
    with path.open("rb") as file:
        page = begin - begin % mmap.ALLOCATIONGRANULARITY
        held = mmap.mmap(
            file.fileno(), begin - page + count * np.dtype(kind).itemsize, access=mmap.ACCESS_READ, offset=page
        )
    # Rows are taken in no order: what lies behind one is not read for it.
    held.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(held, dtype=kind, count=count, offset=begin - page)
