"""The plan of a parallel scheme: blocks and compressions once, bandwidth every round.

large timescale   blocks and compressions by augmented Lagrangian on the channel's statistics, beside it the exact
                  enumeration where that is small enough; the better of the two is taken
small timescale   shares by SQP in each round's channel, beside it the exact bisection
deadline          a round whose channel breaks it gets blocks and compressions of its own
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cardlab.card.problem import Array
from cardlab.card.scenario import Scenario
from cardlab.card.sft.bandwidth import share_by_sqp
from cardlab.card.sft.baselines import baselines, mean_of
from cardlab.card.sft.building import Instance, instance_from_scenario
from cardlab.card.sft.enumeration import LARGEST, Chosen, enumerate_all, size_of
from cardlab.card.sft.large_scale import by_lagrangian
from cardlab.card.sft.problem import Index, SftProblem
from cardlab.card.sft.queue import waits_batched, waits_serial
from cardlab.card.sft.spectrum import Band, share_exactly
from cardlab.errors import InfeasibleError
from cardlab.identity import new_uid
from cardlab.quantity import union_of
from cardlab.records.plan import Decision, DelayTerms, Outcome, Plan, PlannedRound
from cardlab.text import si

_SLACK = 1e-9


def solve_sft(scenario: Scenario) -> Plan:
    """The plan of a scenario with scheme "sft".

    Raises InfeasibleError (a limit cannot be kept) or PlanError (no link).
    """
    return plan_instance(instance_from_scenario(scenario))


@dataclass(frozen=True, slots=True)
class SharedRound:
    """One round: who does what with which share, and how far SQP is from the exact shares (a fraction)."""

    chosen: Chosen
    shares: Array
    decisions: tuple[Decision, ...]
    outcome: Outcome
    gap: float


def plan_instance(
    instance: Instance,
    *,
    notes: Sequence[str] = (),
    fits: Sequence[str] = (),
    runs: Sequence[str] = (),
    links: Sequence[str] = (),
    task: str | None = None,
    wire_dtype: str | None = None,
) -> Plan:
    """The plan of an instance with its baselines; words and uids as in `solving.plan_rounds`."""
    problem = instance.problem
    chosen, found_by = choose(problem, instance.statistics)
    rounds: list[SharedRound] = []
    known: dict[int, SharedRound] = {}
    for band in instance.rounds:
        if id(band) not in known:
            known[id(band)] = _round(problem, band, chosen, rounds[-1].shares if rounds else None)
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
        assumptions=instance.assumed,
        notes=(*notes, found_by, *_notes(problem, rounds, chosen)),
        provenance=union_of(d.provenance for r in rounds for d in r.decisions),
        task=task,
        local_epochs=base.objective.local_epochs,
        compression=max(rates),
        wire_dtype=wire_dtype,
        server_sharing=problem.sharing,
        fits=tuple(fits),
        runs=tuple(dict.fromkeys((*runs, *instance.runs))),
        links=tuple(links),
    )


def choose(problem: SftProblem, statistics: Band) -> tuple[Chosen, str]:
    """Blocks and compressions for these channel states, and how they were found, in words.

    Raises InfeasibleError where no choice keeps the deadline in all of them.
    """
    found = by_lagrangian(problem, statistics)
    size = size_of(problem)
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
    here = Band(band.bandwidth_hz, band.uplink_bps[None], band.downlink_bps[None], band.spectrum)
    again, _ = choose(problem, here)
    return shared(problem, band, again.cuts, again.options, None)


def shared(problem: SftProblem, band: Band, cuts: Index, options: Index, start: Array | None) -> SharedRound:
    """The small timescale: shares for a round's channel, and what becomes of each device."""
    fixed = problem.fixed_s(cuts, options)
    up, down = problem.sent_bytes(cuts, options)
    exact_s = float(share_exactly(band, fixed, up, down)[0])
    bound_s, shares = share_by_sqp(band, fixed, up, down, start)
    decisions = decide(problem, band, cuts, options, shares)
    outcome = outcome_of(decisions, float((up + down).sum()))
    return SharedRound(Chosen(cuts, options, bound_s), shares, decisions, outcome, bound_s / exact_s - 1.0)


def outcome_of(decisions: Sequence[Decision], sent_bytes: float) -> Outcome:
    """Delay of the slowest; energies add up, None if one is unknown."""
    energies = [d.server_energy_j for d in decisions]
    own = [d.device_energy_j for d in decisions]
    return Outcome(
        delay_s=max(d.delay_s for d in decisions),
        server_energy_j=None if None in energies else sum(e for e in energies if e is not None),
        device_energy_j=None if None in own else sum(e for e in own if e is not None),
        sent_bytes=sent_bytes,
    )


