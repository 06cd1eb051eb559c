"""What each device spends in a round, term by term, once all devices are decided."""

from __future__ import annotations

import math

import numpy as np

from cardlab.card.problem.arrays import Array, Index
from cardlab.card.problem.energy import device_round_j
from cardlab.card.problem.problem import Problem
from cardlab.core.records.plan import DeviceEnergyTerms


def one_after_another_s(delay_s: Array) -> float:
    """How long a round of all devices [M] lasts, seconds: rounded once, so that their order changes no number."""
    return math.fsum(delay_s.tolist())


def energy_terms(problem: Problem, cuts: Index, delay_s: Array, round_s: float) -> list[DeviceEnergyTerms]:
    """Of each device [M] at its cut (index), for its delay and that of the whole round, seconds.

    The problem's devices hold the frequencies that were decided (`Problem.at_offered`).
    """
    each = np.arange(cuts.size)
    joules = problem.device_joules(each, cuts, delay_s)
    idle_w = np.full(cuts.size, np.nan) if problem.device_idle_power_w is None else problem.device_idle_power_w
    # Rounding of a sum is no time: a device alone is never idle, whatever it would draw.
    idle_s = np.where(round_s - delay_s > 1e-9 * round_s, round_s - delay_s, 0.0)
    idle_j = np.where(idle_s > 0.0, idle_w * idle_s, 0.0)
    columns = [_numbers(values, cuts.size) for values in (*joules, idle_j)]
    return [
        DeviceEnergyTerms(compute=compute, transmit=transmit, receive=receive, waiting=waiting, idle=idle)
        for compute, transmit, receive, waiting, idle in zip(*columns, strict=True)
    ]


def metered_j(problem: Problem, cuts: Index, delay_s: Array) -> list[float | None]:
    """What each device's own meter counts in its round [M], J; None where a part is not known. Arguments as above."""
    joules = problem.metered_joules(np.arange(cuts.size), cuts, delay_s)
    return _numbers(device_round_j(joules), cuts.size)


def _numbers(values: object, count: int) -> list[float | None]:
    found = np.broadcast_to(np.asarray(values, dtype=float), count).tolist()
    return [None if value != value else value for value in found]
