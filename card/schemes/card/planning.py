"""From a problem to a plan: decide each device and round, say what stood in the way, compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cardlab.card.budget import DRAWS, BudgetedRound, decided_beside
from cardlab.card.link.channel import OTHER_SEED, rates_by_round
from cardlab.card.problem.arrays import Index
from cardlab.card.problem.check import check_scenario
from cardlab.card.problem.constraints import check_caps, limits_of
from cardlab.card.problem.inputs import PlanInputs
from cardlab.card.problem.objective import Range, check_energy, cost, table
from cardlab.card.problem.problem import Problem, problem_from_scenario
from cardlab.card.problem.scenario import Scenario
from cardlab.card.schemes.card.baselines import as_decided_by, baselines, mean_baselines, mean_outcome, outcome_of
from cardlab.card.schemes.card.fleet import choose, decisions_of, is_fleet
from cardlab.card.schemes.card.waiting import waiting_note
from cardlab.card.schemes.device_energy import energy_terms, metered_j, one_after_another_s
from cardlab.card.solvers.enumeration import Choice, extents_of
from cardlab.card.solvers.together import FLEET_CAP, choices_of
from cardlab.card.uncertainty import Certainty, Uncertainty, certainties, contributions, with_guard
from cardlab.core.identity import new_uid
from cardlab.core.quantity import union_of
from cardlab.core.records.budget import ENERGY_BUDGET, Budgeted
from cardlab.core.records.plan import Alternative, Decision, Outcome, Plan, PlannedRound
from cardlab.core.text import si

# Among what stands beside a plan: its rounds decided one by one, as if devices had no budget.
WITHOUT_BUDGET = "without_budget"


def solve(scenario: Scenario) -> Plan:
    """The optimal plan of a scenario; no database needed.

    Raises ScenarioError (the scenario makes no sense), InfeasibleError (constraints cannot be kept) or
    PlanError (energy cannot be weighed, no link).
    """
    check_scenario(scenario)
    if scenario.scheme == "sft":
        from cardlab.card.schemes.sft.planning import solve_sft

        return solve_sft(scenario)
    return plan_rounds(
        problems_of(scenario), inputs=PlanInputs(assumptions=scenario.assumed), budgets=budgets_of(scenario)
    )


def budgets_of(scenario: Scenario) -> Budgets | None:
    """The energy budgets of a scenario's devices for all rounds; None where no device has one."""
    budgets_j = tuple(d.energy_budget_j for d in scenario.devices)
    return None if all(b is None for b in budgets_j) else Budgets(budgets_j, other_rounds_of(scenario, DRAWS))


def other_rounds_of(scenario: Scenario, count: int) -> list[Problem]:
    """So many rounds over the scenario's channel that are none of its own; none where no link is drawn."""
    if scenario.link is None or all(None not in (d.uplink_bps, d.downlink_bps) for d in scenario.devices):
        return []
    link = replace(scenario.link, seed=scenario.link.seed + OTHER_SEED)
    return problems_of(replace(scenario, link=link, rounds=count))


@dataclass(frozen=True, slots=True)
class Budgets:
    """Joules of each device for all rounds [M], None without, and other rounds over the same channel."""

    budgets_j: Sequence[float | None]
    known: Sequence[Problem] = ()


def problems_of(scenario: Scenario) -> list[Problem]:
    """One problem for each round, its link drawn if the scenario has a channel."""
    base = problem_from_scenario(scenario)
    if scenario.link is None:
        return [base] * scenario.rounds
    given = [(d.uplink_bps, d.downlink_bps) for d in scenario.devices]
    rates = rates_by_round(scenario.link, base.devices, given, scenario.rounds)
    return [replace(base, uplink_bps=up, downlink_bps=down) for up, down in rates]


def plan(problem: Problem, *, rounds: int = 1, uncertainty: Uncertainty | None = None) -> Plan:
    """The optimal plan of a problem whose rounds are alike; see `plan_rounds`."""
    return plan_rounds([problem] * rounds, uncertainty=uncertainty)


