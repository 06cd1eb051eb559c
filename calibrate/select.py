"""Which law: the one that best predicts frequencies it has not seen, and of equals the simplest.

Every identifiable law is fitted with each frequency left out in turn. A simpler law wins over the best one
when its mean held-out error is not worse by more than one standard error of the paired difference (the
one-standard-error rule of Breiman et al., 1984) nor by more than a fixed margin. The pure cubic is
never a candidate: it is the paper's baseline, fitted and shown beside the choice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cardlab.calibrate.data import SweepData
from cardlab.calibrate.fitter import Options, Solution, solve_law
from cardlab.calibrate.uncertainty import leave_one_clock_out
from cardlab.core.laws import Law, law_named
from cardlab.core.laws.base import Array

CANDIDATES = {
    "power": ("constant", "static_cubic", "static_linear_cubic", "power_law", "ridge", "measured"),
    "latency": ("constant", "inverse", "affine_inverse", "measured"),
    "accuracy": ("saturating",),
}
BASELINE = "cubic"
# A simpler law may be this much worse before the better one is preferred; below SLACK errors are noise of the
# meter.
MARGIN = 1.25
SLACK = 0.002
# A table through fewer points would win by passing through all of them.
TABLE_FROM = 6
OUTLIER_WEIGHT = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One law tried: its solution and its held-out error per point [n] (None with one frequency)."""

    solution: Solution
    held_out: Array | None

    @property
    def law(self) -> Law:
        """The law, bound to the data."""
        return self.solution.law

    @property
    def score(self) -> float:
        """Mean absolute held-out relative error, infinite if unknown."""
        return float("inf") if self.held_out is None else float(np.mean(np.abs(self.held_out)))


def candidates_for(quantity: str) -> tuple[str, ...]:
    """Names of the laws the automatic choice considers for a quantity."""
    return CANDIDATES["power" if quantity == "wait_power" else quantity]


def try_laws(
    quantity: str, data: SweepData, options: Options, names: tuple[str, ...] | None = None
) -> tuple[Candidate, ...]:
    """Fit every identifiable law of those names, held-out errors included.

    With too few frequencies for any of them: a constant for one frequency, the points themselves for two.
    """
    laws = [law_named(quantity, name) for name in names or candidates_for(quantity)]
    # Identifiability counts distinct frequencies, not readings.
    clock_x = np.array([float(data.x[data.clock == c].mean()) for c in range(data.clocks)])
    usable = [law for law in laws if law.identifiable(clock_x) and _sensible(law, data)]
    # One or two frequencies still make a fit, one that says how little it knows.
    if not usable:
        usable = [law_named(quantity, "constant" if data.clocks == 1 else "measured")]
    tried = []
    for law in usable:
        solution = solve_law(law, data, options)
        tried.append(Candidate(solution=solution, held_out=leave_one_clock_out(data, solution)))
    return tuple(tried)


def _sensible(law: Law, data: SweepData) -> bool:
    if law.name == "measured":
        return data.clocks >= TABLE_FROM
    if law.name == "constant":
        return data.clocks == 1 or data.clocks >= 3
    return True


def choose(tried: tuple[Candidate, ...]) -> Candidate:
    """The simplest candidate that predicts as well as the best one."""
    fair = _without_outliers(tried)
    best = min(fair, key=lambda c: c.score)
    equals = [i for i, c in enumerate(fair) if c is best or _ties(c, best)]
    return tried[min(equals, key=lambda i: (fair[i].law.complexity, fair[i].score))]


def _without_outliers(tried: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    # A wild reading costs every law the same and would drown what tells them apart: a point that a
    # robust fit gave little weight is no test of the others.
    wild = np.zeros(tried[0].solution.sigma.size, dtype=bool)
    for candidate in tried:
        if candidate.solution.robust:
            wild |= candidate.solution.weights * candidate.solution.sigma < OUTLIER_WEIGHT
    # More than a quarter cannot all be outliers: then the laws are wrong, not the points.
    if not np.any(wild) or np.sum(wild) > wild.size // 4:
        return tried
    return tuple(c if c.held_out is None else replace(c, held_out=c.held_out[~wild]) for c in tried)


def _ties(candidate: Candidate, best: Candidate) -> bool:
    if candidate.held_out is None or best.held_out is None:
        return candidate.score == best.score
    # Paired by point: both laws met the same noise, which cancels in the difference.
    worse = np.abs(candidate.held_out) - np.abs(best.held_out)
    error = float(np.std(worse, ddof=1)) / np.sqrt(worse.size) if worse.size > 1 else 0.0
    within_margin = candidate.score <= MARGIN * best.score + SLACK
    return float(np.mean(worse)) <= error and within_margin
