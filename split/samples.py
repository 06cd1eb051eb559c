"""The samples of a training file: texts, conversations, or prompts with completions.

    text                        {"text": ...}, or a whole text file
    messages                    {"messages": [{"role": ..., "content": ...}, ...]}
    prompt and completion       {"prompt": ..., "completion": ...}, both texts or both lists of messages
                                {"instruction": ..., "input": ..., "output": ...}: in the prompt text of Alpaca

A file has one form, which its columns say. A row of another form, without a value or with one of another type is
refused by its line: nothing is dropped, turned into text or guessed. A sample's id is a hash of its content, so it is
the same in every file, order and machine.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cardlab.core.errors import BadDataError, MissingDependencyError, UsageError
from cardlab.core.files import decode
from cardlab.core.identity import content_hash
from cardlab.core.plain import Document

TEXT, MESSAGES, COMPLETION = "text", "messages", "prompt and completion"
REMEDY = (
    "give a text (.txt), or rows (.jsonl, .ndjson, .json, .csv, .parquet) with text, messages, prompt and completion,"
    " or instruction and output"
)
_LINES = (".jsonl", ".ndjson")
_ROWS = (*_LINES, ".json", ".csv", ".parquet")
# Prose and programs: files that are trained on as they stand.
_TEXTS = (
    *("", ".txt", ".text", ".md", ".markdown", ".rst", ".tex", ".adoc", ".org", ".log", ".srt"),
    *(".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".rs", ".go", ".java", ".kt", ".scala", ".js", ".ts"),
    *(".rb", ".pl", ".php", ".lua", ".jl", ".r", ".m", ".swift", ".cs", ".hs", ".ml", ".sh", ".sql", ".v", ".sv"),
)
_HALF = re.compile("[\ud800-\udfff]")
_USED = ("text", "messages", "prompt", "completion", "instruction", "input", "output", "tools")
# What other trainers read from these would change what is learned.
_NOT_READ = ("chat_template_kwargs", "images", "image", "audio", "completion_mask", "assistant_masks")
# The prompts that the Alpaca data were trained with (Taori et al., 2023), without and with an input.
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n",
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a"
    " response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n"
    "### Response:\n",
)

Json = Any
"""A value of a JSON text: what it holds is asked where it is read."""
Turns = tuple[Mapping[str, Json], ...]
Row = Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sample of a file: a text, a conversation, or a prompt with its completion; what it is not is None.

    Attributes:
        id: hash of the content, 32 hex digits.
        where: file and line, for people.
        text: as it stands.
        messages: the turns of a conversation, each with role and content.
        prompt, completion: both texts, or both turns.
        tools: descriptions of functions for the chat template.
    """

    id: str
    where: str = field(compare=False)
    text: str | None = None
    messages: Turns | None = None
    prompt: str | Turns | None = None
    completion: str | Turns | None = None
    tools: tuple[Json, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """All samples of a file, which are of one form.

    Attributes:
        form: "text", "messages", or "prompt and completion".
        name: of the file, for people.
        notes: what was assumed, replaced or not used, in words.
    """

    form: str
    samples: tuple[Sample, ...]
    name: str
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Equal exactly where two have the same samples in the same order."""
        return content_hash([sample.id for sample in self.samples])


def read_samples(path: str) -> Samples:
    """The samples of a file; .parquet needs the extra `data`.

    Raises UsageError naming the file, and the line where there is one: not there, no samples, mixed, incomplete, or of
    another form. MissingDependencyError for a parquet file without the library.
    """
    ending = Path(path).suffix.lower()
    if ending not in (*_ROWS, *_TEXTS):
        raise UsageError(f"{path}: data in the form {ending!r} are not read", remedy=REMEDY)
    if ending == ".parquet":
        return _of_rows(path, _parquet(path))
    text = _read(path)
    if ending in _TEXTS:
        _check_prose(path, text)
        return _finished(TEXT, [({"text": text}, path)], path, [])
    if ending == ".csv":
        return _of_rows(path, _csv(path, text))
    if ending == ".json":
        return _of_rows(path, _json(path, text))
    return _of_rows(path, _lines(path, text))


def alpaca_prompt(instruction: str, more: str = "") -> str:
    """The prompt that Alpaca's models were trained with, up to the response; `more` is the column input."""
    return _ALPACA[bool(more)].format(instruction=instruction, input=more)


def _read(path: str) -> str:
    try:
        return decode(Path(path).read_bytes(), path)
    except OSError as error:
        raise UsageError(f"the data {path} cannot be read: {error.strerror or error}", remedy=REMEDY) from error
    except BadDataError as error:
        raise UsageError(f"the data {path} cannot be read: {error.message}", remedy=error.remedy) from error


def _check_prose(path: str, text: str) -> None:
    """Raise UsageError for JSON under the name of a text: its braces would be trained on."""
    begin = text.lstrip()
    if begin[:1] not in ("{", "["):
        return
    for part, what, ending in ((begin.split("\n", 1)[0], "JSON lines", ".jsonl"), (begin, "JSON", ".json")):
        try:
            found = json.loads(part)
        except (ValueError, RecursionError):
            continue
        # A line like [1] may stand in any text; an object or a list of them is data.
        if isinstance(found, dict) or (isinstance(found, list) and found and isinstance(found[0], dict)):
            raise UsageError(f"{path} holds {what}, not a text", remedy=f"let its name end in {ending}")


class _TwiceError(ValueError):
    """A key stands twice in an object: JSON readers keep the last and drop the other."""


def _once(pairs: list[tuple[str, Json]]) -> Document:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError(next(key for n, (key, _) in enumerate(pairs) if key in dict(pairs[:n])))
    return found


def _no_constant(name: str) -> Json:
    raise ValueError(name)


def _loads(text: str) -> Json:
    """As JSON says: Python's own NaN and Infinity are none. Raises ValueError, RecursionError."""
    return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)