def plan_rounds(
    problems: Sequence[Problem],
    *,
    uncertainty: Uncertainty | None = None,
    inputs: PlanInputs | None = None,
    datasheet: Problem | None = None,
    budgets: Budgets | None = None,
) -> Plan:
    """The optimal plan of a problem for each round, with baselines beside it.

    With `budgets` no round is decided by itself: each pays the price at which its devices keep theirs over all rounds,
    as far as can be known (`cardlab.card.budget`); what would be decided without stands beside.

    `uncertainty` are what is not known about the constants; with them each decision has a probability and
    intervals, and a deadline can be guarded. `inputs` are kept in the plan for its reader. `datasheet` is the
    problem by datasheet constants; what its decisions really cost then stands among the baselines.
    """
    check_energy(problems[0])
    check_caps(problems[0])
    about = inputs or PlanInputs()
    # A scenario without a channel has the same problem in every round: solved once.
    different = list({id(p): p for p in problems}.values())
    solved = {id(p): _solved(with_guard(p, uncertainty), uncertainty) for p in different}
    alone = [solved[id(p)] for p in problems]
    rounds, unknown = _one_after_the_other(problems, alone, uncertainty)
    beside = mean_baselines([_beside(r, datasheet) for r in _each_once(alone)])
    budget, notes = None, about.notes
    if budgets is not None:
        # Each of these keeps the limits of a round, and none of them a budget.
        beside = {WITHOUT_BUDGET: mean_outcome([_outcome(r.decisions) for r in rounds]), **beside}
        guarded = {id(p): with_guard(p, uncertainty) for p in different}
        every = [guarded[id(p)] for p in problems]
        made, budget = decided_beside(every, budgets.budgets_j, budgets.known)
        rounds, unknown = _of_budgets(problems, made, uncertainty)
        notes = (*notes, *_missed(budget))
    first = rounds[0]
    return Plan(
        uid=new_uid(),
        scheme="card",
        energy=None if first.problem.power_w is None else first.problem.objective.energy,
        device_energy=first.problem.objective.device_energy,
        rounds=tuple(PlannedRound(round=n, devices=r.decisions) for n, r in enumerate(rounds, start=1)),
        outcome=mean_outcome([_outcome(r.decisions) for r in rounds]),
        # Each of them has cuts of its own: what the decided ones cost to move is no part of theirs.
        baselines=beside,
        assumptions=about.assumptions,
        budget=budget,
        notes=(*notes, *waiting_note(first.problem), *_switch_note(unknown)),
        not_predicted=("switch",) if unknown else (),
        uncertainty={} if uncertainty is None else contributions(first.problem, first.places, uncertainty),
        provenance=union_of(d.provenance for r in rounds for d in r.decisions),
        task=about.task,
        local_epochs=first.problem.objective.local_epochs,
        compression=first.problem.objective.compression,
        wire_dtype=about.wire_dtype,
        fits=about.fits,
        runs=about.runs,
        links=about.links,
        request=about.request,
    )


def _one_after_the_other(
    problems: Sequence[Problem], alone: Sequence[_Solved], uncertainty: Uncertainty | None
) -> tuple[list[_Solved], tuple[str, ...]]:
    """Rounds in their order, each knowing where the cuts are, and devices whose moves nothing timed.

    A round whose best cuts are those of the round before is decided already: staying takes no time, and moving would
    only make another choice dearer.
    """
    rounds, unknown = [alone[0]], dict[str, None]()
    for problem, here in zip(problems[1:], alone[1:], strict=True):
        before = rounds[-1].cuts
        if problem.device_layer_s is not None and not np.array_equal(before, here.cuts):
            here = _solved(with_guard(problem.moved_from(before), uncertainty), uncertainty)
            unknown |= dict.fromkeys(problem.unknown_moves(before, here.cuts))
        rounds.append(here)
    return rounds, tuple(unknown)


def _of_budgets(
    problems: Sequence[Problem], made: Sequence[BudgetedRound], uncertainty: Uncertainty | None
) -> tuple[list[_Solved], tuple[str, ...]]:
    """Rounds that were decided with budgets, and devices whose moves nothing timed."""
    rounds, unknown = list[_Solved](), dict[str, None]()
    # Rounds that are alike are decided alike but for what is left, which often takes nothing away.
    known: dict[tuple[object, ...], _Solved] = {}
    for number, here in enumerate(made):
        each = tuple((c.cut, c.frequency, c.price_per_j, c.roomless, c.room_j * c.roomless) for c in here.choices)
        key = (id(here.problem), each)
        if key not in known:
            known[key] = _solved_as(here, uncertainty)
        rounds.append(known[key])
        if number and not np.array_equal(made[number - 1].cuts, here.cuts):
            unknown |= dict.fromkeys(problems[number].unknown_moves(made[number - 1].cuts, here.cuts))
    return rounds, tuple(unknown)


