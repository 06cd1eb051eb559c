"""Text of files that people bring: in which encoding it is, and how much of it there is.

Spreadsheets and PowerShell write a byte-order mark or UTF-16, and what then fails is a parser that never saw the
characters. The mark decides; without one the text is UTF-8.
"""

from __future__ import annotations

import codecs
from pathlib import Path

from cardlab.core.errors import BadDataError

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
