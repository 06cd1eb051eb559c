"""Plans to compare with, under the same conditions: the least and the most layers on the devices, one cut
for all, and what datasheet constants would have decided.

A baseline keeps every limit that the plan keeps; one that cannot is left out. Its frequency is its own
optimum, or the highest (`benchmark = "max"`): the paper does not say which it used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from cardlab.card.problem.arrays import Array
from cardlab.card.problem.objective import Range, table
from cardlab.card.problem.problem import Problem
from cardlab.card.schemes.card.fleet import fixed_outcome, is_fleet
from cardlab.card.solvers.enumeration import Choice, best_choice
from cardlab.card.solvers.together import capped, choices_of
from cardlab.core.errors import InfeasibleError
from cardlab.core.records.plan import Outcome

Parts = tuple[float, float | None, float | None]


def fixed_cuts(problem: Problem) -> dict[str, int]:
    """Index of the cut of each fixed baseline: server_only, device_only, and half way."""
    last = problem.cuts.size - 1
    found = {"server_only": 0, "device_only": last}
    if last > 1:
        found["fixed_cut"] = last // 2
    return found


def baselines(problem: Problem, extents: Sequence[Range]) -> dict[str, Outcome]:
    """Each fixed baseline that can keep the limits, by name."""
    found = {}
    for name, index in fixed_cuts(problem).items():
        outcome = fixed_cut(problem, extents, index)
        if outcome is not None:
            found[name] = outcome
    return found


def fixed_cut(problem: Problem, extents: Sequence[Range], index: int) -> Outcome | None:
    """All devices at the cut of that index, None if one of them cannot keep a limit there.

    `extents` of a fleet are not looked at.
    """
    if is_fleet(problem):
        return fixed_outcome(problem, index)
    admitted = np.zeros(problem.cuts.size)
    admitted[index] = 1.0
    # The paper does not say at which frequency its benchmarks run, and the headline figures depend on it.
    frequencies = None
    if problem.objective.benchmark == "max":
        # The highest of both sides; a device's last offered one is its highest.
        problem, frequencies = problem.at_offered(problem.offered - 1), _top_frequency(problem)
    try:
        return outcome_of([parts_of(choice) for choice in choices_of(problem, extents, admitted, frequencies)])
    except InfeasibleError:
        return None


def as_decided_by(problem: Problem, other: Problem, other_extents: Sequence[Range]) -> Outcome | None:
    """What `problem` makes of the cuts and frequencies that `other`, with its own constants, decides.

    Frequencies are matched to the nearest one the server offers; devices hold their own. Limits are those `other`
    believes to keep. None if it finds a device without a feasible choice.
    """
    parts = []
    problem = replace(problem, offer=None)
    try:
        choices = [best_choice(other, m, extent) for m, extent in enumerate(other_extents)]
        cap_j = other.constraints.fleet_energy_j
        if cap_j is not None:
            # Whose energy is not known cannot be held to a cap of all.
            if any(choice.table.device_energy_j is None for choice in choices):
                return None
            choices = capped(other, choices, cap_j)
    except InfeasibleError:
        return None
    for m, choice in enumerate(choices):
        cut = int(np.searchsorted(problem.cuts, other.cuts[choice.cut]))
        frequency_hz = choice.table.frequency_hz[choice.frequency]
        at = np.array([frequency_hz]) if problem.continuous is not None else None
        t = table(problem, m, at)
        frequency = 0 if np.isnan(t.frequency_hz).all() else int(np.argmin(np.abs(t.frequency_hz - frequency_hz)))
        energy = None if t.energy_j is None else float(t.energy_j[cut, frequency])
        own = None if t.device_energy_j is None else float(t.device_energy_j[cut, frequency])
        parts.append((float(t.delay_s[cut, frequency]), energy, own))
    return outcome_of(parts)


def outcome_of(parts: Sequence[Parts]) -> Outcome:
    """Sums over devices of (delay, server energy, device energy); an energy is None if one is unknown."""
    return Outcome(
        delay_s=sum(delay for delay, _, _ in parts),
        server_energy_j=_sum([energy for _, energy, _ in parts]),
        device_energy_j=_sum([own for _, _, own in parts]),
    )


def _sum(values: Sequence[float | None]) -> float | None:
    # A sum that leaves one party out would look like a cheap plan.
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def mean_outcome(outcomes: Sequence[Outcome]) -> Outcome:
    """Mean over rounds."""
    energy = _sum([o.server_energy_j for o in outcomes])
    own = _sum([o.device_energy_j for o in outcomes])
    return Outcome(
        delay_s=sum(o.delay_s for o in outcomes) / len(outcomes),
        server_energy_j=None if energy is None else energy / len(outcomes),
        device_energy_j=None if own is None else own / len(outcomes),
    )


def mean_baselines(rounds: Sequence[Mapping[str, Outcome]]) -> dict[str, Outcome]:
    """Mean over rounds of each baseline that every round has."""
    names = [name for name in rounds[0] if all(name in r for r in rounds)]
    return {name: mean_outcome([r[name] for r in rounds]) for name in names}


def _top_frequency(problem: Problem) -> Array:
    if problem.continuous is not None:
        return np.array([problem.frequency_hz.max()])
    if np.isnan(problem.frequency_hz).any():
        return np.ones(problem.frequency_hz.size)
    return np.asarray(problem.frequency_hz == problem.frequency_hz.max(), dtype=float)


def parts_of(choice: Choice) -> Parts:
    """Delay, server energy and device energy of a choice."""
    t = choice.table
    energy = None if t.energy_j is None else float(t.energy_j[choice.cut, choice.frequency])
    own = None if t.device_energy_j is None else float(t.device_energy_j[choice.cut, choice.frequency])
    return float(t.delay_s[choice.cut, choice.frequency]), energy, own
