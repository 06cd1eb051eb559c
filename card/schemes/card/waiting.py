"""Whether the server's power while it waits changes what is decided.

`busy` charges the server only for its own compute, so layers moved to a slow device look free; in
`round` the server is paid for the whole round, P(f) while it computes and P_wait(f) while it waits.
"""

from __future__ import annotations

from dataclasses import replace

from cardlab.card.problem.objective import delay_weight
from cardlab.card.problem.problem import Problem
from cardlab.card.schemes.card.deciding import decided
from cardlab.core.errors import InfeasibleError


def waiting_note(problem: Problem) -> tuple[str, ...]:
    """One line if counting the waiting server, or not counting it, moves a cut; else nothing."""
    energy = problem.objective.energy
    if problem.wait_power_w is None or energy not in ("busy", "round") or delay_weight(problem) >= 1.0:
        return ()
    # Decided twice, with the two accounts: the note is about what changes, not about how much it costs.
    other = replace(problem, objective=replace(problem.objective, energy="round" if energy == "busy" else "busy"))
    try:
        here, there = decided(problem).cuts, decided(other).cuts
    except InfeasibleError:
        return ()
    moved = [
        f"{name} from cut {with_it} to {without}"
        for name, with_it, without in zip(
            problem.devices, *((here, there) if energy == "busy" else (there, here)), strict=True
        )
        if with_it != without
    ]
    if not moved:
        return ()
    counted = "counting" if energy == "round" else "which is not counted here,"
    if energy == "round":
        return (f"{counted} the server's power while it waits moves {', '.join(moved)}",)
    return (f"the server's power while it waits, {counted} would move {', '.join(moved)} (--energy round)",)
