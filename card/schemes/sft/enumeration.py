"""The exact answer of the large timescale where it is small enough: every block allocation with every compression.

Each choice is judged with its best shares, averaged over the channel states, so nothing can be better.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from cardlab.card.problem.arrays import Index
from cardlab.card.schemes.sft.problem import SftProblem
from cardlab.card.schemes.sft.spectrum import Band

LARGEST = 20_000
_CHUNK = 2_000


@dataclass(frozen=True, slots=True)
class Chosen:
    """Cut and option indices [M], and the mean delay over the channel states, seconds."""

    cuts: Index
    options: Index
    delay_s: float


def size_of(problem: SftProblem) -> int:
    """How many choices there are."""
    allowed = problem.allowed()
    if problem.common:
        shared = allowed.any(axis=2).all(axis=0)
        return int(sum(np.prod([allowed[m, c].sum() for m in range(problem.devices)]) for c in np.flatnonzero(shared)))
    return int(np.prod([float(a.sum()) for a in allowed]))


def enumerate_all(problem: SftProblem, band: Band) -> Chosen | None:
    """The best of all choices that keep every limit (the deadline in every channel state); None if there is none."""
    places = [np.argwhere(allowed) for allowed in problem.allowed()]
    best: Chosen | None = None
    chunk: list[tuple[int, ...]] = []

    # In chunks: all choices side by side would be gigabytes, and one at a time a call each.
    def judge() -> None:
        nonlocal best
        chosen = np.array([[places[m][i] for m, i in enumerate(row)] for row in chunk])
        found = best_of(problem, band, chosen[..., 0], chosen[..., 1])
        if found is not None and (best is None or found.delay_s < best.delay_s):
            best = found
        chunk.clear()

    for row in product(*(range(len(p)) for p in places)):
        if problem.common and len({int(places[m][i][0]) for m, i in enumerate(row)}) > 1:
            continue
        chunk.append(row)
        if len(chunk) == _CHUNK:
            judge()
    if chunk:
        judge()
    return best


def best_of(problem: SftProblem, band: Band, cuts: Index, options: Index) -> Chosen | None:
    """The best of these choices [B,M] that keeps the deadline in every channel state; None if none does."""
    delays = problem.delays_s(band, cuts, options)
    mean = delays.mean(axis=-1)
    deadline = problem.base.constraints.deadline_s
    if deadline is not None:
        # A hair of room: the shares are exact only to rounding.
        mean = np.where(delays.max(axis=-1) <= deadline * (1.0 + 1e-12), mean, np.inf)
    best = int(np.argmin(mean))
    return Chosen(cuts[best], options[best], float(mean[best])) if np.isfinite(mean[best]) else None
