"""No solver is ever worse than trying every cut and clock; what one calls infeasible is infeasible."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cardlab.card.solvers.batch import solve_batch
from cardlab.card.solvers.enumeration import best_choice, extents_of
from cardlab.core.errors import InfeasibleError
from tests.card.instances import LIMITS, brute_force, cost_at, random_problem

KINDS = ("paper", "smooth", "noisy")
LIMIT_SETS = ((), *((name,) for name in LIMITS), LIMITS)


def compare(seed: int, kind: str, limits: tuple[str, ...]) -> tuple[float, int, int]:
    """(worst regret, device decisions, infeasible ones) of both solvers on one random problem."""
    problem = random_problem(seed, kind=kind, limits=limits)
    answer, extents = solve_batch(problem), extents_of(problem)
    worst, infeasible = 0.0, 0
    for m in range(len(problem.devices)):
        best = brute_force(problem, m)
        try:
            choice = best_choice(problem, m, extents[m])
            clock = choice.table.frequency_hz[choice.frequency]
            one = (int(problem.cuts[choice.cut]), float(clock), choice.cost)
        except InfeasibleError:
            one = None
        many = (int(answer.cut[m]), float(answer.frequency_hz[m]), float(answer.cost[m]))
        found = {"enumeration": one, "batch": many if answer.feasible[m] else None}
        for solver, got in found.items():
            if got is None:
                assert not best.feasible, f"{solver} finds nothing where there is something: {seed} {kind} {limits}"
                continue
            cost, kept = cost_at(problem, m, got[0], got[1])
            assert kept, f"{solver} breaks a limit: {seed} {kind} {limits}"
            assert cost == pytest.approx(got[2], abs=1e-9), f"{solver} misstates its cost: {seed} {kind} {limits}"
            if problem.continuous is None:
                assert best.feasible
            if best.feasible:
                worst = max(worst, cost - best.cost)
        infeasible += not best.feasible
        assert (one is None) == (found["batch"] is None)
    return worst, len(problem.devices), infeasible


@pytest.mark.parametrize("limits", LIMIT_SETS, ids=lambda s: "+".join(s) if len(s) < 3 else "all")
@pytest.mark.parametrize("kind", KINDS)
def test_no_regret_against_brute_force(kind, limits):
    worst = max(compare(seed, kind, limits)[0] for seed in range(12))
    assert worst <= 1e-9


@pytest.mark.accept
def test_no_regret_on_5000_instances():
    worst, decisions, infeasible, instances = 0.0, 0, 0, 0
    per_case = 5000 // (len(KINDS) * len(LIMIT_SETS)) + 1
    for kind in KINDS:
        for limits in LIMIT_SETS:
            for seed in range(per_case):
                regret, count, none = compare(10_000 + seed, kind, limits)
                worst, decisions, infeasible = max(worst, regret), decisions + count, infeasible + none
                instances += 1
    print(
        f"planner exactness: {instances} instances, {decisions} decisions x 2 solvers, worst regret "
        f"{worst:.1e}, {infeasible} infeasible, all agreed"
    )
    assert instances >= 5000
    assert worst <= 1e-9


@pytest.mark.parametrize("energy", ["busy", "above_idle", "round"])
def test_a_batch_of_many_devices_is_the_same_as_one_at_a_time(energy):
    problem = random_problem(5, kind="noisy", limits=("deadline", "memory"), devices=60)
    problem = replace(problem, objective=replace(problem.objective, energy=energy, weight=0.3))
    answer, extents = solve_batch(problem, threads=2), extents_of(problem)
    for m in range(60):
        if not answer.feasible[m]:
            with pytest.raises(InfeasibleError):
                best_choice(problem, m, extents[m])
            continue
        choice = best_choice(problem, m, extents[m])
        assert answer.cost[m] == pytest.approx(choice.cost, abs=1e-12)
        assert answer.cut[m] == problem.cuts[choice.cut]


def test_a_milp_solver_agrees():
    gaps = [milp_gap(seed) for seed in range(10)]
    kept = [gap for gap in gaps if gap is not None]
    # Both kinds, or one of the two says nothing.
    assert len(kept) >= 4 and None in gaps
    assert max(map(abs, kept)) <= 1e-6


@pytest.mark.accept
def test_a_milp_solver_agrees_on_20():
    gaps = [milp_gap(100 + seed) for seed in range(30)]
    kept = [gap for gap in gaps if gap is not None]
    print(
        f"planner against HiGHS: {len(kept)} instances, worst gap {max(map(abs, kept)):.1e};"
        f" both call {gaps.count(None)} more infeasible"
    )
    assert len(kept) >= 20 and None in gaps
    assert max(map(abs, kept)) <= 1e-6


def milp_gap(seed: int) -> float | None:
    """Cost of the batch solver minus that of HiGHS choosing one of all pairs under every limit.

    None where both find no pair that keeps the limits.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    problem = random_problem(seed, kind="noisy", limits=("deadline", "energy", "memory"), devices=1)
    best = brute_force(problem, 0)
    answer = solve_batch(problem)
    # The pairs stay variables; limits are linear rows, not a mask.
    costs = best.costs.ravel()
    from tests.card.instances import _values

    v = _values(problem, 0, 0)
    memory = np.broadcast_to(problem.device_memory_bytes[0][:, None], v.delay.shape).ravel() / 1e9
    rows = [np.ones(costs.size), v.delay.ravel(), v.energy.ravel() / 100, memory]
    limits = problem.constraints
    upper = [1, limits.deadline_s, limits.server_energy_j / 100, problem.device_memory_limit_bytes[0] / 1e9]
    result = milp(
        costs,
        constraints=LinearConstraint(np.array(rows), [1, -np.inf, -np.inf, -np.inf], upper),
        integrality=np.ones(costs.size),
        bounds=Bounds(0, 1),
    )
    infeasible = 2  # scipy's status of a problem that has no answer
    assert (result.status == infeasible) == (not answer.feasible[0]) == (not best.feasible)
    if result.status == infeasible:
        return None
    assert result.success
    return float(answer.cost[0] - result.fun)
