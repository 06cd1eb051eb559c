"""Whole fleets at once: the batch solver decides, and what its decisions cost are arrays over devices [M].

A small problem is enumerated device by device, which loads no compiler; from `BATCH_FROM` devices on the batch solver
decides. Both make the same plan: next best cut, binding limits and baselines are further batches, with the chosen cut
excluded, without limits, and with one cut admitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cardlab.card.problem.arrays import Array, Index
from cardlab.card.problem.constraints import Limit, Measures, limits_on
from cardlab.card.problem.delay import RoundTerms, delay_terms_of_each, round_seconds
from cardlab.card.problem.energy import device_round_j
from cardlab.card.problem.objective import ranges, server_energy_j, table
from cardlab.card.problem.problem import Problem
from cardlab.card.problem.scenario import Constraints
from cardlab.card.schemes.device_energy import energy_terms, metered_j, one_after_another_s
from cardlab.card.solvers.batch import BatchAnswer, batch_applies, solve_batch
from cardlab.card.solvers.enumeration import best_choice, common_range
from cardlab.card.uncertainty import Certainty
from cardlab.core.records.plan import Alternative, Decision, Outcome

# One by one a device takes about half a millisecond a round. A batch takes next to nothing, but loading numba and its
# machine code takes half a second once (two the very first time): as much as this many devices over four rounds.
BATCH_FROM = 256


def is_fleet(problem: Problem) -> bool:
    """Whether the problem is decided as a fleet: enough devices, and rules that the batch solver knows."""
    # A cap on all devices together joins what a batch decides apart.
    together = problem.constraints.fleet_energy_j is not None
    return len(problem.devices) >= BATCH_FROM and batch_applies(problem) and not together


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetChoice:
    """One choice for each device [M], and what its round costs; NaN where there is none.

    Attributes:
        place: index of the cut, -1 for none.
        listed: index of the server's frequency among the listed ones, 0 where it takes any.
        offered: index of the device's own frequency among those it offers, 0 where it holds one.
        frequency_hz, cost: of the choice; device_frequency_hz: NaN also where it is not known.
        terms: seconds of the round; delay_s: their sum.
        server_power_w, server_energy_j: None where the server's power is not known.
        device_energy_j: NaN where the device's power is not known.
    """

    place: Index
    listed: Index
    offered: Index
    frequency_hz: Array
    device_frequency_hz: Array
    cost: Array
    terms: RoundTerms
    delay_s: Array
    server_power_w: Array | None
    server_energy_j: Array | None
    device_energy_j: Array

    @property
    def outcome(self) -> Outcome:
        """Sums over devices; an energy is None if that of one device is not known."""
        own = float(self.device_energy_j.sum())
        return Outcome(
            delay_s=one_after_another_s(self.delay_s),
            server_energy_j=None if self.server_energy_j is None else float(self.server_energy_j.sum()),
            device_energy_j=None if np.isnan(own) else own,
        )


def choose(problem: Problem) -> FleetChoice:
    """The best choice of every device. Raises InfeasibleError for the first one that has none."""
    answer = solve_batch(problem)
    if not answer.feasible.all():
        _refuse(problem, int(np.argmin(answer.feasible)))
    return _choice(problem, answer)


def _refuse(problem: Problem, m: int) -> None:
    """Raise InfeasibleError in the words of the solver that keeps the tables."""
    common = problem.objective.range == "common"
    best_choice(problem, m, common_range(problem) if common else ranges(problem, [table(problem, m)])[0])
    raise AssertionError(f"the batch solver finds no choice for {problem.devices[m]!r} and the enumeration does")


def _choice(problem: Problem, answer: BatchAnswer) -> FleetChoice:
    at = Places(place=answer.place, listed=np.maximum(answer.listed, 0), offered=np.maximum(answer.offered, 0))
    return choice_at(problem, at, answer.frequency_hz, answer.cost)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Indices [M] of a choice of each device: its cut, the server's listed frequency, its own offered one."""

    place: Index
    listed: Index
    offered: Index


