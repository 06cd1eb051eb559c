"""Sources of what one round of a later run differs by from the means that profiles say.

    time of a side = mean x (1 + between T_nu + within Z)        T once a run, Z each round

They widen the intervals of a plan and its guard bands; which cut is best on average they do not tell, so they have no
part in the certainty of a decision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from cardlab.card.problem.arrays import Array
from cardlab.card.problem.delay import s_per_bit
from cardlab.card.problem.problem import Problem
from cardlab.card.problem.rehearsals import Rehearsed
from cardlab.card.uncertainty import Source
from cardlab.core.records.run_spread import LINK_WITHIN, MESSAGE_WITHIN_S, RunSpread


def future_sources(
    problem: Problem, spreads: Sequence[tuple[str, RunSpread]], server: tuple[str, RunSpread], draws: int
) -> tuple[Source, ...]:
    """Of each device [M] and the server, by key and spread, and of the rates on the link; none where nothing is real.

    `draws`: how many.
    """
    found = []
    times = problem.device_s if problem.offer is None else problem.offer.device_s
    for m, ((key, spread), label) in enumerate(zip(spreads, problem.devices, strict=True)):
        if _moves(spread):
            # A device's times are those of its newest profile alone.
            factor = _factor(key, f"device {label}", spread, spread.from_mean_of(1), draws)
            added = factor.reshape(draws, *(1,) * times[m].ndim) * times[m]
            found.append(Source(name=f"a round of {label}", device=m, device_s=added, future=True))
    key, spread = server
    if _moves(spread):
        # The server's fits are of all its profiles.
        factor = _factor(key, "server", spread, spread.from_mean_of(spread.sittings), draws)
        found.append(
            Source(name="a round of the server", server_s=factor[:, None, None] * problem.server_s, future=True)
        )
    real = any(_moves(one) for _, one in (*spreads, server))
    rates = (problem.uplink_bps, problem.downlink_bps)
    if real and not any(np.isnan(rate).any() for rate in rates):
        # A host's delay is of a message, and bits are counted: that of the smashed data stands for all.
        bits = 8.0 * np.array([problem.up_bytes.max(), problem.down_bytes.max()])
        up, down = (
            _scores(norm.ppf, draws, "link", way)[:, None]
            * np.hypot(LINK_WITHIN * s_per_bit(rate), MESSAGE_WITHIN_S / size)[None, :]
            for way, rate, size in zip(("up", "down"), rates, bits, strict=True)
        )
        found.append(Source(name="a round over the link", up_s_per_bit=up, down_s_per_bit=down, future=True))
    return tuple(found)


def rehearsal_sources(
    problem: Problem, devices: Sequence[Rehearsed], server: Rehearsed, draws: int
) -> tuple[Source, ...]:
    """Of each device [M] and the server: how sure a rehearsal is of what steps take beyond their segments."""
    found = []
    times = problem.device_s if problem.offer is None else problem.offer.device_s
    for m, (of, label) in enumerate(zip(devices, problem.devices, strict=True)):
        if of.error > 0.0:
            factor = of.error * _scores(norm.ppf, draws, "rehearsal", *of.runs, label)
            added = factor.reshape(draws, *(1,) * times[m].ndim) * times[m]
            found.append(Source(name=f"rehearsal of {label}", device=m, device_s=added))
    if server.error > 0.0:
        factor = server.error * _scores(norm.ppf, draws, "rehearsal", *server.runs, "server")
        found.append(Source(name="rehearsal of the server", server_s=factor[:, None, None] * problem.server_s))
    return tuple(found)


def _moves(spread: RunSpread) -> bool:
    return spread.between > 0.0 or spread.within > 0.0


def _factor(key: str, part: str, spread: RunSpread, between: float, draws: int) -> Array:
    """Relative deviation in each draw [N], of that side of that machine."""
    run = _scores(student(spread.freedom).ppf, draws, "run", key, part)
    return np.asarray(between * run + spread.within * _scores(norm.ppf, draws, "round", key, part))


def _scores(ppf: Callable[[Array], Array], draws: int, *names: str) -> Array:
    """Deviates of a law at evenly spaced probabilities in an order of their own [N]: few draws have its quantiles."""
    digest = hashlib.sha256("/".join(names).encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    at: Array = (np.arange(draws) + 0.5) / draws
    return np.asarray(rng.permutation(np.asarray(ppf(at), dtype=float)))
