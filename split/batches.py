"""Mini-batches of samples: each sample in a row of its own, padded, or several packed into one.

    padded   tokens            a b c . .      labels  a b c x x     mask 1 1 1 0 0     x: no loss (-100)
             the longest of the mini-batch gives the length of its rows
    packed   tokens            a b c d e .    labels  x b c x e x   positions 0 1 2 0 1 0
             every row has the sequence length; what stands at its end is a sample of padding

The first token of a packed sample is not to be predicted from the sample before it. Positions that begin anew tell
transformers where one sample ends: it keeps their attention apart where the model's own code asks it to.
Which rows a mini-batch has depends on the seed and its number only, so a round that is made again is the same round.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from cardlab.core.errors import RunError
from cardlab.split.encoding import Encoded
from cardlab.split.held_out import NoRowsError, Shard, side_of
from cardlab.split.token_file import NOWHERE, StoredSamples, TokenArray, first_learned

if TYPE_CHECKING:
    import torch

NO_LOSS = -100
_WHOLE = Shard()
PADDED, PACKED = "padded", "packed"


@dataclass(frozen=True, slots=True)
class Rows:
    """How the rows of a mini-batch are to be read; both None: every row is one text, of full length.

    Attributes:
        mask: 1 for a token, 0 for padding, int64 [B, S].
        positions: that of each token in its own sample, int64 [B, S].
    """

    mask: torch.Tensor | None = None
    positions: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class MiniBatch:
    """Token numbers and labels, int64 [B, S], and how the rows are read; labels of -100 have no loss."""

    ids: torch.Tensor
    labels: torch.Tensor
    rows: Rows


class TrainingData(Protocol):
    """Mini-batches by number, from 0."""

    rows: int

    def mini_batch(self, number: int) -> MiniBatch:
        """Mini-batch `number`."""

    def each(self) -> Iterator[MiniBatch]:
        """Every row once."""


_Labelled = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Tokens of a sample and their labels."""


