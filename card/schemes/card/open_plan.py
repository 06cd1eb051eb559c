"""What each choice of a plan loses in each draw of a party that is being measured.

A draw is a plan of its own: its tables, its ranges, its limits. In it a choice of cut, server frequency and device
frequency loses

    (U - min U) / min(1 + W, V)
    V = min U + w Dmin/(Dmax - Dmin) + (1 - w) Emin/(Emax - Emin) + W E_dev,min/(E_dev,max - E_dev,min)

with U the cost of `objective`. Its ranges make a price of a second and of a joule, and V is what the best choice pays
at these prices; 1 + W is the most that U can differ. So a loss of .02 is 2 % of the best plan's own price, and never
more than 2 % of the ranges. A choice that breaks a limit in a draw loses 1; where no choice keeps the limits none loses
anything, since none is better. With a range for each cut there is no one price, and 1 + W counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cardlab.card.problem.arrays import Array, Index, Mask
from cardlab.card.problem.being_measured import OpenPlan, PartyDraws
from cardlab.card.problem.constraints import limits_of
from cardlab.card.problem.objective import Range, Table, common_of, cost, delay_weight, ranges, table
from cardlab.card.problem.problem import Problem

# Losses that are kept as they are computed; of larger tables they are computed again.
_KEPT = 30_000_000
Losses = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDecision:
    """What the choices of one device in one round lose.

    Attributes:
        device: its index; problem: index of the round's problem.
        cut, server_hz, device_hz: of each choice that is best in some draw, or on average [K]; NaN unknown.
        regrets: [N,K].
        kept: whether some choice keeps every limit, of each draw [N].
    """

    device: int
    problem: int
    cut: Index
    server_hz: Array
    device_hz: Array
    regrets: Array
    kept: Mask

    @property
    def feasible(self) -> float:
        """Share of the draws in which some choice keeps every limit."""
        return float(self.kept.mean())


def open_decisions(plan: OpenPlan, draws: PartyDraws) -> tuple[OpenDecision, ...]:
    """Every decision that depends on the party, with what its choices lose in each draw."""
    return tuple(_decision(plan, draws, p, m) for p in range(len(plan.problems)) for m in plan.deciding)


def _decision(plan: OpenPlan, draws: PartyDraws, p: int, m: int) -> OpenDecision:
    problem = plan.problems[p]
    others = _extent_of_others(plan, problem, draws)

    def every() -> Iterator[tuple[Losses, bool]]:
        """Of each draw what its choices lose [C K], and whether any keeps the limits."""
        for n in range(draws.count):
            drawn = plan.with_party(problem, draws, n)
            yield _losses(drawn, m, table(drawn, m), others)

    t = table(plan.with_party(problem, draws, 0), m)
    again = list(every()) if t.delay_s.size * draws.count <= _KEPT else None
    total, best, kept = np.zeros(t.delay_s.size), set[int](), []
    for lost, feasible in again or every():
        total += lost
        kept.append(feasible)
        if feasible:
            best.add(int(np.argmin(lost)))
    chosen = np.array(sorted({int(np.argmin(total)), *best}), dtype=np.int64)
    cut, column = np.divmod(chosen, t.delay_s.shape[1])
    return OpenDecision(
        device=m,
        problem=p,
        cut=problem.cuts[cut],
        server_hz=t.frequency_hz[column],
        device_hz=t.device_frequency_hz[column],
        regrets=np.stack([lost[chosen] for lost, _ in again or every()]).astype(float),
        kept=np.array(kept, dtype=bool),
    )


def _losses(problem: Problem, m: int, t: Table, others: Range | None) -> tuple[Losses, bool]:
    extent = ranges(problem, [t])[0]
    if others is not None:
        extent = common_of([extent, others])
    elif problem.objective.range == "common":
        extent = ranges(problem, [table(problem, i) for i in range(len(problem.devices))])[0]
    feasible = limits_of(problem, m, t).feasible
    if not feasible.any():
        return np.zeros(feasible.size, dtype=np.float32), False
    costs = cost(problem, t, extent)
    least = float(costs[feasible].min())
    lost = np.where(feasible, np.minimum((costs - least) / price_of(problem, extent, least), 1.0), 1.0)
    # As many as choices times draws: half the width is exact enough for shares.
    return lost.ravel().astype(np.float32), True


def price_of(problem: Problem, extent: Range, least: float) -> float:
    """What a difference of cost is held against, where the best choice costs `least`: see above."""
    own, weight = problem.objective.device_energy_weight, delay_weight(problem)
    # Of the server's energy there may be a range for each cut, of no weight.
    energy_j = extent.energy_j if weight < 1.0 else None
    if energy_j is not None and np.size(energy_j[0]) > 1:
        return 1.0 + own
    ends = None if energy_j is None else (float(energy_j[0]), float(energy_j[1]))
    priced = ((weight, extent.delay_s), (1.0 - weight, ends), (own, extent.device_energy_j))
    price = least + sum(part * span[0] / (span[1] - span[0]) for part, span in priced if span and span[1] > span[0])
    # Energy above idle may be next to nothing, or less.
    return min(1.0 + own, price) if price > 0.0 else 1.0 + own


def _extent_of_others(plan: OpenPlan, problem: Problem, draws: PartyDraws) -> Range | None:
    """The range of the other devices, which no draw changes; None where it does not count or follows the server."""
    others = [i for i in range(len(problem.devices)) if i != plan.device]
    if problem.objective.range != "common" or plan.device is None or not others:
        return None
    drawn = plan.with_party(problem, draws, 0)
    return ranges(drawn, [table(drawn, i) for i in others])[0]