def _parsed(text: str, where: str) -> Json:
    try:
        return _loads(text)
    except _TwiceError as error:
        raise UsageError(f"{where} names {str(error)[:40]!r} twice", remedy="leave one of them out") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is no JSON", remedy=REMEDY) from error


def _lines(path: str, text: str) -> Iterator[tuple[Json, str]]:
    # Only a line feed ends a line of JSON: what else Python counts as one may stand in a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip(" \t\r"):
            where = f"{path} line {number}"
            yield _parsed(line, where), where


def _json(path: str, text: str) -> Iterable[tuple[Json, str]]:
    """The entries of a list; many tools write JSON lines under this name, so these are read too."""
    try:
        whole = _loads(text)
    except _TwiceError as error:
        raise UsageError(f"{path} names {str(error)[:40]!r} twice", remedy="leave one of them out") from error
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{"):
            return _lines(path, text)
        raise UsageError(f"{path} is no JSON", remedy=REMEDY) from error
    if isinstance(whole, list):
        return [(entry, f"{path} entry {number}") for number, entry in enumerate(whole, start=1)]
    return [(whole, f"{path} line 1")]


def _csv(path: str, text: str) -> Iterator[tuple[Json, str]]:
    # Python's bound of a field, 128 KiB, is for files of strangers; a document may be longer.
    before = csv.field_size_limit(2**31 - 1)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
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
    if not Path(path).is_file():
        raise UsageError(f"the data {path} cannot be read: no such file", remedy=REMEDY)
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: parquet is read by the datasets package", remedy="pip install 'cardlab[data]'"
        ) from error
    datasets.disable_progress_bars()
    # Its cache would keep a second copy of the user's data for good.
    with tempfile.TemporaryDirectory() as folder:
        try:
            table = datasets.Dataset.from_parquet(path, cache_dir=folder, keep_in_memory=True)
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            raise UsageError(f"{path} is no parquet file: {said}", remedy="write it anew, or as .jsonl") from error
        for number, row in enumerate(table, start=1):
            yield row, f"{path} row {number}"


