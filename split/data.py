"""What a device trains on: a file its user names, as tokens, in windows of the sequence length.

    text file   one document                 .jsonl, .json, .csv, .parquet   the "text" of each row is one
    tokens      those of the tokenizer.json of the model folder, or of one that the user names; else bytes (0..255)

Which windows a mini-batch takes depends on the seed, the round and the epoch only, never on what happened before,
so that a round made again after a fault is the same round. Several devices on one file take every M-th window.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from cardlab.core.errors import RunError, UsageError
from cardlab.core.identity import content_hash
from cardlab.split.batches import MiniBatch, Order, Rows
from cardlab.split.samples import TEXT, Sample, Samples, read_samples
from cardlab.split.tokenizer import Tokens, byte_tokens, open_tokenizer

if TYPE_CHECKING:
    import torch


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
        # Half the memory of int64: a large text has as many shards of it as devices on one machine.
        self._windows = tokens[: count * sequence].reshape(count, sequence)[mine].astype(np.int32)
        self._order = Order(len(self._windows), batch, seed)

    def batch(self, number: int) -> torch.Tensor:
        """Mini-batch `number` (from 0), int64 [B, S]; every pass over the windows has an order of its own."""
        import torch

        return torch.from_numpy(self._windows[self._order.of(number)].astype(np.int64))

    def mini_batch(self, number: int) -> MiniBatch:
        """The same with its labels, which are the tokens themselves."""
        ids = self.batch(number)
        return MiniBatch(ids, ids, Rows())


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


def read_training(path: str | None) -> Samples:
    """The samples of a file, or the bundled text for None; errors as `read_samples`."""
    if path is not None:
        return read_samples(path)
    bundled = (files("cardlab.split") / "texts" / "trial.txt").read_text("utf-8")
    name = "the bundled text"
    return Samples(form=TEXT, samples=(Sample(id=content_hash(bundled), where=name, text=bundled),), name=name)


def corpus_of(samples: Samples) -> Corpus:
    """The documents of texts. Raises UsageError for samples of another form."""
    if samples.form != TEXT:
        raise UsageError(
            f"{samples.name} has {samples.form}, and only texts are read here",
            remedy='give a text (.txt), or JSON lines (.jsonl): {"text": ...} a line',
        )
    documents = tuple(sample.text or "" for sample in samples.samples)
    digest = hashlib.sha256()
    for document in documents:
        data = document.encode("utf-8")
        digest.update(len(data).to_bytes(8, "little") + data)
    return Corpus(documents=documents, digest=digest.hexdigest()[:32], name=samples.name, notes=samples.notes)


def read_corpus(path: str | None) -> Corpus:
    """The documents of a file of texts, or of the bundled text for None.

    Raises UsageError naming the file, and the line where there is one: not there, no text, or of another form.
    """
    return corpus_of(read_training(path))


def read_tokens(path: str | None, tokenizer: str | None = None) -> Tokens:
    """Tokens of a text or JSON-lines file, of the bundled text for None; bytes without a tokenizer.json; int64 [N]."""
    tool = byte_tokens("none named") if tokenizer is None else open_tokenizer("", tokenizer)
    return tool.encode(read_corpus(path).documents)
