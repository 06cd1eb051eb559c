"""If these fail, a fleet is planned otherwise than its devices one by one, or takes longer than it may."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from cardlab.card import load_scenario, solve
from cardlab.card.schemes.card import fleet
from cardlab.card.schemes.card.planning import plan
from cardlab.card.schemes.card.tradeoffs import pareto
from cardlab.card.simulate import draw_fleet, jobs, on_channel, simulate
from cardlab.card.uncertainty import with_guard
from cardlab.core.errors import InfeasibleError
from cardlab.core.plain import to_plain
from tests.card import device_instances
from tests.card.instances import random_problem
from tests.golden.answers import differences

KINDS = ("paper", "smooth", "noisy")
LIMITS = ((), ("deadline", "memory"), ("power", "energy", "least_layers"), ("device_energy", "server_memory"))
FROM = 32
MANY = FROM + 6


@pytest.fixture(autouse=True)
def _small_fleets(monkeypatch):
    """Fewer devices make a fleet here, so that one by one they do not take long."""
    monkeypatch.setattr(fleet, "BATCH_FROM", FROM)


def made(problem) -> dict[str, object]:
    """The plan of a problem without what differs from plan to plan; why there is none where there is none."""
    try:
        found = to_plain(plan(problem))
    except InfeasibleError as error:
        return {"infeasible": error.message}
    return {key: value for key, value in found.items() if key not in ("uid", "created_at")}


@pytest.mark.parametrize("limits", LIMITS, ids=lambda names: "+".join(names) or "free")
@pytest.mark.parametrize("kind", KINDS)
def test_a_fleet_is_planned_as_its_devices_one_by_one(kind, limits, monkeypatch):
    feasible = 0
    for seed in range(6):
        problem = random_problem(seed, kind=kind, limits=limits, devices=MANY)
        for benchmark in ("best", "max"):
            asked = replace(problem, objective=replace(problem.objective, benchmark=benchmark))
            assert fleet.is_fleet(asked)
            together = made(asked)
            with monkeypatch.context() as one_by_one:
                one_by_one.setattr(fleet, "BATCH_FROM", 10**9)
                assert differences(made(asked), together, f"{kind}.{seed}") == []
            feasible += "infeasible" not in together
    # Where one device of many has no choice the whole plan has none; the words are then the same.
    assert feasible or "deadline" in limits or "energy" in limits or "device_energy" in limits


@pytest.mark.parametrize("limits", [(), ("deadline", "device_memory"), ("device_energy",)], ids=str)
def test_a_fleet_that_chooses_its_frequencies_is_planned_as_its_devices_one_by_one(limits, monkeypatch):
    feasible = 0
    for seed in range(8):
        problem = device_instances.random_problem(seed, limits, many=MANY)
        for benchmark in ("best", "max"):
            asked = replace(problem, objective=replace(problem.objective, benchmark=benchmark))
            assert fleet.is_fleet(asked)
            together = made(asked)
            with monkeypatch.context() as one_by_one:
                one_by_one.setattr(fleet, "BATCH_FROM", 10**9)
                assert differences(made(asked), together, f"{seed}") == []
            feasible += "infeasible" not in together
    assert feasible or limits


def test_a_front_is_that_of_the_devices_one_by_one(monkeypatch):
    problem = random_problem(3, kind="noisy", devices=MANY)
    together = to_plain(pareto(problem))
    monkeypatch.setattr(fleet, "BATCH_FROM", 10**9)
    assert differences(to_plain(pareto(problem)), together, "front") == []


def test_a_simulated_fleet_has_the_totals_of_its_plan(monkeypatch):
    letter = replace(load_scenario("card-letter"), rounds=3)
    todo = jobs(letter, ("poor",), fleets=1, devices=MANY)
    (together,) = simulate(todo)
    made_plan = solve(todo[0].scenario)
    assert together.delay_s == pytest.approx(made_plan.outcome.delay_s, rel=1e-12)
    assert together.cuts == pytest.approx(tuple(sum(d.cut for d in ds) / 3 for ds in _by_device(made_plan)))
    monkeypatch.setattr(fleet, "BATCH_FROM", 10**9)
    assert differences(to_plain(simulate(todo)[0]), to_plain(together), "simulated") == []


def _by_device(made_plan):
    return zip(*(r.devices for r in made_plan.rounds), strict=True)


def test_what_the_batch_does_not_know_is_planned_one_by_one():
    problem = random_problem(1, kind="noisy", devices=MANY)
    assert not fleet.is_fleet(replace(problem, objective=replace(problem.objective, range="cut_only")))
    assert not fleet.is_fleet(replace(problem, guard_s=with_guard(problem, None).device_s[:, :, None]))
    assert not fleet.is_fleet(random_problem(1, kind="noisy", devices=fleet.BATCH_FROM - 1))


@pytest.mark.alone
def test_twenty_thousand_devices_are_planned_in_a_moment():
    """A hundred devices first, so that neither numba's import nor compilation is counted."""
    letter = load_scenario("card-letter")
    simulate(jobs(letter, ("normal",), fleets=1, devices=100))
    many = on_channel(draw_fleet(letter, 0, 20_000), "normal")
    begin = time.process_time()
    (found,) = simulate(jobs(many, (), fleets=1))
    assert found.delay_s is not None and {"server_only", "device_only", "fixed_cut"} <= set(found.baselines)
    assert time.process_time() - begin < 2.0