def _solved_as(here: BudgetedRound, uncertainty: Uncertainty | None) -> _Solved:
    """One round as its budgets decided it; its problem has the price of a joule, which draws pay too."""
    before = here.problem.device_price_per_j
    price = np.array(here.price_per_j) + (0.0 if before is None else before)
    priced = replace(here.problem, device_price_per_j=price if (price > 0.0).any() else before)
    places = [(c.cut, c.frequency) for c in here.choices]
    sure: list[Certainty | None] = [None] * len(places)
    if uncertainty is not None:
        sure = list(certainties(priced, places, uncertainty))
    decisions = tuple(
        _decision(here.problem, m, choice, here.extents[m], sure[m]) for m, choice in enumerate(here.choices)
    )
    return _Solved(priced, here.extents, _with_terms(here.problem, here.choices, decisions), places)


def _missed(budget: Budgeted) -> tuple[str, ...]:
    each = {name: (b, s) for name, b, s in zip(budget.devices, budget.budget_j, budget.spent_j, strict=True)}
    return tuple(
        f"{name} spends {si(each[name][1], 'J')} in all rounds, more than its budget of {si(each[name][0], 'J')}:"
        " its links were worse than those before gave reason to expect"
        for name in budget.missed
    )


def _switch_note(unknown: Sequence[str]) -> tuple[str, ...]:
    if not unknown:
        return ()
    names = ", ".join(unknown)
    return (f"switch N/A for {names}: cuts move between rounds, and fetching a layer was not measured (counted as 0)",)


@dataclass(frozen=True, slots=True)
class _Solved:
    """One round: its problem (guarded), ranges (a fleet keeps none), decisions and their indices (cut, frequency)."""

    problem: Problem
    extents: Sequence[Range]
    decisions: tuple[Decision, ...]
    places: list[tuple[int, int]]

    @property
    def cuts(self) -> Index:
        """Layers on each device [M]."""
        return np.asarray(self.problem.cuts[[cut for cut, _ in self.places]])


def _solved(problem: Problem, uncertainty: Uncertainty | None) -> _Solved:
    if is_fleet(problem):
        return _solved_fleet(problem, uncertainty)
    extents = extents_of(problem)
    choices = choices_of(problem, extents)
    places = [(choice.cut, choice.frequency) for choice in choices]
    sure: list[Certainty | None] = [None] * len(choices)
    if uncertainty is not None:
        sure = list(certainties(problem, places, uncertainty))
    decisions = tuple(_decision(problem, m, choice, extents[m], sure[m]) for m, choice in enumerate(choices))
    return _Solved(problem, extents, _with_terms(problem, choices, decisions), places)


def _with_terms(problem: Problem, choices: Sequence[Choice], decisions: Sequence[Decision]) -> tuple[Decision, ...]:
    """The decisions with what each device spends in a round that lasts as long as all of them, one after another."""
    held = problem.at_offered(np.array([choice.table.device_place(choice.frequency) for choice in choices]))
    delay_s = np.array([d.delay_s for d in decisions])
    cuts = np.array([choice.cut for choice in choices])
    terms, metered = energy_terms(held, cuts, delay_s, one_after_another_s(delay_s)), metered_j(held, cuts, delay_s)
    return tuple(
        replace(d, device_energy_terms=t, device_metered_j=m) for d, t, m in zip(decisions, terms, metered, strict=True)
    )


def _solved_fleet(problem: Problem, uncertainty: Uncertainty | None) -> _Solved:
    chosen = choose(problem)
    places = list(zip(chosen.place.tolist(), chosen.listed.tolist(), strict=True))
    sure: list[Certainty | None] = [None] * len(places)
    if uncertainty is not None:
        sure = list(certainties(problem, places, uncertainty))
    return _Solved(problem, (), decisions_of(problem, chosen, sure), places)


