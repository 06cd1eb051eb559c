"""Rows that are kept out of training, so that a run can be judged by what it did not see.

Which ones is said by their tokens alone: the same row is held out on every machine, in every order of a file and beside
whatever other rows, and a row that stands twice is never on both sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cardlab.core.errors import RunError, UsageError


@dataclass(frozen=True, slots=True)
class Part:
    """One side of the rows: those that are held out at this share of all, or those that are left.

    Raises UsageError for a share that is none.
    """

    share: float
    held_out: bool

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise UsageError(
                f"a share of {self.share:g} cannot be held out", remedy="give one above 0 and below 1, like 0.05"
            )

    def of(self, rows: Iterable[npt.NDArray[np.signedinteger]]) -> npt.NDArray[np.int64]:
        """Places of this side's rows, given the tokens of each."""
        limit = int(self.share * 2.0**64)
        found = [place for place, row in enumerate(rows) if (_number(row) < limit) is self.held_out]
        return np.asarray(found, dtype=np.int64)


class Shard(NamedTuple):
    """Whose rows: every M-th, from the j-th; of one side of the held-out share only, None for all rows.

    Attributes:
        place: j, from 0.
        of: M.
    """

    place: int = 0
    of: int = 1
    part: Part | None = None


class NoRowsError(RunError):
    """Data that have no row for a device, or none on one side of the held-out share."""


def seen_in_training(
    judged: Iterable[npt.NDArray[np.signedinteger]], trained: Iterable[npt.NDArray[np.signedinteger]]
) -> tuple[int, int]:
    """How many of the held-out rows are trained on too, and how many there are, given the tokens of each."""
    numbers = [_number(row) for row in judged]
    wanted = set(numbers)
    met = {number for row in trained if (number := _number(row)) in wanted}
    return sum(number in met for number in numbers), len(numbers)


def side_of(part: Part | None) -> str:
    """Which side is meant, in words behind a noun; "" for all rows."""
    return "" if part is None else " that is held out" if part.held_out else " that is left to train on"


def _number(row: npt.NDArray[np.signedinteger]) -> int:
    data = np.ascontiguousarray(row, dtype="<i4").tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
