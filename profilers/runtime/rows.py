"""A large embedding that is not held: the rows of a mini-batch's tokens are read from its file as they are needed.

A frozen embedding is the largest weight of a device's side (501 MiB of llama-3.2-1b in bfloat16, a layer has 116) and
of it a mini-batch needs as many rows as it has different tokens. They are read by position and not mapped: what a
mapping makes resident depends on the pages that the system keeps together, and came near the whole file.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch

from cardlab.core.errors import ProfileError
from cardlab.core.records.task import Execution

# A smaller one is held: reading costs about a millisecond, and saves nothing that matters.
_LARGE_BYTES = 64 * 2**20


def reads_rows(weight_bytes: int, execution: Execution) -> bool:
    """Whether a device's side reads the rows of an embedding of that size from its file; on a GPU it is held there."""
    return weight_bytes > _LARGE_BYTES and execution.torch is not None and execution.accelerator is None


class RowsOfFile:
    """Rows of a matrix in a file.

    Args:
        path: of the file.
        offset: of the first value, bytes.
        dtype: of the values in the file.
        columns: values of a row.
    """

    def __init__(self, path: Path, offset: int, dtype: torch.dtype, columns: int) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._offset, self._dtype, self._columns = offset, dtype, columns
        self._row_bytes = columns * dtype.itemsize

    def read(self, numbers: list[int]) -> torch.Tensor:
        """Rows by number, ascending: [len(numbers), columns]. Raises ProfileError where the file ends before."""
        held = bytearray(len(numbers) * self._row_bytes)
        view, place, last = memoryview(held), 0, len(numbers)
        while place < last:
            end = place + 1
            while end < last and numbers[end] == numbers[end - 1] + 1:
                end += 1
            part = view[place * self._row_bytes : end * self._row_bytes]
            if os.preadv(self._file, [part], self._offset + numbers[place] * self._row_bytes) != len(part):
                raise ProfileError(
                    f"{self._path} ends before row {numbers[end - 1]} of its embedding",
                    remedy="put the file of the weights back, and leave it as it is while it is trained on",
                )
            place = end
        return torch.frombuffer(held, dtype=self._dtype).view(last, self._columns)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


def read_from(embedding: torch.nn.Module, rows: RowsOfFile, dtype: torch.dtype) -> None:
    """Let an embedding without weight compute with rows of a file; whatever its class does with them stays as it is."""
    compute = embedding.forward

    def forward(ids: torch.Tensor) -> torch.Tensor:
        numbers, places = torch.unique(ids, return_inverse=True)
        without = embedding.weight
        embedding.weight = torch.nn.Parameter(rows.read(numbers.tolist()).to(dtype), requires_grad=False)
        try:
            found: torch.Tensor = compute(places)
            return found
        finally:
            embedding.weight = without

    embedding.forward = forward
    embedding.reads_rows = True


def hold_again(embedding: torch.nn.Module) -> None:
    """Undo `read_from`: the embedding computes with its own weight."""
    del embedding.forward
    embedding.reads_rows = False


def stand_in_rows(embedding: torch.nn.Module, dtype: torch.dtype, execution: Execution) -> bool:
    """Let a large embedding read rows of zeros from a file that takes no room, so that it costs what it costs in a run.

    False for one that is held.
    """
    rows, columns = (int(side) for side in embedding.weight.shape)
    if not reads_rows(rows * columns * dtype.itemsize, execution):
        return False
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(rows * columns * dtype.itemsize)
        # It stays open, and goes with who reads it.
        found = RowsOfFile(Path(file.name), 0, dtype, columns)
    read_from(embedding, found, dtype)
    return True


def is_read_by_rows(module: torch.nn.Module) -> bool:
    """Whether a module is an embedding that computes with rows of a file."""
    return bool(getattr(module, "reads_rows", False))
