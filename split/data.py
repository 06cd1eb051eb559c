"""What a device trains on: a file its user names, as tokens, in windows of the sequence length.

    text file   its bytes                    .jsonl   the "text" of each line, one after the other
    tokens      bytes (0..255), or those of a local tokenizer.json that the user names

Which windows a mini-batch takes depends on the seed, the round and the epoch only, never on what happened before,
so that a round made again after a fault is the same round. Several devices on one file take every M-th window.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cardlab.core.errors import MissingDependencyError, RunError, UsageError

if TYPE_CHECKING:
    import torch

Tokens = npt.NDArray[np.int64]
_REMEDY = "give a text file, or JSON lines with a text key"


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


def read_tokens(path: str | None, tokenizer: str | None = None) -> Tokens:
    """Tokens of a text or JSON-lines file, of the bundled text for None; int64 [N]."""
    text = _read(path)
    if tokenizer is None:
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingDependencyError(
            "a tokenizer needs the tokenizers package", remedy="pip install 'cardlab[models]'"
        ) from error
    file = Path(tokenizer)
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.is_file():
        raise UsageError(f"there is no tokenizer {file}", remedy="name a tokenizer.json, or leave --tokenizer out")
    return np.asarray(Tokenizer.from_file(str(file)).encode(text).ids, dtype=np.int64)


def _read(path: str | None) -> str:
    if path is None:
        return (files("cardlab.split") / "texts" / "trial.txt").read_text("utf-8")
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the data {path} cannot be read: {error}", remedy=_REMEDY) from error
    return _from_lines(path, text) if path.endswith(".jsonl") else text


def _from_lines(path: str, text: str) -> str:
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{path} line {number} is no JSON", remedy=_REMEDY) from error
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            raise UsageError(f"{path} line {number} has no text", remedy=_REMEDY)
        found.append(entry["text"])
    return "\n".join(found)
