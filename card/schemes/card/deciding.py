"""What a problem is decided to, in short: for the front, for sensitivity and for notes, which need no whole plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cardlab.card.problem.problem import Problem
from cardlab.card.schemes.card.baselines import outcome_of, parts_of
from cardlab.card.schemes.card.fleet import choose, is_fleet
from cardlab.card.solvers.enumeration import extents_of
from cardlab.card.solvers.together import choices_of
from cardlab.core.records.plan import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """Cut, server frequency and own frequency of each device (None where it cannot be chosen or is not known), and what
    the round costs."""

    cuts: tuple[int, ...]
    frequencies_hz: tuple[float | None, ...]
    device_frequencies_hz: tuple[float | None, ...]
    outcome: Outcome


def decided(problem: Problem) -> Decided:
    """The best choice of every device. Raises InfeasibleError for the first one that has none."""
    if is_fleet(problem):
        fleet = choose(problem)
        return Decided(
            cuts=tuple(problem.cuts[fleet.place].tolist()),
            frequencies_hz=tuple(_or_none(value) for value in fleet.frequency_hz.tolist()),
            device_frequencies_hz=tuple(_or_none(value) for value in fleet.device_frequency_hz.tolist()),
            outcome=fleet.outcome,
        )
    choices = choices_of(problem, extents_of(problem))
    return Decided(
        cuts=tuple(int(problem.cuts[choice.cut]) for choice in choices),
        frequencies_hz=tuple(_or_none(float(choice.table.frequency_hz[choice.frequency])) for choice in choices),
        device_frequencies_hz=tuple(
            _or_none(float(choice.table.device_frequency_hz[choice.frequency])) for choice in choices
        ),
        outcome=outcome_of([parts_of(choice) for choice in choices]),
    )


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
