"""The plan of a parallel scheme: blocks and compressions once, bandwidth every round.

large timescale   blocks and compressions by augmented Lagrangian on the channel's statistics, beside it the exact
                  enumeration where that is small enough; the better of the two is taken
small timescale   shares by SQP in each round's channel, beside it the exact bisection
deadline          a round whose channel breaks it gets blocks and compressions of its own
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cardlab.card.problem.arrays import Array
from cardlab.card.problem.inputs import PlanInputs
from cardlab.card.problem.scenario import Scenario
from cardlab.card.schemes.sft.baselines import baselines, mean_of
from cardlab.card.schemes.sft.building import Instance, instance_from_scenario
from cardlab.card.schemes.sft.certainty import with_intervals
from cardlab.card.schemes.sft.enumeration import LARGEST, Chosen, enumerate_all, size_of
from cardlab.card.schemes.sft.large_scale import by_lagrangian
from cardlab.card.schemes.sft.problem import SftProblem
from cardlab.card.schemes.sft.rounds import SharedRound, shared
from cardlab.card.schemes.sft.spectrum import Band
from cardlab.card.uncertainty import Uncertainty
from cardlab.core.errors import InfeasibleError
from cardlab.core.identity import new_uid
from cardlab.core.quantity import union_of
from cardlab.core.records.plan import Plan, PlannedRound
from cardlab.core.text import si

_SLACK = 1e-9


def solve_sft(scenario: Scenario) -> Plan:
    """The plan of a scenario with scheme "sft".

    Raises InfeasibleError (a limit cannot be kept) or PlanError (no link).
    """
    return plan_instance(instance_from_scenario(scenario))


def plan_instance(instance: Instance, inputs: PlanInputs | None = None) -> Plan:
    """The plan of an instance with its baselines; `inputs` are kept in the plan for its reader."""
    about = inputs or PlanInputs()
    problem = instance.problem
    chosen, found_by = choose(problem, instance.statistics)
    rounds: list[SharedRound] = []
    known: dict[int, SharedRound] = {}
    for band in instance.rounds:
        if id(band) not in known:
            # The shares of the round before are a start close to those of this one.
            found = _round(problem, band, chosen, rounds[-1].shares if rounds else None)
            known[id(band)] = (
                found if instance.uncertainty is None else _with_intervals(problem, band, found, instance.uncertainty)
            )
        rounds.append(known[id(band)])
    base = problem.base
    rates = {problem.options[int(k)].rate for r in rounds for k in r.chosen.options}
    return Plan(
        uid=new_uid(),
        scheme="sft",
        energy=None if problem.power_w is None else "busy",
        rounds=tuple(PlannedRound(round=n, devices=r.decisions) for n, r in enumerate(rounds, start=1)),
        outcome=mean_of([r.outcome for r in rounds]),
        baselines=baselines(instance, rounds[0].chosen),
        assumptions=tuple(dict.fromkeys((*about.assumptions, *instance.assumed))),
        notes=(*about.notes, found_by, *_notes(problem, rounds, chosen)),
        provenance=union_of(d.provenance for r in rounds for d in r.decisions),
        task=about.task,
        local_epochs=base.objective.local_epochs,
        compression=max(rates),
        wire_dtype=about.wire_dtype,
        server_sharing=problem.sharing,
        fits=about.fits,
        runs=tuple(dict.fromkeys((*about.runs, *instance.runs))),
        links=about.links,
    )


def choose(problem: SftProblem, statistics: Band) -> tuple[Chosen, str]:
    """Blocks and compressions for these channel states, and how they were found, in words.

    Raises InfeasibleError where no choice keeps the deadline in all of them.
    """
    found = by_lagrangian(problem, statistics)
    size = size_of(problem)
    # The heuristic is run even where the exact answer is in reach: the plan then says how far off it was.
    exact = enumerate_all(problem, statistics) if size <= LARGEST else None
    if exact is not None:
        gap = "" if found is None else f", augmented Lagrangian {found.delay_s / exact.delay_s - 1.0:+.2%} from it"
        return exact, f"blocks and compressions: exact enumeration of {size} choices{gap}"
    if found is None:
        raise _late(problem, statistics)
    return (
        found,
        f"blocks and compressions: augmented Lagrangian, rounded; {size:.3g} choices are too many to enumerate",
    )


def _late(problem: SftProblem, band: Band) -> InfeasibleError:
    deadline = problem.base.constraints.deadline_s
    allowed = problem.allowed()
    least = np.array([np.argwhere(a)[0] for a in allowed])
    best = float(problem.delays_s(band, least[:, 0], least[:, 1]).max())
    return InfeasibleError(
        f"deadline of {si(deadline, 's')} cannot be kept by the slowest device; with least layers and bytes it takes"
        f" {si(best, 's')}",
        remedy="give a longer --deadline, more bandwidth or more compression",
    )


def _round(problem: SftProblem, band: Band, chosen: Chosen, before: Array | None) -> SharedRound:
    made = shared(problem, band, chosen.cuts, chosen.options, before)
    deadline = problem.base.constraints.deadline_s
    if deadline is None or made.chosen.delay_s <= deadline * (1.0 + _SLACK):
        return made
    # A channel of one state: choices for this round alone, and no longer for the mean.
    here = replace(band, uplink_bps=band.uplink_bps[None], downlink_bps=band.downlink_bps[None])
    again, _ = choose(problem, here)
    return shared(problem, band, again.cuts, again.options, None)


def _with_intervals(problem: SftProblem, band: Band, found: SharedRound, uncertainty: Uncertainty) -> SharedRound:
    """The round with intervals of its delays."""
    cuts, options = found.chosen.cuts, found.chosen.options
    return replace(found, decisions=with_intervals(problem, band, cuts, options, found.shares, uncertainty))


def _notes(problem: SftProblem, rounds: Sequence[SharedRound], chosen: Chosen) -> tuple[str, ...]:
    worst = max(r.gap for r in rounds)
    notes = [f"bandwidth: SQP every round, at most {worst:.1e} above the exact bisection"]
    bound = max(r.chosen.delay_s for r in rounds)
    if problem.sharing == "serial" and problem.devices > 1:
        notes.append(f"server one mini-batch at a time: no order of arrival makes a round longer than {si(bound, 's')}")
    moved = sum(
        not np.array_equal(r.chosen.cuts, chosen.cuts) or not np.array_equal(r.chosen.options, chosen.options)
        for r in rounds
    )
    if moved:
        notes.append(f"{moved} round(s) have blocks and compressions of their own, to keep the deadline")
    if any(d.loss_penalty is None for d in rounds[0].decisions):
        notes.append("what compression costs in loss is unknown; measure it with: card accuracy")
    return tuple(notes)
