"""What a device trains on: a file its user names, as tokens, in windows of the sequence length.

    text file   one document                 .jsonl, .json, .csv, .parquet   the "text" of each row is one
    tokens      those of the tokenizer.json of the model folder, or of one that the user names; else bytes (0..255)

Which windows a mini-batch takes depends on the seed, the round and the epoch only, never on what happened before,
so that a round made again after a fault is the same round. Several devices on one file take every M-th window.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from cardlab.core.errors import RunError, UsageError
from cardlab.core.identity import content_hash
from cardlab.split.batches import MiniBatch, Order, Rows
from cardlab.split.held_out import NoRowsError, Shard, side_of
from cardlab.split.samples import TEXT, Sample, Samples, read_samples
from cardlab.split.token_file import StoredTokens, TokenArray
from cardlab.split.tokenizer import Tokens, byte_tokens, open_tokenizer

if TYPE_CHECKING:
    import torch


_WHOLE = Shard()
BUNDLED = "the bundled text"


def window_rows(tokens: Tokens | TokenArray, sequence: int) -> Iterator[TokenArray]:
    """The tokens of each whole window."""
    return (tokens[n * sequence : (n + 1) * sequence] for n in range(len(tokens) // sequence))


class Batches:
    """Mini-batches [B, S] of token numbers.

    Args:
        tokens: the whole text, in memory or mapped from a file, of which a mini-batch reads its own windows.
        vocabulary: of the model; every token must be below it.
        shard: (j, M): this device takes windows j, j+M, ...; a `Shard` may take them of one side of the held-out share.

    Attributes:
        rows: windows of this device.
    """

    def __init__(
        self,
        tokens: Tokens | StoredTokens,
        *,
        batch: int,
        sequence: int,
        vocabulary: int,
        seed: int = 0,
        shard: tuple[int, int] | Shard = _WHOLE,
    ) -> None:
        shard = Shard(*shard)
        self._tokens = tokens.tokens if isinstance(tokens, StoredTokens) else tokens
        size = len(self._tokens)
        whole = size // sequence
        # Windows by number; None for all of them.
        self._kept = None
        if shard.part is not None:
            self._kept = shard.part.of(window_rows(self._tokens, sequence))
        self.rows = len(range(shard.place, whole if self._kept is None else len(self._kept), shard.of))
        if self.rows < 1:
            raise NoRowsError(
                f"the data have {size} tokens: no window of {sequence}{side_of(shard.part)} for each of"
                f" {shard.of} device(s)",
                remedy="give a longer text, or a shorter --seq",
            )
        highest = tokens.highest if isinstance(tokens, StoredTokens) else int(tokens.max())
        if highest >= vocabulary:
            raise RunError(
                f"the data have token {highest} and the model a vocabulary of {vocabulary}",
                remedy="byte tokens need at least 256; name the tokenizer.json of the model with --tokenizer",
            )
        self._sequence, self._shard, self._size = sequence, shard, batch
        self._order = Order(self.rows, batch, seed)

    def batch(self, number: int) -> torch.Tensor:
        """Mini-batch `number` (from 0), int64 [B, S]; every pass over the windows has an order of its own."""
        return self._read(self._order.of(number))

    def _read(self, places: Iterable[int]) -> torch.Tensor:
        import torch

        # Every M-th window and not a block: texts change along their way, and shards should not.
        numbers = [self._shard.place + row * self._shard.of for row in places]
        begins = [(n if self._kept is None else int(self._kept[n])) * self._sequence for n in numbers]
        rows = [self._tokens[begin : begin + self._sequence] for begin in begins]
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def mini_batch(self, number: int) -> MiniBatch:
        """The same with its labels, which are the tokens themselves."""
        ids = self.batch(number)
        return MiniBatch(ids, ids, Rows())

    def each(self) -> Iterator[MiniBatch]:
        """Every window once, in mini-batches of which the last may be smaller."""
        for begin in range(0, self.rows, self._size):
            ids = self._read(range(begin, min(begin + self._size, self.rows)))
            yield MiniBatch(ids, ids, Rows())


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


class CorpusDigest:
    """Of documents, in their order."""

    def __init__(self) -> None:
        self._found = hashlib.sha256()

    def begin(self, size: int) -> None:
        """The next document, which has so many bytes of UTF-8."""
        self._found.update(size.to_bytes(8, "little"))

    def add(self, data: bytes) -> None:
        """The next of its bytes."""
        self._found.update(data)

    def text(self) -> str:
        """32 hex digits."""
        return self._found.hexdigest()[:32]


def read_training(path: str | None) -> Samples:
    """The samples of a file, or the bundled text for None; errors as `read_samples`."""
    if path is not None:
        return read_samples(path)
    bundled = bundled_text()
    return Samples(form=TEXT, samples=(Sample(id=content_hash(bundled), where=BUNDLED, text=bundled),), name=BUNDLED)


def bundled_text() -> str:
    """A small English text, for trying."""
    return (files("cardlab.split") / "texts" / "trial.txt").read_text("utf-8")


def corpus_of(samples: Samples) -> Corpus:
    """The documents of texts. Raises UsageError for samples of another form."""
    if samples.form != TEXT:
        raise UsageError(
            f"{samples.name} has {samples.form}, and only texts are read here",
            remedy='give a text (.txt), or JSON lines (.jsonl): {"text": ...} a line',
        )
    documents = tuple(sample.text or "" for sample in samples.samples)
    digest = CorpusDigest()
    for document in documents:
        data = document.encode("utf-8")
        digest.begin(len(data))
        digest.add(data)
    return Corpus(documents=documents, digest=digest.text(), name=samples.name, notes=samples.notes)


def read_corpus(path: str | None) -> Corpus:
    """The documents of a file of texts, or of the bundled text for None.

    Raises UsageError naming the file, and the line where there is one: not there, no text, or of another form.
    """
    return corpus_of(read_training(path))


def read_tokens(path: str | None, tokenizer: str | None = None) -> Tokens:
    """Tokens of a text or JSON-lines file, of the bundled text for None; bytes without a tokenizer.json; int64 [N]."""
    tool = byte_tokens("none named") if tokenizer is None else open_tokenizer("", tokenizer)
    return tool.encode(read_corpus(path).documents)