class Order:
    """Which rows a mini-batch takes: every pass over them has an order of its own, drawn from seed and pass alone."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self._count, self._batch, self._seed = count, batch, seed
        # A permutation of a million rows takes longer than a small mini-batch: that of the pass is kept.
        self._turn, self._drawn = -1, np.empty(0, dtype=np.int64)

    def of(self, number: int) -> list[int]:
        """Rows of mini-batch `number`, from 0."""
        found = []
        for position in range(number * self._batch, (number + 1) * self._batch):
            turn, place = divmod(position, self._count)
            if turn != self._turn:
                self._turn = turn
                self._drawn = np.random.default_rng((self._seed, turn)).permutation(self._count)
            found.append(int(self._drawn[place]))
        return found


def samples_of(encoded: Sequence[Encoded]) -> StoredSamples:
    """Samples that are in memory, as those of a file are."""
    ends = np.cumsum([len(sample.tokens) for sample in encoded], dtype=np.int64)
    none: list[npt.NDArray[np.int32]] = [np.empty(0, dtype=np.int32)]
    return StoredSamples(
        tokens=np.concatenate([*none, *(sample.tokens for sample in encoded)]),
        learned=np.concatenate([np.empty(0, dtype=np.bool_), *(sample.learned for sample in encoded)]),
        offsets=np.concatenate([np.zeros(1, dtype=np.int64), ends]),
        firsts=np.asarray([first_learned(sample.learned) for sample in encoded], dtype=np.int32),
        highest=max((int(sample.tokens.max()) for sample in encoded if len(sample.tokens)), default=-1),
    )


def sample_rows(held: StoredSamples, sequence: int) -> Iterator[TokenArray]:
    """The tokens of each sample, without what is cut off: it is neither trained on nor judged."""
    ends = np.minimum(held.offsets[1:], held.offsets[:-1] + sequence)
    return (held.tokens[begin:end] for begin, end in zip(held.offsets[:-1], ends, strict=True))


class SampleBatches:
    """Mini-batches of samples.

    Args:
        samples: as tokens, in memory or mapped.
        batch: rows of a mini-batch.
        sequence: tokens of a row, at most; what is longer loses its end.
        vocabulary: of the model; every token must be below it.
        packing: several samples in a row.
        padding: token that stands where there is none.
        shard: (j, M): this device takes samples j, j+M, ...; a `Shard` may take them of one side of the held-out share.

    Attributes:
        rows: of this device's data.
        notes: what was cut off or left out, in words.

    Raises NoRowsError where nothing is left, RunError for tokens that the model does not have.
    """

    def __init__(
        self,
        samples: Sequence[Encoded] | StoredSamples,
        *,
        batch: int,
        sequence: int,
        vocabulary: int,
        seed: int = 0,
        packing: bool = False,
        padding: int = 0,
        shard: tuple[int, int] | Shard = _WHOLE,
    ) -> None:
        shard = Shard(*shard)
        held = samples if isinstance(samples, StoredSamples) else samples_of(samples)
        count = len(held.firsts)
        places = np.arange(count)
        if shard.part is not None:
            # Two that differ in what is cut off only are one row.
            places = shard.part.of(sample_rows(held, sequence))
        mine = places[shard.place :: shard.of]
        # The first token of a row is predicted from nothing.
        kept = mine[held.firsts[mine] < sequence]
        whole = held.offsets[kept + 1] - held.offsets[kept]
        cut = int((whole > sequence).sum())
        notes = []
        if cut:
            notes.append(
                f"{cut} of {len(kept)} samples are longer than {sequence} tokens (--seq): their ends are cut off"
            )
        if len(kept) < len(mine):
            notes.append(
                f"{len(mine) - len(kept)} of {len(mine)} samples are left out: no token with a loss among their first"
                f" {sequence} (--seq)"
            )
        if len(mine) and (held.firsts[mine] == NOWHERE).all():
            raise NoRowsError(
                f"none of {len(mine)} samples has a token to learn{side_of(shard.part)}: no answer, or an empty one",
                remedy="give samples with a completion or an assistant's turn, or --train-on all",
            )
        if not len(kept):
            raise NoRowsError(
                f"the data have {len(places)} samples{side_of(shard.part)}: none with a token to learn within"
                f" {sequence} for each of"
                f" {shard.of} device(s)",
                remedy="give more samples, or a longer --seq",
            )
        if max(held.highest, padding) >= vocabulary:
            raise RunError(
                f"the data have token {held.highest} and the model a vocabulary of {vocabulary}",
                remedy="byte tokens need at least 256; name the tokenizer.json of the model with --tokenizer",
            )
        lengths = np.minimum(whole, sequence)
        # Row r has the samples places[begins[r]:begins[r + 1]].
        order, begins = _packed(lengths, sequence) if packing else (None, np.arange(len(kept) + 1))
        self.rows = len(begins) - 1
        if packing:
            filled = int(lengths.sum()) / (self.rows * sequence)
            notes.append(
                f"{len(kept)} samples are packed into {self.rows} rows of {sequence} tokens, {filled:.0%} full"
            )
        self.notes = tuple(notes)
        self._samples, self._sequence = held, sequence
        self._places, self._begins = kept if order is None else kept[order], begins
        self._packing, self._padding = packing, padding
        self._order, self._size = Order(self.rows, batch, seed), batch

    def mini_batch(self, number: int) -> MiniBatch:
        """Mini-batch `number` (from 0), int64 [B, S] with S up to the sequence length."""
        return self._read(self._order.of(number))

    def each(self) -> Iterator[MiniBatch]:
        """Every row once, in mini-batches of which the last may be smaller."""
        for begin in range(0, self.rows, self._size):
            yield self._read(range(begin, min(begin + self._size, self.rows)))

    def _read(self, rows: Iterable[int]) -> MiniBatch:
        groups = [self._places[self._begins[row] : self._begins[row + 1]] for row in rows]
        samples = [[self._tokens_and_labels(int(place)) for place in group] for group in groups]
        return self._packed(samples) if self._packing else self._padded([group[0] for group in samples])

    def _tokens_and_labels(self, place: int) -> _Labelled:
        held = self._samples
        begin = int(held.offsets[place])
        end = min(int(held.offsets[place + 1]), begin + self._sequence)
        tokens = held.tokens[begin:end].astype(np.int64)
        return tokens, np.where(held.learned[begin:end], tokens, NO_LOSS)

    def _padded(self, samples: Sequence[_Labelled]) -> MiniBatch:
        import torch

        width = max(len(tokens) for tokens, _ in samples)
        ids = np.full((len(samples), width), self._padding, dtype=np.int64)
        labels = np.full_like(ids, NO_LOSS)
        mask = np.zeros_like(ids)
        for row, (tokens, own) in enumerate(samples):
            ids[row, : len(tokens)], labels[row, : len(tokens)], mask[row, : len(tokens)] = tokens, own, 1
        # Rows of one length need no mask, and without one nothing travels for it.
        rows = Rows() if mask.all() else Rows(mask=torch.from_numpy(mask))
        return MiniBatch(torch.from_numpy(ids), torch.from_numpy(labels), rows)

    def _packed(self, groups: Sequence[Sequence[_Labelled]]) -> MiniBatch:
        import torch

        ids = np.full((len(groups), self._sequence), self._padding, dtype=np.int64)
        labels = np.full_like(ids, NO_LOSS)
        positions = np.zeros_like(ids)
        for row, group in enumerate(groups):
            end = 0
            for tokens, own in group:
                begin, end = end, end + len(tokens)
                ids[row, begin:end], labels[row, begin:end] = tokens, own
                labels[row, begin] = NO_LOSS
                positions[row, begin:end] = np.arange(len(tokens))
            positions[row, end:] = np.arange(self._sequence - end)
        return MiniBatch(torch.from_numpy(ids), torch.from_numpy(labels), Rows(positions=torch.from_numpy(positions)))


def packed(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Which samples of these lengths share a row of that room: best-fit decreasing, with the rows of TRL's default.

    Returns places in `lengths`, row by row. No length may exceed the room.
    """
    places, begins = _packed(np.asarray(lengths, dtype=np.int64), room)
    return [places[low:high].tolist() for low, high in zip(begins[:-1], begins[1:], strict=True)]


