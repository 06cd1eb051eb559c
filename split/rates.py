"""The learning rate of each mini-batch: warmed up, then constant or falling, as transformers' schedules have it.

Both sides follow the same number of the mini-batch, so halves that never talk about it train with one rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from cardlab.split.settings import RunSettings

CONSTANT, LINEAR, COSINE = "constant", "linear", "cosine"
SCHEDULES = (CONSTANT, LINEAR, COSINE)


def rate_of(settings: RunSettings) -> Callable[[int], float]:
    """Learning rate by the number of a device's mini-batch in the run, from 0.

    Goes by steps, each of `accumulate` mini-batches: rises from 0 over the first `warmup_steps`, then stays, or falls
    to 0 at the end of the run's rounds, in a line or half a cosine.
    """
    last, warm = settings.rounds * settings.epochs // settings.accumulate, settings.warmup_steps

    def rate(number: int) -> float:
        step, span = number // settings.accumulate, max(1, last - warm)
        # Quotients and products in transformers' order: another one differs in the last bit, and so would the weights.
        if step < warm:
            return settings.learning_rate * (step / warm)
        falls = {
            LINEAR: max(0, last - step) / span,
            COSINE: 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warm) / span))),
        }
        return settings.learning_rate * falls.get(settings.schedule, 1.0)

    return rate


def rate_words(settings: RunSettings) -> str | None:
    """How the learning rate goes, for people; None for a constant one."""
    words = [f"rises over {settings.warmup_steps} step(s) of a device"] if settings.warmup_steps else []
    words += [f"falls to 0 by the end ({settings.schedule})"] if settings.schedule != CONSTANT else []
    return f"learning rate {settings.learning_rate:g}: {', then '.join(words)}" if words else None