def decisions_at(problem: Problem, places: Sequence[tuple[int, int]]) -> tuple[Decision, ...]:
    """The decisions of a round whose choices are given: of each device its cut (index) and column of its table."""
    extents = extents_of(problem)
    choices = []
    for m, (cut, column) in enumerate(places):
        t = table(problem, m)
        limits, every = limits_of(problem, m, t), cost(problem, t, extents[m])
        costs = np.where(limits.feasible, every, np.inf)
        choices.append(Choice(cut, column, float(every[cut, column]), t, costs, limits))
    decisions = tuple(_decision(problem, m, choice, extents[m], None) for m, choice in enumerate(choices))
    return _with_terms(problem, choices, decisions)


def _each_once(rounds: Sequence[_Solved]) -> list[_Solved]:
    # Rounds that are alike share one solution, and then the mean over rounds is that one.
    return [rounds[0]] if all(r is rounds[0] for r in rounds) else list(rounds)


def _beside(r: _Solved, datasheet: Problem | None) -> dict[str, Outcome]:
    found = baselines(r.problem, r.extents)
    if datasheet is not None:
        sheet = replace(datasheet, uplink_bps=r.problem.uplink_bps, downlink_bps=r.problem.downlink_bps)
        decided = as_decided_by(r.problem, sheet, extents_of(sheet))
        if decided is not None:
            found["datasheet_constants"] = decided
    return found


def _outcome(decisions: Sequence[Decision]) -> Outcome:
    return outcome_of([(d.delay_s, d.server_energy_j, d.device_energy_j) for d in decisions])


def _decision(problem: Problem, m: int, choice: Choice, extent: Range, sure: Certainty | None) -> Decision:
    t = choice.table
    energy = None if t.energy_j is None else float(t.energy_j[choice.cut, choice.frequency])
    unconstrained = cost(problem, t, extent)
    own = t.device_energy_j
    return Decision(
        device=problem.devices[m],
        cut=int(problem.cuts[choice.cut]),
        frequency_hz=_frequency(choice, choice.frequency),
        delay_s=float(t.delay_s[choice.cut, choice.frequency]),
        delay_terms=problem.at_offered(t.device_place(choice.frequency)).terms(
            m, choice.cut, float(t.server_s[choice.cut, choice.frequency])
        ),
        delay_ci95=None if sure is None else sure.delay_ci95,
        terms_ci95={} if sure is None else sure.terms_ci95,
        delay_mean_ci95=None if sure is None else sure.delay_mean_ci95,
        terms_mean_ci95={} if sure is None else sure.terms_mean_ci95,
        server_energy_j=energy,
        server_energy_ci95=None if sure is None or energy is None else sure.server_energy_ci95,
        device_energy_j=None if own is None else float(own[choice.cut, choice.frequency]),
        device_frequency_hz=_device_frequency(choice, choice.frequency),
        cost=choice.cost,
        # Draws know the price of a joule, and not how many are left.
        cut_probability=None if sure is None or choice.roomless else sure.cut_probability,
        binding=(
            *choice.limits.binding(unconstrained, choice.cut, choice.frequency),
            *((FLEET_CAP,) if choice.capped else ()),
            *((ENERGY_BUDGET,) if choice.budgeted else ()),
        ),
        runner_up=_runner_up(problem, choice),
        provenance=problem.provenance[m],
    )


def _frequency(choice: Choice, frequency: int) -> float | None:
    frequency_hz = float(choice.table.frequency_hz[frequency])
    return None if np.isnan(frequency_hz) else frequency_hz


def _device_frequency(choice: Choice, frequency: int) -> float | None:
    frequency_hz = float(choice.table.device_frequency_hz[frequency])
    return None if np.isnan(frequency_hz) else frequency_hz


def _runner_up(problem: Problem, choice: Choice) -> Alternative | None:
    """The best feasible choice with another cut."""
    # Where a joule has a price, by what it decided: with it.
    priced = choice.priced
    others = priced.copy()
    others[choice.cut] = np.inf
    if not np.isfinite(others).any():
        return None
    cut, frequency = (int(i) for i in np.unravel_index(int(np.argmin(others)), others.shape))
    t = choice.table
    return Alternative(
        cut=int(problem.cuts[cut]),
        frequency_hz=_frequency(choice, frequency),
        delay_s=float(t.delay_s[cut, frequency]),
        server_energy_j=None if t.energy_j is None else float(t.energy_j[cut, frequency]),
        cost=float(choice.costs[cut, frequency]),
        margin=float(others[cut, frequency] - priced[choice.cut, choice.frequency]),
        device_frequency_hz=_device_frequency(choice, frequency),
    )
