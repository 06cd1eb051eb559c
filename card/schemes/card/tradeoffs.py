"""What else could have been chosen: the Pareto front of a round, and what one setting changes.

The front: every weight w on delay makes one optimum of sum D / range D against sum E / range E with ranges
common to all devices, and none of those is worse than another in both. It holds the supported points of
the front; limits are kept. Where the devices' own energy is known it is a third price, and each w is tried with several
weights on it. No weight is a very small one: of choices that are alike in what is weighed none is worse in the rest.
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
# Of a surface: fewer along the delay, and from no weight on the devices' energy to where it decides alone.
SURFACE_WEIGHTS = 15
DEVICE_WEIGHTS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
# What stands for no weight: below what any price is known to, above the rounding of a cost.
_NEARLY_NONE = 1e-9
FACTORS = (0.5, 0.8, 1.25, 2.0)


def with_pareto(plan: Plan, problem: Problem) -> Plan:
    """The plan with the front of its first round. Raises PlanError without power data."""
    return replace(plan, pareto=pareto(problem))


def with_sensitivity(plan: Plan, problem: Problem) -> Plan:
    """The plan with the sensitivity of its first round."""
    return replace(plan, sensitivity=sensitivity(problem))


def pareto(problem: Problem) -> tuple[TradeOff, ...]:
    """Supported Pareto front of (sum of delays, sum of server energies), fastest last.

    Where the devices' energy is known it is a third of them, and the front a surface.
    """
    if problem.power_w is None:
        raise PlanError("the server has no power data: there is no front", remedy="leave out --pareto")
    third = decided(problem).outcome.device_energy_j is not None
    found = [
        _best(problem, float(weight), device_weight, third=third)
        for weight in np.linspace(0.0, 1.0, SURFACE_WEIGHTS if third else WEIGHTS)
        for device_weight in (DEVICE_WEIGHTS if third else (0.0,))
    ]
    return _surface(found) if third else _front(found)


def _best(problem: Problem, weight: float, device_weight: float, *, third: bool) -> TradeOff:
    objective = replace(
        problem.objective,
        weight=min(max(weight, _NEARLY_NONE), 1.0 - _NEARLY_NONE),
        weight_on="delay",
        # With ranges of their own, devices would be weighed differently and the sums would not be a front.
        range="common",
        device_energy_weight=max(device_weight, _NEARLY_NONE) if third else 0.0,
    )
    found = decided(replace(problem, objective=objective))
    total = found.outcome
    assert total.server_energy_j is not None
    return TradeOff(
        weight=weight,
        device_weight=device_weight,
        delay_s=total.delay_s,
        server_energy_j=total.server_energy_j,
        device_energy_j=total.device_energy_j,
        cuts=found.cuts,
        frequencies_hz=found.frequencies_hz,
        device_frequencies_hz=found.device_frequencies_hz,
    )


def _front(points: list[TradeOff]) -> tuple[TradeOff, ...]:
    """Those no other point beats in both, each once, by falling delay."""
    kept: list[TradeOff] = []
    # By energy, then delay: a point stays only if it is faster than all cheaper ones.
    for point in sorted(points, key=lambda p: (p.server_energy_j, p.delay_s)):
        if not kept or point.delay_s < kept[-1].delay_s:
            kept.append(point)
    return tuple(kept)


def _surface(points: list[TradeOff]) -> tuple[TradeOff, ...]:
    """Those no other point beats in all three, each once, by falling delay."""

    def prices(point: TradeOff) -> tuple[float, float, float]:
        return point.delay_s, point.server_energy_j, point.device_energy_j or 0.0

    each = {prices(point): point for point in reversed(points)}
    kept = [
        point
        for price, point in each.items()
        if not any(other != price and all(a <= b for a, b in zip(other, price, strict=True)) for other in each)
    ]
    return tuple(sorted(kept, key=lambda point: -point.delay_s))


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
