"""How gradients become steps: the same on both sides of a cut, which never see each other's gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cardlab.split.rates import rate_of
from cardlab.split.settings import RunSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What both halves' optimizers do.

    Attributes:
        learning_rate: that the optimizers begin with.
        rate: learning rate by the number of the mini-batch (split/rates.py), None for a constant one.
        weight_decay: of the optimizer that the task names.
        accumulate: mini-batches whose gradients make one step.
        max_norm: to which the gradient of the whole model is clipped before a step, None for no clipping.
        autocast: dtype that torch's autocast computes in, None without it.
        seed: of the run, for LoRA dropout.
    """

    learning_rate: float
    rate: Callable[[int], float] | None = None
    weight_decay: float = 0.0
    accumulate: int = 1
    max_norm: float | None = None
    autocast: str | None = None
    seed: int = 0

    def ends_step(self, number: int | None) -> bool:
        """Whether a step follows mini-batch `number` (from 0); one without a number is a step of its own."""
        return number is None or (number + 1) % self.accumulate == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """What a mini-batch counts for.

    Attributes:
        in_step: of its loss among those that make one step.
        in_batch: of its device among those that are computed as one.
    """

    in_step: float = 1.0
    in_batch: float = 1.0


def recipe_of(settings: RunSettings) -> Recipe:
    """The recipe of a run."""
    return Recipe(
        learning_rate=settings.learning_rate,
        rate=rate_of(settings),
        weight_decay=settings.weight_decay,
        accumulate=settings.accumulate,
        max_norm=settings.max_grad_norm,
        autocast=settings.autocast,
        seed=settings.seed,
    )
