"""If these fail, a Pareto front offers what something else beats in delay, server energy and device energy alike, or
shows one of the three nowhere."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from cardlab.card.problem.problem import Problem
from cardlab.card.schemes.card.planning import plan_rounds
from cardlab.card.schemes.card.tradeoffs import pareto, with_pareto
from cardlab.cli.card.plan_table import print_plan
from cardlab.core.errors import InfeasibleError, PlanError
from cardlab.core.records.plan import Plan, TradeOff
from cardlab.reports.views.decisions import plan_sections
from cardlab.reports.views.parts import Chart
from tests.card.device_instances import choices_of, kept, random_problem


def prices(point: TradeOff) -> tuple[float, float, float]:
    assert point.device_energy_j is not None
    return point.delay_s, point.server_energy_j, point.device_energy_j


def all_sums(problem: Problem) -> np.ndarray:
    """Delay, server energy and device energy of every plan of the round: all choices of all devices, by loops."""
    each = [
        [(one.delay_s, one.energy_j, one.own_j) for one in choices_of(problem, m) if kept(problem, m, one)]
        for m in range(len(problem.devices))
    ]
    # What a device's own choice beats can be in no plan that nothing beats.
    fronts = [[p for p in mine if not any(beats(np.array([o]), p) for o in mine)] for mine in each]
    return np.array([np.sum(plan, axis=0) for plan in itertools.product(*fronts)])


def beats(others: np.ndarray, point: tuple[float, float, float]) -> bool:
    """Whether one of these is as good in all three and better in one, beyond rounding."""
    here = np.array(point)
    no_worse = (others <= here * (1 + 1e-12)).all(axis=1)
    return bool((no_worse & (others < here * (1 - 1e-9)).any(axis=1)).any())


def front_of(seed: int, **changes) -> tuple[Problem, tuple[TradeOff, ...]] | None:
    problem = random_problem(seed, **changes)
    problem = replace(problem, device_price_per_j=None)
    if len(problem.devices) > 2:
        return None
    try:
        return problem, pareto(problem)
    except (InfeasibleError, PlanError):
        return None


@pytest.mark.parametrize("limits", [(), ("deadline",), ("device_energy", "server_energy")], ids=str)
def test_nothing_beats_a_point_of_the_front_in_all_three(limits: tuple[str, ...]) -> None:
    """Held and chosen frequencies, weights of every kind: all plans of the round are tried."""
    tried = 0
    for seed in range(40 if limits else 14):
        found = front_of(seed, limits=limits)
        if found is None:
            continue
        problem, front = found
        every = all_sums(problem)
        for point in front:
            assert not beats(every, prices(point)), (seed, point)
            # It is a plan of the round and no number between plans.
            assert np.isclose(every, prices(point), rtol=1e-9).all(axis=1).any(), (seed, point)
        assert len({prices(point) for point in front}) == len(front)
        # The least of each price is on it.
        for axis in range(3):
            least = min(prices(point)[axis] for point in front)
            assert least == pytest.approx(every[:, axis].min(), rel=1e-6), (seed, axis)
        tried += 1
    assert tried > 4


def test_choices_that_cost_the_server_alike_are_told_apart_by_delay() -> None:
    """Nobody metered the devices, and their frequency is nothing to the server's joules: the quicker one is better."""
    tried = 0
    for seed in range(40):
        problem = random_problem(seed, many=1, paper=True)
        if problem.offer is None or problem.offer.count < 2:
            continue
        objective = replace(problem.objective, energy="busy", device_energy="compute", device_energy_weight=0.0)
        offer = replace(problem.offer, power_w=np.full_like(problem.offer.power_w, np.nan))
        busy = replace(problem, objective=objective, offer=offer, device_price_per_j=None)
        front = pareto(busy)
        clocks = [hz for point in front for hz in point.frequencies_hz if hz is not None]
        every = np.array([(one.delay_s, one.energy_j, 0.0) for one in choices_of(busy, 0, clocks)])
        for point in front:
            assert point.device_energy_j is None
            assert not beats(every, (point.delay_s, point.server_energy_j, 0.0)), (seed, point)
        tried += 1
    assert tried > 10


def test_a_device_that_holds_its_frequency_has_an_energy_too() -> None:
    """Its cut alone moves joules between server and device: a front that left one out would hide that."""
    seed = next(s for s in range(100) if random_problem(s).offer is None and len(random_problem(s).devices) == 1)
    problem = random_problem(seed)
    problem = replace(problem, objective=replace(problem.objective, device_energy_weight=0.0), device_price_per_j=None)
    front = pareto(problem)
    assert any(point.device_weight > 0.0 for point in front)
    assert min(prices(p)[2] for p in front) == pytest.approx(all_sums(problem)[:, 2].min(), rel=1e-6)


def with_front(seed: int = 5) -> Plan:
    """A plan of two devices that choose their frequencies, with its front."""
    while len(random_problem(seed).devices) != 2 or random_problem(seed).offer is None:
        seed += 1
    problem = random_problem(seed)
    return with_pareto(plan_rounds([problem]), problem)


def test_a_row_of_the_front_says_what_to_set_and_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    made = with_front()
    print_plan(made, False)
    table = capsys.readouterr().out.split("Pareto front of the first round")[1]
    for head in ("cuts", "server MHz", "device MHz", "delay", "server energy", "device energy"):
        assert head in " ".join(table.split()), head
    point = made.pareto[len(made.pareto) // 2]
    clocks = [f"{hz / 1e6:.5g}" for hz in (*point.frequencies_hz, *point.device_frequencies_hz) if hz is not None]
    assert len(clocks) == 4
    assert any(all(clock in line for clock in clocks) for line in table.splitlines()), clocks


def test_the_page_shows_all_three_prices_of_every_point() -> None:
    made = with_front()
    charts = {p.key: p for s in plan_sections(made) for p in s.parts if isinstance(p, Chart)}
    server, device = charts["delay-against-energy"], charts["delay-against-device-energy"]
    assert device.y.text == "device energy (J)" and server.y.text == "server energy (J)"
    first, second = (next(s for s in c.series if s.name.startswith("Pareto front")) for c in (server, device))
    shown = {(x, y): label for x, y, label in zip(first.x, first.y, first.labels, strict=True)}
    assert {(p.delay_s, p.server_energy_j) for p in made.pareto} == set(shown)
    # One point, one label: it can be found again in the other picture.
    assert sorted(first.labels) == sorted(second.labels)
    assert {(p.delay_s, p.device_energy_j) for p in made.pareto} == set(zip(second.x, second.y, strict=True))
    assert all("J, device " in label and "cuts" in label for label in first.labels)
    names = [s.name for s in device.series]
    assert "this plan, first round" in names and "server only" in names
    # Without the devices' powers there is no second picture.
    blind = replace(made, pareto=tuple(replace(p, device_energy_j=None) for p in made.pareto))
    assert not any(
        getattr(p, "key", "") == "delay-against-device-energy" for s in plan_sections(blind) for p in s.parts
    )