def choice_at(problem: Problem, at: Places, frequency_hz: Array, cost: Array) -> FleetChoice:
    """What a choice of each device costs, at these server frequencies; its cost is given [M]."""
    problem, place, listed = problem.at_offered(at.offered), at.place, at.listed
    paper, cut, each = problem.continuous, np.maximum(place, 0), np.arange(place.size)
    power_w = None if problem.power_w is None else problem.power_w[listed]
    wait_w = None if problem.wait_power_w is None else problem.wait_power_w[listed]
    # For a continuous server the listed frequencies are only its ends, and the place says nothing.
    server_s = problem.server_s[cut, listed]
    if paper is not None:
        server_s = paper.flop[cut] / (frequency_hz * paper.flop_per_hz)
        if paper.kappa_w_per_hz3 is not None:
            power_w = np.asarray(paper.static_power_w + paper.kappa_w_per_hz3 * frequency_hz**3)
    terms = problem.round_terms(each, cut, server_s)
    delay_s, busy_s = np.asarray(round_seconds(terms)), np.asarray(terms.server)
    return FleetChoice(
        place=place,
        listed=listed,
        offered=at.offered,
        frequency_hz=frequency_hz,
        device_frequency_hz=_held_hz(problem),
        cost=cost,
        terms=terms,
        delay_s=delay_s,
        server_power_w=power_w,
        server_energy_j=None if power_w is None else server_energy_j(problem, busy_s, delay_s, power_w, wait_w),
        device_energy_j=_own_energy_j(problem, cut, terms, delay_s),
    )


def _own_energy_j(problem: Problem, cut: Index, terms: RoundTerms, delay_s: Array) -> Array:
    """Energy of each device [M], counted as the objective says; NaN where a power is not known."""
    if problem.objective.device_energy == "compute":
        return np.asarray(problem.device_power_w * terms.device)
    return np.asarray(device_round_j(problem.device_joules(np.arange(cut.size), cut, delay_s)))


def _held_hz(problem: Problem) -> Array:
    held = problem.device_frequency_hz
    return np.full(len(problem.devices), np.nan) if held is None else held


def limits_on_choice(problem: Problem, chosen: FleetChoice) -> tuple[Limit, ...]:
    """The constraints on one choice of each device [M]."""
    cut = np.maximum(chosen.place, 0)
    measures = Measures(
        delay_s=chosen.delay_s,
        server_power_w=chosen.server_power_w,
        server_energy_j=chosen.server_energy_j,
        device_energy_j=chosen.device_energy_j,
        layers=problem.cuts[cut].astype(float),
        device_memory_bytes=problem.device_memory_bytes[np.arange(cut.size), cut],
        device_memory_limit_bytes=problem.device_memory_limit_bytes,
        server_memory_bytes=problem.server_memory_bytes[cut],
    )
    return limits_on(problem, measures)


def fixed_outcome(problem: Problem, index: int) -> Outcome | None:
    """All devices at the cut of that index, None if one of them cannot keep a limit there."""
    if problem.objective.benchmark != "max":
        admitted = np.zeros(problem.cuts.size, dtype=bool)
        admitted[index] = True
        answer = solve_batch(problem, admitted=admitted)
        return _choice(problem, answer).outcome if answer.feasible.all() else None
    count = len(problem.devices)
    top = 0 if np.isnan(problem.frequency_hz).all() else int(np.argmax(problem.frequency_hz))
    highest_hz = np.full(count, problem.frequency_hz[top])
    # The last offered frequency is the highest.
    at = Places(place=np.full(count, index), listed=np.full(count, top), offered=np.full(count, problem.offered - 1))
    chosen = choice_at(problem, at, highest_hz, np.full(count, np.nan))
    kept = all(bool(limit.kept.all()) for limit in limits_on_choice(problem, chosen))
    return chosen.outcome if kept else None


