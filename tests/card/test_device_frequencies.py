"""If these fail, a plan holds a device at another frequency than the cheapest that keeps every limit."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from cardlab.card import load_scenario, solve
from cardlab.card.solvers.batch import batch_applies, solve_batch
from cardlab.card.solvers.enumeration import best_choice, extents_of
from cardlab.card.solvers.together import choices_of as decided
from cardlab.card.solvers.together import columns_of
from cardlab.card.uncertainty import relative_uncertainty, with_guard
from cardlab.core.errors import InfeasibleError
from tests.card.device_instances import (
    LIMITS,
    One,
    best_alone,
    best_together,
    choices_of,
    costs_of,
    kept,
    random_problem,
)

ALONE = tuple(name for name in LIMITS if name != "fleet_energy")
LIMIT_SETS = ((), *((name,) for name in LIMITS), ALONE, LIMITS)
ROOM = 1e-9


def named(limits: tuple[str, ...]) -> str:
    return "+".join(limits) if len(limits) < 3 else f"{len(limits)} limits"


def compare(seed: int, limits: tuple[str, ...], *, batch: bool) -> tuple[float, int, int]:
    """(worst regret, devices decided, infeasible ones) of the solvers on one instance."""
    problem = random_problem(seed, limits, batch=batch)
    if "fleet_energy" in limits:
        return together(problem, f"{seed} {limits}")
    extents, worst, infeasible = extents_of(problem), -np.inf, 0
    answer = solve_batch(problem) if batch_applies(problem) else None
    assert answer is not None or not batch
    for m, extent in enumerate(extents):
        best = best_alone(problem, m)
        infeasible += best is None
        found: dict[str, tuple[int, int, int, float] | None] = {}
        try:
            choice = best_choice(problem, m, extent)
            t = choice.table
            column = choice.frequency
            found["enumeration"] = (choice.cut, t.server_place(column), t.device_place(column), choice.cost)
        except InfeasibleError:
            found["enumeration"] = None
        if answer is not None:
            many = (int(answer.place[m]), int(answer.listed[m]), int(answer.offered[m]), float(answer.cost[m]))
            found["batch"] = many if answer.feasible[m] else None
        for solver, got in found.items():
            where = f"{solver}, {seed} {limits}"
            assert (got is None) == (best is None), f"feasible or not: {where}"
            if got is not None and best is not None:
                cost = checked(problem, m, got, where)
                worst = max(worst, cost - best)
    return worst, len(extents), infeasible


def checked(problem, m: int, got: tuple[int, int, int, float], where: str) -> float:
    """The oracle's cost of a choice, which must be the one stated, of a choice that keeps every limit."""
    (one,) = [o for o in choices_of(problem, m) if (o.c, o.f, o.g) == got[:3]]
    assert kept(problem, m, one), f"a limit is broken: {where}"
    (cost,) = costs_of(problem, m, [one])
    assert cost == pytest.approx(got[3], abs=ROOM), f"the cost is misstated: {where}"
    return cost


def together(problem, where: str) -> tuple[float, int, int]:
    best = best_together(problem)
    try:
        choices = decided(problem, extents_of(problem))
    except InfeasibleError:
        assert best is None, where
        return -np.inf, 2, 2
    assert best is not None, where
    total, own_j = 0.0, 0.0
    for m, choice in enumerate(choices):
        t = choice.table
        place = (choice.cut, t.server_place(choice.frequency), t.device_place(choice.frequency), choice.cost)
        total += checked(problem, m, place, where)
        own_j += t.device_energy_j[choice.cut, choice.frequency]
    assert own_j <= problem.constraints.fleet_energy_j * (1 + 1e-12), where
    return total - best, 2, 0


@pytest.mark.parametrize("limits", LIMIT_SETS, ids=named)
def test_no_regret_against_brute_force(limits):
    found = [compare(seed, limits, batch=seed % 3 > 0) for seed in range(100)]
    assert max(regret for regret, _, _ in found) <= ROOM
    assert sum(none for _, _, none in found) < sum(count for _, count, _ in found)


@pytest.mark.accept
def test_no_regret_on_3000_instances():
    worst, decisions, infeasible, instances = -np.inf, 0, 0, 0
    per_case = 3000 // len(LIMIT_SETS) + 1
    for limits in LIMIT_SETS:
        for seed in range(per_case):
            regret, count, none = compare(50_000 + seed, limits, batch=seed % 3 > 0)
            worst, decisions, infeasible = max(worst, regret), decisions + count, infeasible + none
            instances += 1
    print(
        f"device frequencies: {instances} instances, {decisions} device decisions, worst regret {worst:.1e}, "
        f"{infeasible} infeasible, all agreed"
    )
    assert instances >= 3000 and worst <= ROOM


