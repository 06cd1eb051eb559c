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

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cardlab.core.errors import UsageError
from cardlab.core.files import Bytes
from cardlab.core.identity import content_hash
from cardlab.core.plain import Document
from cardlab.split.rows import REMEDY, Json, Row, check_prose, kind_of, parsed, pieces_of, rows_of

TEXT, MESSAGES, COMPLETION = "text", "messages", "prompt and completion"
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

Turns = tuple[Mapping[str, Json], ...]


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


@dataclass(slots=True, kw_only=True)
class Read:
    """What was met in a file as far as it was read.

    Attributes:
        form: of its samples, "" before the first.
        count: of its samples.
        alpaca: some have instruction and output.
        unused: the first columns that are not used.
        halves: of characters, which were replaced.
    """

    form: str = ""
    count: int = 0
    alpaca: bool = False
    unused: list[str] = field(default_factory=list)
    halves: int = 0

    def notes(self, name: str) -> tuple[str, ...]:
        """What was assumed, replaced or not used in the file of that name, in words."""
        found = []
        if self.alpaca:
            found.append(
                f"{name}: instruction, input and output in Alpaca's own prompt text (for the chat template of the model"
                " give messages)"
            )
        if self.unused:
            found.append(f"columns of {name} that are not used: {', '.join(self.unused)}")
        if self.halves:
            found.append(f"{self.halves} half character(s) of {name} were replaced by U+FFFD")
        return tuple(found)


class SampleReader:
    """Reads a file of rows once, a sample at a time; `read` says what was met so far.

    Args:
        told: of the bytes of the file; see `rows_of`.

    Raises UsageError naming the file, and the line where there is one: not there, no samples, mixed, incomplete, or of
    another form. MissingDependencyError for a parquet file without its library.
    """

    def __init__(self, path: str, told: Bytes | None = None) -> None:
        self._path, self._told = path, told
        self.read = Read()

    def __iter__(self) -> Iterator[Sample]:
        read, first = self.read, ""
        halves = _Halves()
        for plain, where in rows_of(self._path, self._told):
            if not isinstance(plain, dict):
                raise UsageError(f"{where} is no object with columns", remedy=REMEDY)
            row = _said(plain)
            form, columns = _form(row, where)
            if read.form and form != read.form:
                raise UsageError(
                    f"{where} has {form}, and {first} has {read.form}", remedy="give one form in each file"
                )
            if not read.form:
                read.form, first = form, where
            read.count += 1
            read.alpaca = read.alpaca or "instruction" in row
            _add_unused(read.unused, row)
            # Halves of characters that stand alone have no UTF-8 and become U+FFFD, as any reader shows them.
            whole = halves.out_of(columns)
            read.halves = halves.replaced
            yield Sample(id=content_hash(whole), where=where, **whole)
        if not read.count:
            raise UsageError(f"{self._path} has no samples", remedy=REMEDY)


def _add_unused(unused: list[str], row: Row) -> None:
    for key in row:
        if key not in _USED and len(unused) < 10 and str(key)[:40] not in unused:
            unused.append(str(key)[:40])


def read_samples(path: str) -> Samples:
    """All samples of a file at once; .parquet needs the extra `data`. Errors as `SampleReader`."""
    if not kind_of(path):
        check_prose(path)
        text = "".join(pieces_of(path))
        sample = Sample(id=content_hash({"text": text}), where=path, text=text)
        return Samples(form=TEXT, samples=(sample,), name=path)
    reader = SampleReader(path)
    samples = tuple(reader)
    return Samples(form=reader.read.form, samples=samples, name=path, notes=reader.read.notes(path))


def alpaca_prompt(instruction: str, more: str = "") -> str:
    """The prompt that Alpaca's models were trained with, up to the response; `more` is the column input."""
    return _ALPACA[bool(more)].format(instruction=instruction, input=more)


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
        value = parsed(value, f"{where}: tools")
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