def _of_rows(path: str, rows: Iterable[tuple[Json, str]]) -> Samples:
    found: list[tuple[Document, str]] = []
    form, first, alpaca = "", "", False
    unused: dict[str, None] = {}
    for plain, where in rows:
        if not isinstance(plain, dict):
            raise UsageError(f"{where} is no object with columns", remedy=REMEDY)
        row = _said(plain)
        own, columns = _form(row, where)
        if form and own != form:
            raise UsageError(f"{where} has {own}, and {first} has {form}", remedy="give one form in each file")
        if not form:
            form, first = own, where
        found.append((columns, where))
        alpaca = alpaca or "instruction" in row
        unused |= dict.fromkeys(key for key in row if key not in _USED)
    if not found:
        raise UsageError(f"{path} has no samples", remedy=REMEDY)
    notes = []
    if alpaca:
        notes.append(
            f"{path}: instruction, input and output in Alpaca's own prompt text (for the chat template of the model"
            " give messages)"
        )
    if unused:
        notes.append(f"columns of {path} that are not used: {', '.join(str(key)[:40] for key in list(unused)[:10])}")
    return _finished(form, found, path, notes)


def _said(row: Row) -> Document:
    """Without columns of null: tables have every column in every row."""
    return {key: value for key, value in row.items() if value is not None}


def _form(row: Row, where: str) -> tuple[str, Document]:
    """Form of a row and the columns of its sample; UsageError for one that is none."""
    for key in _NOT_READ:
        if key in row:
            raise UsageError(f"{where} has {key}, which is not read", remedy=f"leave the column {key} out")
    kinds = [
        name
        for name, keys in (
            ("text", ("text",)),
            ("messages", ("messages",)),
            ("prompt and completion", ("prompt", "completion")),
            ("instruction and output", ("instruction", "output")),
        )
        if any(key in row for key in keys)
    ]
    if not kinds:
        named = ", ".join(str(key)[:40] for key in list(row)[:8]) or "none"
        raise UsageError(f"{where} has no text, messages or completion (its columns: {named})", remedy=REMEDY)
    if kinds == ["text", "instruction and output"] and _is_rendered(row, where):
        # As Alpaca's own file has it: the text is the same sample again.
        kinds = ["instruction and output"]
    if len(kinds) > 1:
        raise UsageError(f"{where} has {kinds[0]} beside {kinds[1]}", remedy="leave out what is not to be trained on")
    if kinds != ["instruction and output"] and "input" in row and row["input"] != "":
        raise UsageError(
            f"{where} has an input without instruction and output", remedy="leave the column input out, or add them"
        )
    if kinds == ["text"]:
        _no_tools(row, where)
        return TEXT, {"text": _text(row, "text", where)}
    if kinds == ["messages"]:
        return MESSAGES, {"messages": _turns(row["messages"], "messages", where), **_tools(row, where)}
    if kinds == ["instruction and output"]:
        _no_tools(row, where)
        return COMPLETION, _alpaca(row, where)
    return COMPLETION, _completion(row, where)


def _completion(row: Row, where: str) -> Document:
    for key in ("prompt", "completion"):
        if key not in row:
            raise UsageError(f"{where} has no {key}", remedy="give prompt and completion in every row")
    if isinstance(row["prompt"], str) and isinstance(row["completion"], str):
        _no_tools(row, where)
        return {key: _text(row, key, where) for key in ("prompt", "completion")}
    if isinstance(row["prompt"], str) or isinstance(row["completion"], str):
        raise UsageError(
            f"{where} has a text and a list as prompt and completion", remedy="give two texts, or two lists of messages"
        )
    prompt, completion = (_turns(row[key], key, where) for key in ("prompt", "completion"))
    # What a template adds to ask for an answer stands between them.
    if prompt[-1]["role"] == "assistant" or completion[0]["role"] != "assistant":
        raise UsageError(
            f"{where} has a completion that is no answer of the assistant to the prompt",
            remedy="end the prompt before the assistant's turn and begin the completion with it",
        )
    return {"prompt": prompt, "completion": completion, **_tools(row, where)}


