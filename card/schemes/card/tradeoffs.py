"""What else could have been chosen: the Pareto front of a round, and what one setting changes.

The front: every weight w on delay makes one optimum of sum D / range D against sum E / range E with ranges
common to all devices, and none of those is worse than another in both. It holds the supported points of
the front; limits are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from cardlab.card.problem.problem import Problem
from cardlab.card.schemes.card.deciding import decided
from cardlab.core.errors import InfeasibleError, PlanError
from cardlab.core.records.plan import Plan, Sensitivity, TradeOff

WEIGHTS = 41
FACTORS = (0.5, 0.8, 1.25, 2.0)


def with_pareto(plan: Plan, problem: Problem) -> Plan:
    """The plan with the front of its first round. Raises PlanError without power data."""
    return replace(plan, pareto=pareto(problem))


def with_sensitivity(plan: Plan, problem: Problem) -> Plan:
    """The plan with the sensitivity of its first round."""
    return replace(plan, sensitivity=sensitivity(problem))


def pareto(problem: Problem) -> tuple[TradeOff, ...]:
    """Supported Pareto front of (sum of delays, sum of server energies), fastest last."""
    if problem.power_w is None:
        raise PlanError("the server has no power data: there is no front", remedy="leave out --pareto")
    found = []
    for weight in np.linspace(0.0, 1.0, WEIGHTS):
        objective = replace(
            problem.objective,
            weight=float(weight),
            weight_on="delay",
            # With ranges of their own, devices would be weighed differently and the sums would not be a front.
            range="common",
            device_energy_weight=0.0,
        )
        found_at = decided(replace(problem, objective=objective))
        total = found_at.outcome
        assert total.server_energy_j is not None
        found.append(
            TradeOff(
                weight=float(weight),
                delay_s=total.delay_s,
                server_energy_j=total.server_energy_j,
                cuts=found_at.cuts,
                frequencies_hz=found_at.frequencies_hz,
            )
        )
    return _front(found)


def _front(points: list[TradeOff]) -> tuple[TradeOff, ...]:
    """Those no other point beats in both, each once, by falling delay."""
    kept: list[TradeOff] = []
    # By energy, then delay: a point stays only if it is faster than all cheaper ones.
    for point in sorted(points, key=lambda p: (p.server_energy_j, p.delay_s)):
        if not kept or point.delay_s < kept[-1].delay_s:
            kept.append(point)
    return tuple(kept)


def sensitivity(problem: Problem) -> tuple[Sensitivity, ...]:
    """The first round planned again with one setting multiplied by each of FACTORS."""
    settings: dict[str, Callable[[float], Problem]] = {
        "uplink": lambda k: replace(problem, uplink_bps=problem.uplink_bps * k),
        "downlink": lambda k: replace(problem, downlink_bps=problem.downlink_bps * k),
        "device speed": lambda k: replace(
            problem,
            device_s=problem.device_s / k,
            offer=None if problem.offer is None else problem.offer.faster(k),
        ),
        "server speed": lambda k: _server_speed(problem, k),
        "weight": lambda k: replace(
            problem, objective=replace(problem.objective, weight=min(problem.objective.weight * k, 1.0))
        ),
    }
    if problem.power_w is not None:
        settings["server power"] = lambda k: _server_power(problem, k)
    return tuple(_changed(name, factor, change(factor)) for name, change in settings.items() for factor in FACTORS)


def _changed(name: str, factor: float, problem: Problem) -> Sensitivity:
    try:
        made = decided(problem)
    except InfeasibleError:
        return Sensitivity(setting=name, factor=factor, delay_s=None, server_energy_j=None, cuts=())
    return Sensitivity(
        setting=name,
        factor=factor,
        delay_s=made.outcome.delay_s,
        server_energy_j=made.outcome.server_energy_j,
        cuts=made.cuts,
    )


def _server_speed(problem: Problem, factor: float) -> Problem:
    paper = problem.continuous
    if paper is not None:
        paper = replace(paper, flop_per_hz=paper.flop_per_hz * factor)
    return replace(problem, server_s=problem.server_s / factor, continuous=paper)


def _server_power(problem: Problem, factor: float) -> Problem:
    paper = problem.continuous
    if paper is not None and paper.kappa_w_per_hz3 is not None:
        paper = replace(
            paper,
            kappa_w_per_hz3=paper.kappa_w_per_hz3 * factor,
            static_power_w=paper.static_power_w * factor,
        )
    power_w = None if problem.power_w is None else problem.power_w * factor
    wait_w = None if problem.wait_power_w is None else problem.wait_power_w * factor
    idle_w = None if problem.idle_power_w is None else problem.idle_power_w * factor
    return replace(problem, power_w=power_w, wait_power_w=wait_w, idle_power_w=idle_w, continuous=paper)
