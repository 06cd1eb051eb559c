"""The rows of a training file, one after the other: JSON lines, JSON, CSV, parquet; and texts, which have none.

A row is in memory while it is looked at, and none stays: a file may be larger than memory. One row is at most
`ROW_CHARACTERS` long, and so is a JSON file that is one object.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cardlab.core.errors import BadDataError, MissingDependencyError, UsageError
from cardlab.core.files import Bytes, TextFile, check_regular
from cardlab.core.plain import Document

REMEDY = (
    "give a text (.txt), or rows (.jsonl, .ndjson, .json, .csv, .parquet) with text, messages, prompt and completion,"
    " or instruction and output"
)
ROW_CHARACTERS = 64 * 2**20
LINES = (".jsonl", ".ndjson")
ROWS = (*LINES, ".json", ".csv", ".parquet")
# Prose and programs: files that are trained on as they stand.
TEXTS = (
    *("", ".txt", ".text", ".md", ".markdown", ".rst", ".tex", ".adoc", ".org", ".log", ".srt"),
    *(".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".rs", ".go", ".java", ".kt", ".scala", ".js", ".ts"),
    *(".rb", ".pl", ".php", ".lua", ".jl", ".r", ".m", ".swift", ".cs", ".hs", ".ml", ".sh", ".sql", ".v", ".sv"),
)
# A text that is no larger is read whole to see that it is no JSON; of others the begin says it.
_LOOKED_AT = 32 * 2**20
_PIECE = 2**18
_BLOCK_ROWS = 1024
_SPACE = re.compile("[ \\t\\r\\n]*")

Json = Any
"""A value of a JSON text: what it holds is asked where it is read."""
Row = Mapping[str, Json]


def kind_of(path: str) -> str:
    """The ending that says how a file is read; "" for a text. Raises UsageError for one that is not read."""
    ending = Path(path).suffix.lower()
    if ending not in (*ROWS, *TEXTS):
        raise UsageError(f"{path}: data in the form {ending!r} are not read", remedy=REMEDY)
    return ending if ending in ROWS else ""


def rows_of(path: str, told: Bytes | None = None) -> Iterator[tuple[Json, str]]:
    """What stands in each row of a file of rows, and where it stands.

    Args:
        told: of the bytes as they are read; not of a parquet file's, which are not read in their order.

    Raises UsageError naming the file, and the line where there is one; MissingDependencyError for a parquet file
    without the library.
    """
    ending = kind_of(path)
    if ending == ".parquet":
        yield from _parquet(path)
        return
    try:
        read = _csv if ending == ".csv" else _json if ending == ".json" and not _holds_lines(path) else _lines
        with TextFile(path, lines_by="" if ending == ".csv" else "\n", told=told) as file:
            yield from read(path, file)
    except (OSError, BadDataError) as error:
        raise unreadable(path, error) from error


def pieces_of(path: str, told: Bytes | None = None) -> Iterator[str]:
    """A text file, a piece at a time. Raises UsageError naming the file."""
    try:
        with TextFile(path, told=told) as file:
            yield from file.pieces(_PIECE)
    except (OSError, BadDataError) as error:
        raise unreadable(path, error) from error


def unreadable(path: str, error: OSError | BadDataError) -> UsageError:
    """The one line for a file of data that cannot be read."""
    if isinstance(error, BadDataError):
        return UsageError(f"the data {path} cannot be read: {error.message}", remedy=error.remedy)
    return UsageError(f"the data {path} cannot be read: {error.strerror or error}", remedy=REMEDY)


def check_prose(path: str) -> None:
    """Raise UsageError for JSON under the name of a text (its braces would be trained on), or what cannot be read."""
    begin = ""
    for piece in pieces_of(path):
        begin = (begin + piece).lstrip() if len(begin) < _LOOKED_AT else begin
        if begin and (begin[0] not in "{[" or len(begin) >= _LOOKED_AT):
            break
    if begin[:1] not in ("{", "["):
        return
    for part, what, ending in ((begin.split("\n", 1)[0], "JSON lines", ".jsonl"), (begin, "JSON", ".json")):
        if len(begin) >= _LOOKED_AT and ending == ".json":
            found = _first_of(begin)
        else:
            try:
                found = json.loads(part)
            except (ValueError, RecursionError):
                continue
        # A line like [1] may stand in any text; an object or a list of them is data.
        if isinstance(found, dict) or (isinstance(found, list) and found and isinstance(found[0], dict)):
            raise UsageError(f"{path} holds {what}, not a text", remedy=f"let its name end in {ending}")


def _first_of(begin: str) -> Json:
    """The first entry of the list that a text begins with, or what it begins with; None where that is no JSON."""
    try:
        return json.JSONDecoder().raw_decode(begin, len(begin) - len(begin[1:].lstrip()) if begin[0] == "[" else 0)[0]
    except (ValueError, RecursionError):
        return None


class _TwiceError(ValueError):
    """A key stands twice in an object: JSON readers keep the last and drop the other."""


def _once(pairs: list[tuple[str, Json]]) -> Document:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError(next(key for n, (key, _) in enumerate(pairs) if key in dict(pairs[:n])))
    return found


def _no_constant(name: str) -> Json:
    raise ValueError(name)


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant)


def _loads(text: str) -> Json:
    """As JSON says: Python's own NaN and Infinity are none. Raises ValueError, RecursionError."""
    return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)