def decisions_of(problem: Problem, chosen: FleetChoice, sure: Sequence[Certainty | None]) -> tuple[Decision, ...]:
    """The decision of each device, with its next best cut and the limits that moved it."""
    # Three batches in all; tables of every choice would be M x C x F numbers.
    binding, runner_up = _binding(problem), _runner_up(problem, chosen)
    terms = delay_terms_of_each(chosen.terms, chosen.place.size)
    energies, own = _numbers(chosen.server_energy_j, chosen), _numbers(chosen.device_energy_j, chosen)
    frequencies, delays = _numbers(chosen.frequency_hz, chosen), chosen.delay_s.tolist()
    held = _numbers(chosen.device_frequency_hz, chosen)
    at = problem.at_offered(chosen.offered)
    spent = energy_terms(at, chosen.place, chosen.delay_s, one_after_another_s(chosen.delay_s))
    metered = metered_j(at, chosen.place, chosen.delay_s)
    found = []
    for m, (name, certain) in enumerate(zip(problem.devices, sure, strict=True)):
        found.append(
            Decision(
                device=name,
                cut=int(problem.cuts[chosen.place[m]]),
                frequency_hz=frequencies[m],
                delay_s=delays[m],
                delay_terms=terms[m],
                delay_ci95=None if certain is None else certain.delay_ci95,
                terms_ci95={} if certain is None else certain.terms_ci95,
                delay_mean_ci95=None if certain is None else certain.delay_mean_ci95,
                terms_mean_ci95={} if certain is None else certain.terms_mean_ci95,
                server_energy_j=energies[m],
                server_energy_ci95=None if certain is None or energies[m] is None else certain.server_energy_ci95,
                device_energy_j=own[m],
                device_frequency_hz=held[m],
                device_energy_terms=spent[m],
                device_metered_j=metered[m],
                cost=float(chosen.cost[m]),
                cut_probability=None if certain is None else certain.cut_probability,
                binding=binding[m],
                runner_up=runner_up[m],
                provenance=problem.provenance[m],
            )
        )
    return tuple(found)


def _numbers(values: Array | None, like: FleetChoice) -> list[float | None]:
    """Plain numbers [M], None for what is not known."""
    if values is None:
        return [None] * like.place.size
    # A NaN is the one number that differs from itself; as plain floats this is quicker than asking numpy.
    return [None if value != value else value for value in values.tolist()]


def _binding(problem: Problem) -> list[tuple[str, ...]]:
    """By device, names of the limits that the best choice without any limit would break."""
    free = replace(
        problem,
        constraints=Constraints(),
        device_memory_limit_bytes=np.full(len(problem.devices), np.nan),
        server_memory_limit_bytes=np.nan,
    )
    broken = [(limit.name, ~limit.kept) for limit in limits_on_choice(problem, choose(free))]
    moved = np.any([mask for _, mask in broken], axis=0) if broken else np.zeros(len(problem.devices), dtype=bool)
    return [tuple(name for name, mask in broken if mask[m]) if moved[m] else () for m in range(moved.size)]


def _runner_up(problem: Problem, chosen: FleetChoice) -> list[Alternative | None]:
    """By device, the best choice with another cut."""
    other = _choice(problem, solve_batch(problem, excluded=chosen.place))
    frequencies, energies = _numbers(other.frequency_hz, other), _numbers(other.server_energy_j, other)
    held = _numbers(other.device_frequency_hz, other)
    rows = zip(other.place.tolist(), other.delay_s.tolist(), other.cost.tolist(), chosen.cost.tolist(), strict=True)
    return [
        None
        if place < 0
        else Alternative(
            cut=int(problem.cuts[place]),
            frequency_hz=frequencies[m],
            delay_s=delay_s,
            server_energy_j=energies[m],
            cost=cost,
            margin=cost - best,
            device_frequency_hz=held[m],
        )
        for m, (place, delay_s, cost, best) in enumerate(rows)
    ]
