"""Tokens of texts that are larger than memory, a block at a time: together those of `TextTokenizer.encode`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cardlab.split.parting import parts_of
from cardlab.split.tokenizer import TextTokenizer

Block = npt.NDArray[np.uint8] | npt.NDArray[np.int32]
# Of texts that are encoded at once: enough for all threads of the tokenizer.
BLOCK_CHARACTERS = 2**20
_BLOCK_TEXTS = 4096


@dataclass(frozen=True, slots=True)
class _Part:
    text: str
    first: bool
    last: bool


class TokenStream:
    """Tokens of documents, each given in pieces.

    Attributes:
        longest: characters of the longest text that had to be in memory at once, as far as was read.

    Raises UsageError for a text that cannot be encoded.
    """

    def __init__(self, documents: Iterable[Iterable[str]], tokenizer: TextTokenizer) -> None:
        self._documents, self._tokenizer = documents, tokenizer
        self.longest = 0

    def __iter__(self) -> Iterator[Block]:
        tokenizer = self._tokenizer
        if tokenizer.tool is None:
            for piece in _with_newlines(self._documents):
                yield np.frombuffer(piece.encode("utf-8"), dtype=np.uint8)
            return
        affixes = tokenizer.affixes()
        if affixes is None:
            tokenizer = replace(tokenizer, parting=replace(tokenizer.parting, possible=False))
        before, behind = affixes or ([], [])
        last: int | None = None
        begun = False
        for block in self._blocks(tokenizer):
            # What stands around a text is written by the tokenizer itself where the text is one part.
            rows = tokenizer.rows_of([part.text for part in block], [part.first and part.last for part in block])
            for part, row in zip(block, rows, strict=True):
                if not (part.first and part.last):
                    row = [*(before if part.first else []), *row, *(behind if part.last else [])]
                # A tokenizer may end each text by itself.
                if part.first and begun and last != tokenizer.end is not None:
                    row = [tokenizer.end, *row]
                begun = True
                last = row[-1] if row else last
                yield np.asarray(row, dtype=np.int32)

    def _blocks(self, tokenizer: TextTokenizer) -> Iterator[list[_Part]]:
        held: list[_Part] = []
        size = 0
        for part in self._parts(tokenizer):
            held.append(part)
            size += len(part.text)
            if size >= BLOCK_CHARACTERS or len(held) >= _BLOCK_TEXTS:
                yield held
                held, size = [], 0
        if held:
            yield held

    def _parts(self, tokenizer: TextTokenizer) -> Iterator[_Part]:
        # Without an end of text all documents are one text, with newlines between.
        joined = self._documents if tokenizer.end is not None else (_with_newlines(self._documents),)
        for document in joined:
            held, first = "", True
            parts = parts_of(document, tokenizer.parting, lambda text: tokenizer.rows([text], special=False)[0])
            for number, text in enumerate(parts):
                self.longest = max(self.longest, len(text))
                if number:
                    yield _Part(held, first, False)
                    first = False
                held = text
            yield _Part(held, first, True)


def _with_newlines(documents: Iterable[Iterable[str]]) -> Iterator[str]:
    for number, document in enumerate(documents):
        if number:
            yield "\n"
        yield from document
