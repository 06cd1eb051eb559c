"""The small timescale: shares of the band for given blocks and compressions, and what the round then is."""

from __future__ import annotations

from dataclasses import dataclass

from cardlab.card.problem.arrays import Array, Index
from cardlab.card.schemes.sft.bandwidth import share_by_sqp
from cardlab.card.schemes.sft.deciding import decide, outcome_of
from cardlab.card.schemes.sft.enumeration import Chosen
from cardlab.card.schemes.sft.problem import SftProblem
from cardlab.card.schemes.sft.spectrum import Band, share_exactly
from cardlab.core.records.plan import Decision, Outcome


@dataclass(frozen=True, slots=True)
class SharedRound:
    """One round: who does what with which share, and how far SQP is from the exact shares (a fraction)."""

    chosen: Chosen
    shares: Array
    decisions: tuple[Decision, ...]
    outcome: Outcome
    gap: float


def shared(problem: SftProblem, band: Band, cuts: Index, options: Index, start: Array | None) -> SharedRound:
    """The small timescale: shares for a round's channel, and what becomes of each device."""
    fixed = problem.fixed_s(cuts, options)
    up, down = problem.sent_bytes(cuts, options)
    exact_s = float(share_exactly(band, fixed, up, down)[0])
    bound_s, shares = share_by_sqp(band, fixed, up, down, start)
    decisions = decide(problem, band, cuts, options, shares)
    outcome = outcome_of(decisions, float((up + down).sum()))
    return SharedRound(Chosen(cuts, options, bound_s), shares, decisions, outcome, bound_s / exact_s - 1.0)
