"""Smashed data that came from a device: made tensors again, and checked against the task before anything computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cardlab.core.records.task import Task
from cardlab.split.batches import NO_LOSS, Rows
from cardlab.split.codecs.registry import unpack_tensor
from cardlab.split.protocol import SmashedRows
from cardlab.split.refusals import TensorError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Unpacked:
    """Smashed data [B, S, h] and labels [B, S] of a mini-batch, and how its rows are read."""

    activation: torch.Tensor
    labels: torch.Tensor
    rows: Rows

    @property
    def learned(self) -> int:
        """Tokens that have a loss: the first of a row has none before it."""
        return int((self.labels[:, 1:] != NO_LOSS).sum())

    @property
    def tokens(self) -> int:
        """Tokens, padding apart."""
        return int(self.labels.numel()) if self.rows.mask is None else int(self.rows.mask.sum())


def unpack_rows(message: SmashedRows, task: Task, batch: int) -> Unpacked:
    """A mini-batch of `batch` rows; TensorError if it cannot be this task's.

    Samples that are padded to the longest of their mini-batch may be shorter than the sequence.
    """
    width = message.labels.shape[1]
    if not 2 <= width <= task.sequence:
        raise TensorError(f"rows of {width} tokens came, and the sequence is {task.sequence}")
    shape = (batch, width)
    labels = unpack_tensor(message.labels, shape).long()
    _check_labels(labels, task.architecture.vocab_size)
    mask, positions = (
        None if packed is None else unpack_tensor(packed, shape).long() for packed in (message.mask, message.positions)
    )
    _check_rows(labels, mask, positions)
    activation = unpack_tensor(message.activation, (*shape, task.architecture.hidden_size))
    return Unpacked(activation, labels, Rows(mask=mask, positions=positions))


def _check_labels(labels: torch.Tensor, vocabulary: int) -> None:
    """Raise TensorError for labels [B, S] that are no tokens, or of which none has a loss."""
    learned = labels[labels != NO_LOSS]
    # An index outside the table ends the process on a GPU.
    if learned.numel() and (int(learned.min()) < 0 or int(learned.max()) >= vocabulary):
        raise TensorError(f"labels came outside the vocabulary of {vocabulary}")
    # The mean of no losses is no number, and the first token of a row is predicted from nothing.
    if not bool((labels[:, 1:] != NO_LOSS).any()):
        raise TensorError("labels came of which none has a loss")


def _check_rows(labels: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor | None) -> None:
    """Raise TensorError for a mask or positions [B, S] that no device makes."""
    if mask is not None:
        # A row that is padding from its begin attends to nothing, which is no number.
        right = bool(((mask == 0) | (mask == 1)).all()) and bool((mask[:, 0] == 1).all())
        if not right or bool((mask.diff(dim=1) > 0).any()) or bool((labels[mask == 0] != NO_LOSS).any()):
            raise TensorError("a mask came that does not part tokens from padding behind them")
    if positions is not None:
        steps = positions.diff(dim=1)
        if bool((positions[:, 0] != 0).any()) or not bool(((steps == 1) | (positions[:, 1:] == 0)).all()):
            raise TensorError("positions came that do not count from 0")
