"""How sure the delays of a plan for parallel devices are: its choices simulated again with drawn constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cardlab.card.problem.arrays import Array, Index
from cardlab.card.schemes.sft.deciding import decide
from cardlab.card.schemes.sft.problem import SftProblem
from cardlab.card.schemes.sft.spectrum import Band
from cardlab.card.uncertainty import Uncertainty
from cardlab.core.records.plan import Decision

_TERMS = ("device", "uplink", "server", "downlink", "adapters")
_TAILS = (0.025, 0.975)


def with_intervals(
    problem: SftProblem, band: Band, cuts: Index, options: Index, shares: Array, uncertainty: Uncertainty
) -> tuple[Decision, ...]:
    """The decisions of a round with 95 % intervals of delay and terms: cuts, codecs and shares as decided [M].

    The server's term holds the waiting, which is simulated in every draw.
    """

    def drawn(of: Uncertainty) -> list[tuple[Decision, ...]]:
        return [decide(*_drawn(problem, band, of, n), cuts, options, shares) for n in range(of.draws)]

    means = drawn(uncertainty.of_means)
    rounds = drawn(uncertainty) if any(s.future for s in uncertainty.sources) else means
    return tuple(
        replace(
            decision,
            delay_ci95=_interval([r[m].delay_s for r in rounds]),
            terms_ci95=_terms_ci95(rounds, m),
            delay_mean_ci95=_interval([r[m].delay_s for r in means]),
            terms_mean_ci95=_terms_ci95(means, m),
        )
        for m, decision in enumerate(decide(problem, band, cuts, options, shares))
    )


def _terms_ci95(rounds: Sequence[Sequence[Decision]], m: int) -> dict[str, tuple[float, float]]:
    return {name: _interval([float(getattr(r[m].delay_terms, name)) for r in rounds]) for name in _TERMS}


def _drawn(problem: SftProblem, band: Band, uncertainty: Uncertainty, n: int) -> tuple[SftProblem, Band]:
    base = uncertainty.drawn(problem.base, n)
    # The base has rates of the first round and the band those of this one: the change carries over as a factor.
    up, down = (_times(getattr(base, way), getattr(problem.base, way)) for way in ("uplink_bps", "downlink_bps"))
    return (
        replace(problem, base=base, server_s=base.server_s[:, problem.top]),
        replace(band, uplink_bps=band.uplink_bps * up, downlink_bps=band.downlink_bps * down),
    )


def _times(drawn: Array, mean: Array) -> Array:
    """By what a draw changes a value."""
    return np.asarray(drawn / mean)


def _interval(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, _TAILS)
    return float(low), float(high)