def parsed(text: str, where: str) -> Json:
    """What a JSON text holds. Raises UsageError naming where it stands."""
    try:
        return _loads(text)
    except _TwiceError as error:
        raise UsageError(f"{where} names {str(error)[:40]!r} twice", remedy="leave one of them out") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is no JSON", remedy=REMEDY) from error


def _lines(path: str, file: TextFile) -> Iterator[tuple[Json, str]]:
    # Only a line feed ends a line of JSON: what else Python counts as one may stand in a string.
    for number, line in enumerate(file.lines(ROW_CHARACTERS), start=1):
        if line.strip(" \t\r\n"):
            where = f"{path} line {number}"
            yield parsed(line, where), where


class _Buffer:
    """What was read of a file and is not used yet."""

    def __init__(self, file: TextFile) -> None:
        self._pieces = file.pieces(_PIECE)
        self._text, self._at = "", 0

    def begin(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def skip(self) -> None:
        """Go behind the next character."""
        self._at += 1

    def value(self) -> Json:
        """The next value. Raises ValueError, RecursionError."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except _TwiceError:
                raise
            except ValueError:
                # Twice as much each time: a long value is begun again only a few times.
                wanted = 2 * (len(self._text) - self._at)
                if not self._more():
                    raise
                while len(self._text) < wanted and self._more():
                    pass
                continue
            # A number may go on in the next piece.
            if end < len(self._text) or not self._more():
                self._at = end
                return value

    def _more(self) -> bool:
        """Read on; False at the end of the file, or where more would be in memory than one row may have."""
        left = self._text[self._at :]
        piece = next(self._pieces, "") if len(left) < ROW_CHARACTERS else ""
        if piece:
            self._text, self._at = left + piece, 0
        return bool(piece)


def _json(path: str, file: TextFile) -> Iterator[tuple[Json, str]]:
    """The entries of a list, or the one object."""
    buffer = _Buffer(file)
    with _no_json(path):
        if buffer.begin() != "[":
            yield buffer.value(), f"{path} line 1"
        else:
            buffer.skip()
            number, more = 0, buffer.begin() != "]"
            while more:
                number += 1
                buffer.begin()
                yield buffer.value(), f"{path} entry {number}"
                after = buffer.begin()
                if after not in (",", "]") or not after:
                    raise ValueError
                more = after == ","
                if more:
                    buffer.skip()
            buffer.skip()
        if buffer.begin():
            raise ValueError


def _holds_lines(path: str) -> bool:
    """Whether a .json file is one of JSON lines, as many tools write under that name: an object, and more behind it."""
    with TextFile(path) as file, _no_json(path):
        buffer = _Buffer(file)
        if buffer.begin() != "{":
            return False
        try:
            buffer.value()
        except _TwiceError:
            raise
        except (ValueError, RecursionError):
            return True
        return bool(buffer.begin())


@contextmanager
def _no_json(path: str) -> Iterator[None]:
    try:
        yield
    except _TwiceError as error:
        raise UsageError(f"{path} names {str(error)[:40]!r} twice", remedy="leave one of them out") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON", remedy=REMEDY) from error


def _csv(path: str, file: TextFile) -> Iterator[tuple[Json, str]]:
    # Python's bound of a field, 128 KiB, is for files of strangers; a document may be longer.
    before = csv.field_size_limit(ROW_CHARACTERS)
    try:
        reader = csv.reader(file.lines(ROW_CHARACTERS), strict=True)
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise UsageError(f"{path} has two columns of one name", remedy="name every column once")
        begin = reader.line_num + 1
        for row in reader:
            where, begin = f"{path} line {begin}", reader.line_num + 1
            if not row:
                continue
            if len(row) != len(header):
                raise UsageError(
                    f"{where} has {len(row)} values and the header {len(header)}",
                    remedy="put values with commas or line ends in double quotes",
                )
            yield dict(zip(header, row, strict=True)), where
    except csv.Error as error:
        raise UsageError(f"{path} line {reader.line_num} is no CSV: {error}", remedy="write it anew as CSV") from error
    finally:
        csv.field_size_limit(before)


def _parquet(path: str) -> Iterator[tuple[Json, str]]:
    try:
        check_regular(Path(path))
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: parquet is read by the pyarrow package", remedy="pip install 'cardlab[data]'"
        ) from error
    number = 0
    try:
        with ParquetFile(path) as table:
            for block in table.iter_batches(batch_size=_BLOCK_ROWS):
                for row in block.to_pylist():
                    number += 1
                    yield row, f"{path} row {number}"
    except (ArrowException, OSError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} is no parquet file: {said}", remedy="write it anew, or as .jsonl") from error
