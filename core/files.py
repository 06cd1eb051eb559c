"""Files of people: text that they bring, in which encoding it is and how much of it there is; places to write to.

Spreadsheets and PowerShell write a byte-order mark or UTF-16, and what then fails is a parser that never saw the
characters. The mark decides; without one the text is UTF-8.
"""

from __future__ import annotations

import codecs
import io
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

from cardlab.core.errors import BadDataError, UsageError

MAX_BYTES = 256 * 2**20
# UTF-32's mark begins with UTF-16's, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: str | Path, *, remedy: str, max_bytes: int = MAX_BYTES) -> str:
    """All text of a file, without a byte-order mark; line ends as they are.

    Args:
        remedy: what to do about a file that cannot be read.

    Raises BadDataError: not there, larger than `max_bytes`, or no text.
    """
    try:
        if Path(path).stat().st_size > max_bytes:
            raise BadDataError(f"{path} is larger than {max_bytes // 2**20} MiB", remedy=remedy)
        data = Path(path).read_bytes()
    except OSError as error:
        raise BadDataError(f"cannot read {path}: {error.strerror or error}", remedy=remedy) from error
    return decode(data, str(path))


def decode(data: bytes, name: str) -> str:
    """The text of these bytes; `name` stands in the error. Raises BadDataError."""
    try:
        text = data.decode(_encoding(data))
    except UnicodeDecodeError as error:
        raise _not_utf8(name) from error
    if "\0" in text:
        raise _with_nul(name)
    return text


def _encoding(begin: bytes) -> str:
    return next((encoding for mark, encoding in _MARKS if begin.startswith(mark)), "utf-8")


def _not_utf8(name: str) -> BadDataError:
    return BadDataError(f"{name} is not UTF-8 text", remedy="save it as text in UTF-8")


def _with_nul(name: str) -> BadDataError:
    return BadDataError(f"{name} holds NUL characters, so it is no text", remedy="save it as text in UTF-8")


class Bytes(Protocol):
    """Told of bytes as they are read: a hash."""

    def update(self, data: bytes, /) -> None:
        """The next ones."""


class _Told(io.RawIOBase):
    """A file whose bytes are told to somebody as they are read."""

    def __init__(self, file: io.FileIO, told: Bytes) -> None:
        self._file, self._given = file, told

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray, /) -> int:  # type: ignore[override]
        count = self._file.readinto(buffer)
        self._given.update(bytes(memoryview(buffer)[:count]))
        return count


class TextFile:
    """The text of a file as `decode` has it, a piece at a time: however large it is, little of it is in memory.

    Use as a context manager. Raises BadDataError where it is no text, OSError where it cannot be read; what is no
    regular file (a pipe may never end) counts as that.

    Args:
        lines_by: "\n" where only a line feed ends a line, "" where a carriage return does too; line ends stay.
        told: of all bytes, in their order.
    """

    def __init__(self, path: str | Path, *, lines_by: str = "\n", told: Bytes | None = None) -> None:
        self._path, self._by, self._told = Path(path), lines_by, told

    def __enter__(self) -> TextFile:
        check_regular(self._path)
        self._file = io.FileIO(str(self._path))
        encoding = _encoding(os.pread(self._file.fileno(), 4, 0))
        raw: io.RawIOBase = self._file if self._told is None else _Told(self._file, self._told)
        self._text = io.TextIOWrapper(io.BufferedReader(raw, 2**18), encoding=encoding, newline=self._by)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._text.close()
        self._file.close()

    def pieces(self, characters: int = 2**18) -> Iterator[str]:
        """All of it, so many characters at a time."""
        while piece := self._checked(lambda: self._text.read(characters)):
            yield piece

    def lines(self, most: int) -> Iterator[str]:
        """Line by line. Raises BadDataError for one of more than `most` characters."""
        number = 0
        while line := self._checked(lambda: self._text.readline(most)):
            number += 1
            if len(line) == most and line[-1] not in "\r\n":
                raise BadDataError(
                    f"{self._path} line {number} is longer than {most // 2**20} Mi characters",
                    remedy="part it into several, or give a text as .txt",
                )
            yield line

    def _checked(self, read: Callable[[], str]) -> str:
        try:
            text = read()
        except UnicodeDecodeError as error:
            raise _not_utf8(str(self._path)) from error
        if "\0" in text:
            raise _with_nul(str(self._path))
        return text


def check_regular(path: Path) -> None:
    """Raise OSError for what is not there, a folder, or something else that is read only once (a pipe)."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(21, "Is a directory", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(22, "no regular file: it can be read only once", str(path))


def check_output(path: str | Path, what: str, *, endings: Sequence[str], ours: Callable[[Path], bool]) -> None:
    """Refuse to write where a name says it is another kind of file, or where there is one that is not ours.

    A file of the same kind that cardlab wrote is written anew, as is an empty one; what is no regular file (a pipe, a
    folder) is left to the writer.

    Args:
        what: what is to be written, in words.
        endings: those its name may have; a name without one promises nothing and may be any.
        ours: whether a file that is there is of this kind and cardlab's.

    Raises UsageError.
    """
    target = Path(path)
    if target.suffix and target.suffix.lower() not in endings:
        raise UsageError(f"{path} is no name of {what}", remedy=f"end it in one of: {', '.join(endings)}")
    try:
        replaced = not target.is_file() or target.stat().st_size == 0 or ours(target)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", remedy="name another file") from error
    if not replaced:
        raise UsageError(
            f"{path} is there already, and is no {what.partition(' ')[2]} of cardlab", remedy="name another file"
        )


def marked(mark: bytes, near: int = 65536) -> Callable[[Path], bool]:
    """Whether a file holds these bytes near its begin or its end."""

    def found(path: Path) -> bool:
        with path.open("rb") as file:
            head = file.read(near)
            file.seek(max(path.stat().st_size - near, 0))
            return mark in head or mark in file.read(near)

    return found