def decide(problem: SftProblem, band: Band, cuts: Index, options: Index, shares: Array) -> tuple[Decision, ...]:
    """Each device's round, waiting at the server played through."""
    terms = _terms(problem, band, cuts, options, shares)
    waits = _waits(problem, cuts, options, terms)
    base, epochs = problem.base, problem.base.objective.local_epochs
    whole_s = float(problem.server_round_s(cuts))
    up_bps, down_bps = band.rate(band.uplink_bps, shares), band.rate(band.downlink_bps, shares)
    decisions = []
    for m, name in enumerate(base.devices):
        option = problem.options[int(options[m])]
        t = terms[m]
        full = DelayTerms(**{**_as_dict(t), "server": t.server + waits[m]})
        busy_s = epochs * (
            whole_s / problem.devices if problem.sharing == "batched" else float(problem.server_s[cuts[m]])
        )
        own_w = float(base.device_power_w[m])
        decisions.append(
            Decision(
                device=name,
                cut=int(base.cuts[cuts[m]]),
                frequency_hz=problem.frequency_hz,
                delay_s=full.total,
                delay_terms=full,
                server_energy_j=None if problem.power_w is None else problem.power_w * busy_s,
                device_energy_j=None if np.isnan(own_w) else own_w * t.device,
                cost=full.total,
                waiting_s=waits[m],
                bandwidth_share=float(shares[m]),
                uplink_bps=float(up_bps[m]),
                downlink_bps=float(down_bps[m]),
                compression=option.rate,
                codec=option.codec,
                loss_penalty=0.0 if option.rate >= 1.0 else option.penalty,
                provenance=base.provenance[m],
            )
        )
    return tuple(decisions)


def _as_dict(terms: DelayTerms) -> dict[str, float]:
    return {name: float(getattr(terms, name)) for name in DelayTerms.__slots__}


def _terms(problem: SftProblem, band: Band, cuts: Index, options: Index, shares: Array) -> list[DelayTerms]:
    """Round totals of each device; the server's without waiting for others."""
    base, epochs = problem.base, problem.base.objective.local_epochs
    up_bps, down_bps = band.rate(band.uplink_bps, shares), band.rate(band.downlink_bps, shares)
    batched_s = float(problem.server_round_s(cuts)) if problem.sharing == "batched" else None
    found = []
    for m in range(problem.devices):
        c, k = int(cuts[m]), int(options[m])
        rate = problem.options[k].rate
        adapters = float(base.adapter_bytes[c])
        encode_s = float(problem.encode_s[m, c, k])
        found.append(
            DelayTerms(
                device=float(epochs * base.device_s[m, c]),
                encode=epochs * encode_s,
                uplink=float(epochs * (rate * base.up_bytes[c] + problem.label_bytes) * 8.0 / up_bps[m]),
                decode=epochs * (float(problem.codec_s[m, c, k]) - encode_s),
                server=epochs * (float(problem.server_s[c]) if batched_s is None else batched_s),
                downlink=float(epochs * rate * base.down_bytes[c] * 8.0 / down_bps[m]),
                adapters=float(adapters * 8.0 * (1.0 / up_bps[m] + 1.0 / down_bps[m]) + base.handling[m, c]),
                switch=base.switch_s,
            )
        )
    return found


def _waits(problem: SftProblem, cuts: Index, options: Index, terms: Sequence[DelayTerms]) -> list[float]:
    """Waiting of each device in a round; a mini-batch spends half its device's time and codec before the server.

    The server decodes and encodes for one device at a time.
    """
    epochs = problem.base.objective.local_epochs
    each = np.arange(problem.devices)
    decode, encode = (s[each, cuts, options].tolist() for s in (problem.there_decode_s, problem.there_encode_s))
    half = [
        ((t.device + t.encode + t.decode) / epochs - d - e) / 2.0
        for t, d, e in zip(terms, decode, encode, strict=True)
    ]
    before = [h + t.uplink / epochs for h, t in zip(half, terms, strict=True)]
    after = [h + t.downlink / epochs for h, t in zip(half, terms, strict=True)]
    if problem.sharing == "batched":
        return waits_batched(before, after, epochs, decode, encode)
    own = [float(problem.server_s[c]) + d + e for c, d, e in zip(cuts, decode, encode, strict=True)]
    return waits_serial(before, own, after, epochs)


def _notes(problem: SftProblem, rounds: Sequence[SharedRound], chosen: Chosen) -> tuple[str, ...]:
    worst = max(r.gap for r in rounds)
    notes = [f"bandwidth: SQP every round, at most {worst:.1e} above the exact bisection"]
    bound = max(r.chosen.delay_s for r in rounds)
    if problem.sharing == "serial" and problem.devices > 1:
        notes.append(f"server one mini-batch at a time: no order of arrival makes a round longer than {si(bound, 's')}")
    moved = sum(not np.array_equal(r.chosen.cuts, chosen.cuts) or not np.array_equal(r.chosen.options, chosen.options)
                for r in rounds)  # fmt: skip
    if moved:
        notes.append(f"{moved} round(s) have blocks and compressions of their own, to keep the deadline")
    if any(d.loss_penalty is None for d in rounds[0].decisions):
        notes.append("what compression costs in loss is unknown; measure it with: card accuracy")
    return tuple(notes)
