"""What a device trains on: a file its user names, as tokens, in windows of the sequence length.

    text file   one document                 .jsonl   the "text" of each line is one
    tokens      those of the tokenizer.json of the model folder, or of one that the user names; else bytes (0..255)

Which windows a mini-batch takes depends on the seed, the round and the epoch only, never on what happened before,
so that a round made again after a fault is the same round. Several devices on one file take every M-th window.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cardlab.core.errors import BadDataError, RunError, UsageError
from cardlab.core.files import decode
from cardlab.split.tokenizer import Tokens, byte_tokens, open_tokenizer

if TYPE_CHECKING:
    import torch

_REMEDY = 'give a text (.txt), or JSON lines (.jsonl): {"text": ...} a line'
_LINES = (".jsonl", ".ndjson")
# Prose and programs: files that are trained on as they stand.
_TEXTS = (
    *("", ".txt", ".text", ".md", ".markdown", ".rst", ".tex", ".adoc", ".org", ".log", ".srt"),
    *(".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".rs", ".go", ".java", ".kt", ".scala", ".js", ".ts"),
    *(".rb", ".pl", ".php", ".lua", ".jl", ".r", ".m", ".swift", ".cs", ".hs", ".ml", ".sh", ".sql", ".v", ".sv"),
)
_HALF = re.compile("[\ud800-\udfff]")


class Batches:
    """Mini-batches [B, S] of token numbers.

    Args:
        tokens: the whole text.
        vocabulary: of the model; every token must be below it.
        shard: (j, M): this device takes windows j, j+M, ...
    """

    def __init__(
        self,
        tokens: Tokens,
        *,
        batch: int,
        sequence: int,
        vocabulary: int,
        seed: int = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        count = len(tokens) // sequence
        # Every M-th window and not a block: texts change along their way, and shards should not.
        mine = np.arange(count)[shard[0] :: shard[1]]
        if mine.size < 1:
            raise RunError(
                f"the data have {len(tokens)} tokens: no window of {sequence} for each of {shard[1]} device(s)",
                remedy="give a longer text, or a shorter --seq",
            )
        if int(tokens.max()) >= vocabulary:
            raise RunError(
                f"the data have token {int(tokens.max())} and the model a vocabulary of {vocabulary}",
                remedy="byte tokens need at least 256; name the tokenizer.json of the model with --tokenizer",
            )
        self._windows = tokens[: count * sequence].reshape(count, sequence)[mine]
        self._batch, self._seed = batch, seed

    def batch(self, number: int) -> torch.Tensor:
        """Mini-batch `number` (from 0), int64 [B, S]; every pass over the windows has an order of its own."""
        import torch

        rows = []
        for position in range(number * self._batch, (number + 1) * self._batch):
            # The order is drawn anew for each pass, and from the number alone: a repeated round is the same round.
            turn, place = divmod(position, len(self._windows))
            rows.append(self._windows[np.random.default_rng((self._seed, turn)).permutation(len(self._windows))[place]])
        return torch.from_numpy(np.stack(rows).astype(np.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """What a user trains on.

    Attributes:
        documents: texts, in their order.
        digest: equal exactly where two are the same documents.
        name: for people.
        notes: what had to be replaced, in words.
    """

    documents: tuple[str, ...]
    digest: str
    name: str
    notes: tuple[str, ...] = ()


def read_corpus(path: str | None) -> Corpus:
    """The documents of a file, or of the bundled text for None.

    Raises UsageError naming the file, and the line where there is one: not there, no text, or of another form.
    """
    if path is None:
        bundled = (files("cardlab.split") / "texts" / "trial.txt").read_text("utf-8")
        return _corpus([bundled], "the bundled text")
    ending = Path(path).suffix.lower()
    if ending not in (*_LINES, *_TEXTS):
        raise UsageError(f"{path}: data in the form {ending!r} are not read", remedy=_REMEDY)
    try:
        text = decode(Path(path).read_bytes(), path)
    except OSError as error:
        raise UsageError(f"the data {path} cannot be read: {error.strerror or error}", remedy=_REMEDY) from error
    except BadDataError as error:
        raise UsageError(f"the data {path} cannot be read: {error.message}", remedy=error.remedy) from error
    if ending in _LINES:
        return _corpus(_from_lines(path, text), path)
    _check_prose(path, text)
    return _corpus([text], path)


def read_tokens(path: str | None, tokenizer: str | None = None) -> Tokens:
    """Tokens of a text or JSON-lines file, of the bundled text for None; bytes without a tokenizer.json; int64 [N]."""
    tool = byte_tokens("none named") if tokenizer is None else open_tokenizer("", tokenizer)
    return tool.encode(read_corpus(path).documents)


def _corpus(texts: Sequence[str], name: str) -> Corpus:
    """Halves of characters that stand alone have no UTF-8 and become U+FFFD, as any reader shows them."""
    documents = tuple(_HALF.sub("\ufffd", text) for text in texts)
    replaced = sum(len(_HALF.findall(text)) for text in texts)
    digest = hashlib.sha256()
    for document in documents:
        data = document.encode("utf-8")
        digest.update(len(data).to_bytes(8, "little") + data)
    notes = (f"{replaced} half character(s) of {name} were replaced by U+FFFD",) if replaced else ()
    return Corpus(documents=documents, digest=digest.hexdigest()[:32], name=name, notes=notes)


def _check_prose(path: str, text: str) -> None:
    """Raise UsageError for JSON under the name of a text: its braces would be trained on."""
    begin = text.lstrip()
    if begin[:1] not in ("{", "["):
        return
    for part, what in ((begin.split("\n", 1)[0], "JSON lines"), (begin, "JSON")):
        try:
            found = json.loads(part)
        except (ValueError, RecursionError):
            continue
        # A line like [1] may stand in any text; an object or a list of them is data.
        if isinstance(found, dict) or (isinstance(found, list) and found and isinstance(found[0], dict)):
            raise UsageError(f"{path} holds {what}, not a text", remedy=_REMEDY)


def _from_lines(path: str, text: str) -> list[str]:
    found = []
    # Only a line feed ends a line of JSON: what else Python counts as one may stand in a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip(" \t\r"):
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path} line {number} is no JSON", remedy=_REMEDY) from error
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            raise UsageError(f"{path} line {number} has no text", remedy=_REMEDY)
        found.append(entry["text"])
    return found
