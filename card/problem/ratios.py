"""A problem whose terms take another time than its constants say, by a ratio each.

A ratio is of a whole term: it scales the law of a device or of the server at every frequency, and of a direction of the
link what bits take and what messages wait for. Powers and everything that is counted in bytes stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cardlab.card.problem.arrays import Array
from cardlab.card.problem.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class TermRatios:
    """True time over that of the constants: of each device's compute and link [M], and of the server's compute."""

    device: Array
    server: float
    uplink: Array
    downlink: Array


def with_ratios(problem: Problem, ratios: TermRatios) -> Problem:
    """The problem as these ratios make it."""
    offer, latency, paper = problem.offer, problem.latency_s, problem.continuous
    return replace(
        problem,
        device_s=problem.device_s * ratios.device[:, None],
        offer=None if offer is None else replace(offer, device_s=offer.device_s * ratios.device[:, None, None]),
        server_s=problem.server_s * ratios.server,
        continuous=None if paper is None else replace(paper, flop_per_hz=paper.flop_per_hz / ratios.server),
        uplink_bps=_slower(problem.uplink_bps, ratios.uplink),
        downlink_bps=_slower(problem.downlink_bps, ratios.downlink),
        # Of a message and its answer one half waits on the way up and one on the way down.
        latency_s=None if latency is None else latency * 0.5 * (ratios.uplink + ratios.downlink),
    )


def _slower(rate_bps: Array, times: Array) -> Array:
    """Rates at which a bit takes so many times as long."""
    return np.asarray(rate_bps * times**-1.0)
