"""From a problem to a plan: decide each device, say what stood in the way, put baselines beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cardlab.card.check import check_scenario
from cardlab.card.enumeration import Choice, best_choice, extreme_clocks
from cardlab.card.objective import Range, check_energy, cost, ranges, table
from cardlab.card.problem import Array, Problem, problem_from_scenario
from cardlab.card.scenario import Scenario
from cardlab.errors import InfeasibleError, PlanError
from cardlab.identity import new_uid
from cardlab.quantity import union_of
from cardlab.records.plan import Alternative, Decision, Outcome, Plan, PlannedRound


def solve(scenario: Scenario) -> Plan:
    """The optimal plan of a scenario; no database needed.

    Raises ScenarioError (the scenario makes no sense), InfeasibleError (constraints cannot be kept) or
    PlanError (energy cannot be weighed).
    """
    check_scenario(scenario)
    if scenario.scheme != "card":
        raise PlanError(f"scheme {scenario.scheme!r} cannot be planned yet", remedy="use --scheme card")
    return plan(problem_from_scenario(scenario), rounds=scenario.rounds, assumptions=scenario.assumed)


def plan(
    problem: Problem,
    *,
    rounds: int = 1,
    assumptions: Sequence[str] = (),
    notes: Sequence[str] = (),
    fits: Sequence[str] = (),
    runs: Sequence[str] = (),
) -> Plan:
    """The optimal plan of a problem, with server-only and device-only beside it."""
    check_energy(problem)
    extents = _extents(problem)
    decisions = tuple(decide(problem, m, extents[m]) for m in range(len(problem.devices)))
    return Plan(
        uid=new_uid(),
        scheme="card",
        energy=None if problem.power_w is None else problem.objective.energy,
        rounds=tuple(PlannedRound(round=n + 1, devices=decisions) for n in range(rounds)),
        outcome=_outcome([(d.delay_s, d.server_energy_j) for d in decisions]),
        baselines=_baselines(problem, extents),
        assumptions=tuple(assumptions),
        notes=tuple(notes),
        provenance=union_of(d.provenance for d in decisions),
        fits=tuple(fits),
        runs=tuple(runs),
    )


def _extents(problem: Problem) -> list[Range]:
    clocks = None if problem.continuous is None else extreme_clocks(problem)
    return ranges(problem, [table(problem, m, clocks) for m in range(len(problem.devices))])


def decide(problem: Problem, m: int, extent: Range) -> Decision:
    """The optimal choice of device m."""
    choice = best_choice(problem, m, extent)
    t = choice.table
    energy = None if t.energy_j is None else float(t.energy_j[choice.cut, choice.clock])
    unconstrained = cost(problem, t, extent)
    return Decision(
        device=problem.devices[m],
        cut=int(problem.cuts[choice.cut]),
        frequency_hz=_clock(choice),
        delay_s=float(t.delay_s[choice.cut, choice.clock]),
        delay_terms=problem.terms(m, choice.cut, float(t.server_s[choice.cut, choice.clock])),
        server_energy_j=energy,
        device_energy_j=_device_energy(problem, m, choice.cut),
        cost=choice.cost,
        binding=choice.limits.binding(unconstrained, choice.cut, choice.clock),
        runner_up=_runner_up(problem, choice),
        provenance=problem.provenance[m],
    )


def _clock(choice: Choice) -> float | None:
    clock = float(choice.table.frequency_hz[choice.clock])
    return None if np.isnan(clock) else clock


def _device_energy(problem: Problem, m: int, cut: int) -> float | None:
    power = float(problem.device_power_w[m])
    if np.isnan(power):
        return None
    return power * problem.objective.local_epochs * float(problem.device_s[m, cut])


def _runner_up(problem: Problem, choice: Choice) -> Alternative | None:
    """The best feasible choice with another cut."""
    others = choice.costs.copy()
    others[choice.cut] = np.inf
    if not np.isfinite(others).any():
        return None
    cut, clock = np.unravel_index(int(np.argmin(others)), others.shape)
    t = choice.table
    frequency = float(t.frequency_hz[clock])
    return Alternative(
        cut=int(problem.cuts[cut]),
        frequency_hz=None if np.isnan(frequency) else frequency,
        delay_s=float(t.delay_s[cut, clock]),
        server_energy_j=None if t.energy_j is None else float(t.energy_j[cut, clock]),
        cost=float(others[cut, clock]),
        margin=float(others[cut, clock]) - choice.cost,
    )


def _baselines(problem: Problem, extents: list[Range]) -> dict[str, Outcome]:
    """The least and the most layers on the devices, each at its own best clock, other limits kept."""
    found = {}
    for name, index in (("server_only", 0), ("device_only", problem.cuts.size - 1)):
        admitted = np.zeros(problem.cuts.size)
        admitted[index] = 1.0
        outcome = _fixed_cut(problem, extents, admitted)
        if outcome is not None:
            found[name] = outcome
    return found


def _fixed_cut(problem: Problem, extents: list[Range], admitted: Array) -> Outcome | None:
    parts = []
    for m in range(len(problem.devices)):
        try:
            choice = best_choice(problem, m, extents[m], admitted)
        except InfeasibleError:
            return None
        t = choice.table
        energy = None if t.energy_j is None else float(t.energy_j[choice.cut, choice.clock])
        parts.append((float(t.delay_s[choice.cut, choice.clock]), energy))
    return _outcome(parts)


def _outcome(parts: Sequence[tuple[float, float | None]]) -> Outcome:
    energies = [energy for _, energy in parts if energy is not None]
    return Outcome(
        delay_s=sum(delay for delay, _ in parts),
        server_energy_j=sum(energies) if len(energies) == len(parts) else None,
    )