def test_a_guard_keeps_each_device_frequency_away_from_the_deadline_by_its_own_spread():
    """The fault that it is for: the spread of one frequency taken for that of another."""
    seen = 0
    for seed in range(40):
        problem = random_problem(seed, ("deadline",), batch=False)
        if problem.offer is None or problem.offer.count < 2:
            continue
        limits = replace(problem.constraints, deadline_confidence=0.95)
        problem = replace(problem, constraints=limits)
        known = relative_uncertainty(problem, device=0.1, server=0.05, draws=400, seed=seed)
        guarded = with_guard(problem, known)
        assert guarded.guard_s is not None and limits.deadline_s is not None
        T = problem.objective.local_epochs
        extents = extents_of(guarded)
        for m in range(len(problem.devices)):
            (own,) = [s.device_s for s in known.sources if s.device == m and s.device_s is not None]
            (there,) = [s.server_s for s in known.sources if s.server_s is not None]
            mine = choices_of(problem, m)
            costs, best = costs_of(problem, m, mine), None
            for one, cost in zip(mine, costs, strict=True):
                drawn = [*own[:, one.c, one.g].tolist(), *there[:, one.c, one.f].tolist()]
                spread = sum(v * v for v in drawn) / 400
                if one.delay_s + 1.6448536269514722 * T * spread**0.5 <= limits.deadline_s:
                    best = cost if best is None else min(best, cost)
            try:
                found = best_choice(guarded, m, extents[m])
            except InfeasibleError:
                assert best is None
                continue
            assert found.cost == pytest.approx(best, abs=ROOM)
            seen += 1
    assert seen > 20


def test_the_order_of_devices_changes_no_number_of_any_of_them():
    letter = load_scenario("card-letter")
    names = [f"{device.name}-{k}" for k in range(5) for device in letter.devices]
    devices = tuple(
        replace(
            device,
            name=name,
            frequency_hz=device.frequency_hz * (1 + 0.013 * m),
            power_w=10.0,
            idle_power_w=3.0,
            uplink_bps=3e7,
            downlink_bps=7e7,
        )
        for m, (device, name) in enumerate(zip(letter.devices * 5, names, strict=True))
    )
    ahead = {d.device: d for d in solve(replace(letter, devices=devices, rounds=1)).rounds[0].devices}
    back = {d.device: d for d in solve(replace(letter, devices=devices[::-1], rounds=1)).rounds[0].devices}
    assert all(d.device_energy_terms.idle for d in ahead.values())
    assert {n: d.device_energy_terms for n, d in ahead.items()} == {n: d.device_energy_terms for n, d in back.items()}


def test_a_fleets_cap_is_spent_as_well_as_any_of_all_plans_spends_it():
    """Four devices of six choices each, against every one of the plans they can have together."""
    rng, met, moved = np.random.default_rng(5), 0, 0
    for _ in range(150):
        pairs = [(rng.uniform(0, 1, (2, 3)), rng.uniform(1, 20, (2, 3))) for _ in range(4)]
        costs = [[float(c) for c in cost.ravel()] for cost, _ in pairs]
        owns = [[float(o) for o in own.ravel()] for _, own in pairs]
        cap_j = float(rng.uniform(sum(map(min, owns)) - 2.0, 60.0))
        best = None
        for plan in product(range(6), repeat=4):
            if sum(own[i] for own, i in zip(owns, plan, strict=True)) <= cap_j:
                cost = sum(row[i] for row, i in zip(costs, plan, strict=True))
                best = cost if best is None else min(best, cost)
        found = columns_of(pairs, cap_j)
        assert (found is None) == (best is None)
        if found is not None:
            met += 1
            moved += found != [row.index(min(row)) for row in costs]
            assert sum(own[i] for own, i in zip(owns, found, strict=True)) <= cap_j
            assert sum(row[i] for row, i in zip(costs, found, strict=True)) == pytest.approx(best, abs=1e-12)
    assert met > 100 and moved > 50


PAPER_LIMITS = ((), ("deadline",), ("server_energy",), ("device_energy",), ("server_power", "deadline"))


@pytest.mark.parametrize("limits", PAPER_LIMITS, ids=named)
def test_no_regret_where_the_server_takes_any_frequency(limits):
    decided_here = 0
    for seed in range(60):
        problem = random_problem(seed, limits, batch=False, paper=True)
        if problem.objective.range in ("cut_only", "per_cut"):
            continue
        grid = [float(f) for f in np.linspace(problem.frequency_hz[0], problem.frequency_hz[-1], 61)]
        # Where energy is least between the ends, the range must know; the grid alone may miss it by a little.
        paper = problem.continuous
        lowest = float(np.clip(np.cbrt(paper.static_power_w / (2 * paper.kappa_w_per_hz3)), grid[0], grid[-1]))
        ends = [grid[0], lowest, grid[-1]] if problem.objective.energy != "above_idle" else [grid[0], grid[-1]]
        for m, extent in enumerate(extents_of(problem)):
            mine = [one for one in choices_of(problem, m, grid) if kept(problem, m, one)]
            best = min(costs_of(problem, m, mine, ends), default=None)
            try:
                choice = best_choice(problem, m, extent)
            except InfeasibleError:
                assert best is None, f"{seed} {limits}"
                continue
            got = at(problem, m, choice)
            assert kept(problem, m, got), f"a limit is broken: {seed} {limits}"
            (cost,) = costs_of(problem, m, [got], ends)
            assert cost == pytest.approx(choice.cost, abs=ROOM)
            assert best is None or cost <= best + ROOM, f"{seed} {limits}"
            decided_here += 1
    assert decided_here >= 20


def at(problem, m: int, choice) -> One:
    hz = float(choice.table.frequency_hz[choice.frequency])
    g = choice.table.device_place(choice.frequency)
    (found,) = [one for one in choices_of(problem, m, [hz]) if (one.c, one.g) == (choice.cut, g)]
    return found
