"""Files of people: text that they bring, in which encoding it is and how much of it there is; places to write to.

Spreadsheets and PowerShell write a byte-order mark or UTF-16, and what then fails is a parser that never saw the
characters. The mark decides; without one the text is UTF-8.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from pathlib import Path

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
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise BadDataError(f"{name} is not UTF-8 text", remedy="save it as text in UTF-8") from error
    if "\0" in text:
        raise BadDataError(f"{name} holds NUL characters, so it is no text", remedy="save it as text in UTF-8")
    return text


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