def _packed(lengths: npt.NDArray[np.int64], room: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """As `packed`: all places, row by row, and where each row begins among them."""
    rows = 0
    left: dict[int, deque[int]] = {}
    rooms: list[int] = []
    order = np.argsort(-lengths, kind="stable")
    row_of = np.empty(len(order), dtype=np.int64)
    for number, need in enumerate(_numbers(lengths[order])):
        found = bisect_left(rooms, need)
        if found < len(rooms):
            space = rooms[found]
            row = left[space].popleft()
            if not left[space]:
                del left[space], rooms[found]
        else:
            space, row = room, rows
            rows += 1
        row_of[number] = row
        rest = space - need
        if rest:
            if rest not in left:
                insort(rooms, rest)
            left.setdefault(rest, deque()).append(row)
    begins = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.bincount(row_of, minlength=rows))])
    return order[np.argsort(row_of, kind="stable")], begins


def _numbers(array: npt.NDArray[np.int64]) -> Iterator[int]:
    """Numbers of Python, few of them at a time."""
    for low in range(0, len(array), 65536):
        yield from array[low : low + 65536].tolist()


def joined(rows: Sequence[Rows], widths: Sequence[int], heights: Sequence[int]) -> Rows:
    """How mini-batches are read that are computed as one, each padded at its end to the widest.

    Args:
        widths, heights: S and B of each.
    """
    import torch

    most = max(widths)
    parts: list[torch.Tensor]
    if any(own.positions is not None for own in rows):
        # transformers sees packed samples only without a mask: padding becomes a sample of its own.
        parts = [
            _as_positions(own, width, height, most) for own, width, height in zip(rows, widths, heights, strict=True)
        ]
        return Rows(positions=torch.cat(parts))
    if len(set(widths)) == 1 and all(own.mask is None for own in rows):
        return Rows()
    parts = []
    for own, width, height in zip(rows, widths, heights, strict=True):
        mask = torch.ones((height, width), dtype=torch.int64) if own.mask is None else own.mask
        parts.append(torch.nn.functional.pad(mask, (0, most - width)))
    return Rows(mask=torch.cat(parts))


def _as_positions(rows: Rows, width: int, height: int, most: int) -> torch.Tensor:
    import torch

    ends = torch.full((height, 1), width) if rows.mask is None else rows.mask.sum(dim=1, keepdim=True)
    places = torch.arange(most).expand(height, most)
    if rows.positions is None:
        return torch.where(places < ends, places, places - ends)
    behind = torch.arange(most - width).expand(height, most - width)
    return torch.cat([rows.positions, behind], dim=1)