def _alpaca(row: Row, where: str) -> Document:
    instruction, output = _text(row, "instruction", where), _text(row, "output", where)
    more = _text(row, "input", where) if "input" in row else ""
    return {"prompt": alpaca_prompt(instruction, more), "completion": output}


def _is_rendered(row: Row, where: str) -> bool:
    sample = _alpaca(row, where)
    return bool(row["text"] == sample["prompt"] + sample["completion"])


def _text(row: Row, key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        said = "" if value is None else f" ({key} is {_kind(value)})"
        raise UsageError(f"{where} has no {key}{said}", remedy=f"give {key} as a text in every row")
    return value


def _turns(value: Json, key: str, where: str) -> Turns:
    if isinstance(value, str):
        raise UsageError(
            f"{where} has {key} as a text, not as a list of messages", remedy="give conversations as .jsonl or .parquet"
        )
    if not isinstance(value, list) or not value:
        raise UsageError(f"{where} has no {key}", remedy='give a list of {"role": ..., "content": ...}')
    return tuple(_turn(entry, f"{where} message {number}") for number, entry in enumerate(value, start=1))


def _turn(entry: Json, where: str) -> Document:
    if not isinstance(entry, dict):
        raise UsageError(f"{where} is no object", remedy='give {"role": ..., "content": ...}')
    turn: Document = _without_null(entry)
    if not isinstance(turn.get("role"), str):
        hint = " (from and value are another format)" if "from" in turn else ""
        raise UsageError(f"{where} has no role{hint}", remedy='give {"role": "user" or "assistant", "content": ...}')
    content = turn.get("content", "" if turn.get("tool_calls") else None)
    if not isinstance(content, str):
        said = "" if content is None else f" as a text, but {_kind(content)}"
        raise UsageError(f"{where} has no content{said}", remedy="give the content of every message as one text")
    for key in ("weight", "train"):
        if key in turn:
            raise UsageError(f"{where} has {key}, which is not read", remedy=f"leave {key} out")
    return turn


def _without_null(value: Json) -> Json:
    """Tables fill what an entry does not have with null; a template would print it."""
    if isinstance(value, dict):
        return {key: _without_null(inner) for key, inner in value.items() if inner is not None}
    return [_without_null(inner) for inner in value] if isinstance(value, list) else value


def _tools(row: Row, where: str) -> Document:
    value = row.get("tools")
    if isinstance(value, str):
        value = _parsed(value, f"{where}: tools")
    if value is None or value == []:
        return {}
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise UsageError(f"{where} has tools that are no list of objects", remedy="give a list of JSON schemas")
    return {"tools": tuple(_without_null(value))}


def _no_tools(row: Row, where: str) -> None:
    if row.get("tools"):
        raise UsageError(f"{where} has tools without a conversation", remedy="leave the column tools out")


def _kind(value: Json) -> str:
    for kind, name in ((bool, "true or false"), ((int, float), "a number"), (list, "a list"), (dict, "an object")):
        if isinstance(value, kind):
            return name
    return type(value).__name__


def _finished(form: str, rows: Iterable[tuple[Document, str]], path: str, notes: list[str]) -> Samples:
    """Halves of characters that stand alone have no UTF-8 and become U+FFFD, as any reader shows them."""
    halves = _Halves()
    samples = []
    for columns, where in rows:
        whole = halves.out_of(columns)
        samples.append(Sample(id=content_hash(whole), where=where, **whole))
    if halves.replaced:
        notes.append(f"{halves.replaced} half character(s) of {path} were replaced by U+FFFD")
    return Samples(form=form, samples=tuple(samples), name=path, notes=tuple(notes))


class _Halves:
    """Replaces half surrogate pairs; `replaced`: how many."""

    def __init__(self) -> None:
        self.replaced = 0

    def out_of(self, value: Json) -> Json:
        """The same value without them."""
        if isinstance(value, str):
            text, count = _HALF.subn("\ufffd", value)
            self.replaced += count
            return text
        if isinstance(value, dict):
            return {self.out_of(key): self.out_of(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.out_of(inner) for inner in value)
        return value
