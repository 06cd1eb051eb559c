"""If these fail, a plan of several rounds spends a battery that it says it keeps, or a run follows other rounds."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cardlab.card import solve
from cardlab.card.budget import budgeted_rounds, with_budget
from cardlab.card.problem.calibrated_file import CalibratedScenario
from cardlab.card.problem.from_db import gather
from cardlab.card.problem.problem import Problem
from cardlab.card.problem.scenario import LinkSpec, Scenario
from cardlab.card.problem.scenario_file import parse_scenario
from cardlab.card.schemes.card.planning import Budgets, plan_rounds
from cardlab.card.simulate import jobs, simulate
from cardlab.core.errors import InfeasibleError, PlanError, RunError, ScenarioError, UsageError
from cardlab.core.plain import from_plain, to_plain
from cardlab.core.records.plan import Plan
from cardlab.db import open_store
from cardlab.reports.views.decisions import plan_sections
from cardlab.reports.views.parts import Chart, Table
from cardlab.split.schedule import Schedule, check_length
from cardlab.workflows import PlanOptions, SimulateOptions
from cardlab.workflows.for_plan import read_plan
from cardlab.workflows.plan import calibrated_request, plan
from cardlab.workflows.simulate import simulate as simulated
from tests.card.database import add_server
from tests.card.device_instances import choices_of, costs_of, kept
from tests.card.test_budget import base_problem, faded, letter, offline_bound, only_first, recorded
from tests.card.test_device_offers import add_swept
from tests.cli.run import command

ON_A_CHANNEL = LinkSpec(channel="normal", seed=3)


def drawn(device_energy: str = "compute", rounds: int = 12) -> Scenario:
    """The letter's devices with frequencies of their own, over links that are drawn."""
    base = letter(device_energy)
    devices = tuple(replace(d, uplink_bps=None, downlink_bps=None) for d in base.devices)
    return replace(base, devices=devices, link=ON_A_CHANNEL, rounds=rounds)


def budgeted(scenario: Scenario, shares: tuple[float | None, ...]) -> Scenario:
    """The scenario with that share of what each device spends without a budget."""
    free = solve(scenario)
    spent = [sum(r.devices[m].device_energy_j or 0.0 for r in free.rounds) for m in range(len(scenario.devices))]
    devices = tuple(
        replace(d, energy_budget_j=None if share is None else share * own)
        for d, share, own in zip(scenario.devices, shares, spent, strict=True)
    )
    return replace(scenario, devices=devices)


@pytest.mark.parametrize("device_energy", ["compute", "round"])
def test_a_plan_and_a_simulation_of_one_scenario_keep_its_budgets_alike(device_energy: str) -> None:
    asked = budgeted(drawn(device_energy), (0.85, None, 0.9, None, None))
    made = solve(asked)
    (job,) = jobs(asked, (), 1)
    (beside,) = simulate([job])
    assert made.budget is not None and made.budget == beside.budget
    # What it says of its devices is what its own rounds add up to.
    for m, (budget_j, spent_j) in enumerate(zip(made.budget.budget_j, made.budget.spent_j, strict=True)):
        own = sum(r.devices[m].device_energy_j or 0.0 for r in made.rounds)
        assert spent_j == pytest.approx(own) and (budget_j is None or own <= budget_j * (1 + 1e-9))
    assert made.budget.kept
    assert made.outcome.delay_s == pytest.approx(made.budget.delay_s)
    assert sum(d.cost for r in made.rounds for d in r.devices) / 12 == pytest.approx(made.budget.cost)
    # And what it holds them against is the plan without.
    plain = solve(replace(asked, devices=tuple(replace(d, energy_budget_j=None) for d in asked.devices)))
    assert plain.budget is None and beside.delay_s == pytest.approx(plain.outcome.delay_s)
    assert made.budget.myopic_delay_s == pytest.approx(plain.outcome.delay_s)
    assert made.baselines["without_budget"].delay_s == pytest.approx(plain.outcome.delay_s)
    assert made.budget.myopic_cost < made.budget.cost
    # A device without one decides as it would alone.
    assert [r.devices[1].cut for r in made.rounds] == [r.devices[1].cut for r in plain.rounds]
    assert any("energy budget" in r.devices[0].binding for r in made.rounds)
    assert not any("energy budget" in r.devices[1].binding for r in made.rounds)
    assert from_plain(Plan, json.loads(json.dumps(to_plain(made)))) == made


def test_budgets_that_bind_nothing_leave_every_decision_as_it_was() -> None:
    plain = drawn()
    made = solve(replace(plain, devices=tuple(replace(d, energy_budget_j=1e9) for d in plain.devices)))
    alone = solve(plain)
    assert [r.devices for r in made.rounds] == [r.devices for r in alone.rounds]
    assert made.budget is not None and made.budget.cost == made.budget.myopic_cost


def test_no_round_knows_the_links_of_later_ones() -> None:
    """Rounds that begin alike are decided alike, whatever comes after."""
    base = only_first(base_problem(1, "round"))
    begun = faded(base, 5, "middling", 30)
    known = faded(base, 6, "middling", 40)
    ends = [begun + faded(base, seed, "middling", 30) for seed in (7, 8)]
    budget_j = 1.3 * max(sum(min(c.own_j for c in choices_of(p, 0)) for p in rounds) for rounds in ends)
    found = [budgeted_rounds(rounds, [budget_j], known)[:30] for rounds in ends]
    decided = [[(r.choices[0].cut, r.choices[0].frequency, r.price_per_j) for r in rounds] for rounds in found]
    assert decided[0] == decided[1]
    assert len(set(decided[0])) > 1


def mixes(problem: Problem, rounds: int, budget_j: float) -> float:
    """Least mean cost of any choices of these alike rounds that keep the budget, by trying two of each."""
    every = choices_of(problem, 0)
    mine = [(one, cost) for one, cost in zip(every, costs_of(problem, 0, every), strict=True)]
    pairs = sorted({(one.own_j, cost) for one, cost in mine if kept(problem, 0, one)})
    front = [p for p in pairs if not any(o[0] <= p[0] and o[1] <= p[1] and o != p for o in pairs)]
    best = float("inf")
    for (a_j, a), (b_j, b) in combinations_with_replacement(front, 2):
        for count in range(rounds + 1):
            if count * a_j + (rounds - count) * b_j <= budget_j * (1 + 1e-12):
                best = min(best, (count * a + (rounds - count) * b) / rounds)
    return best


@pytest.mark.parametrize("device_energy", ["compute", "round"])
@pytest.mark.parametrize("seed", range(4))
def test_rounds_that_are_alike_mix_choices_nearly_as_well_as_any_plan(device_energy: str, seed: int) -> None:
    problem, rounds = only_first(base_problem(seed, device_energy)), 40
    least, free = (r[0] for r in energies(problem))
    for share in (0.1, 0.35, 0.5, 0.75, 0.95):
        budget_j = rounds * (least + share * (free - least))
        found = with_budget([problem] * rounds, [budget_j])
        mine = recorded([problem], 0) * rounds
        assert found.kept and found.cost >= offline_bound(mine, budget_j) / rounds * (1 - 1e-9)
        # Three choices may do a little better than two.
        best = mixes(problem, rounds, budget_j)
        assert found.cost <= 1.05 * best, (share, found.cost / best)


def energies(problem: Problem) -> tuple[tuple[float, float], tuple[float, float]]:
    """(energy, cost) of the thriftiest and of the cheapest choice."""
    mine = choices_of(problem, 0)
    pairs = [(one.own_j, cost) for one, cost in zip(mine, costs_of(problem, 0, mine), strict=True)]
    return min(pairs), min(pairs, key=lambda pair: (pair[1], pair[0]))


FILE = """
scheme = "card"
rounds = 6
[task]
layers = 8
layer_forward_flop = 5e10
layer_backward_flop = 5e10
activation_bytes = 2e6
gradient_bytes = 2e6
[server]
name = "server"
frequency_min_hz = 1e9
frequency_max_hz = 2e9
cores = 3000
kappa_w_per_hz3 = 1e-26
[[devices]]
name = "quick"
frequency_hz = 1.2e9
cores = 1000
uplink_bps = 5e7
downlink_bps = 5e7
power_w = 20.0
[[devices]]
name = "slow"
frequency_hz = 6e8
cores = 500
uplink_bps = 5e7
downlink_bps = 5e7
power_w = 10.0
energy_budget_j = 35.0
[objective]
weight = 0.1
"""


def file(tmp_path: Path, text: str = FILE) -> str:
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    return str(path)


def test_a_budget_in_a_file_is_that_devices_alone_in_plan_and_simulation(tmp_path: Path) -> None:
    path = file(tmp_path)
    made = plan(None, PlanOptions(scenario=path))
    assert made.budget is not None and made.budget.devices == ("quick", "slow")
    assert made.budget.budget_j == (None, 35.0) and made.budget.kept
    assert made.budget.spent_j[1] is not None and made.budget.spent_j[1] <= 35.0 < (made.budget.myopic_j[1] or 0.0)
    (found,) = simulated(SimulateOptions(scenario=path, rounds=6)).jobs
    assert found.budget == made.budget
    document = json.loads(command("card", "plan", "--scenario", path, "--json").out)
    assert document["budget"]["spent_j"] == list(made.budget.spent_j)
    assert document["budget"]["budget_j"] == [None, 35.0]
    shown = command("card", "plan", "--scenario", path).out
    assert "energy budgets of 6 round(s), kept" in shown and "without budget" in shown
    shown = command("card", "simulate", "--scenario", path, "--rounds", "6").out
    assert "with a budget of energy for all rounds" in shown


def test_an_option_is_a_budget_for_all_and_says_what_it_replaces(tmp_path: Path) -> None:
    path = file(tmp_path)
    made = plan(None, PlanOptions(scenario=path, device_budget_j=50.0))
    assert made.budget is not None and made.budget.budget_j == (50.0, 50.0)
    assert "--device-budget-j 50 in place of energy_budget_j of slow" in made.notes
    found = simulated(SimulateOptions(scenario=path, rounds=6, device_budget_j=50.0))
    assert found.notes == ("--device-budget-j 50 in place of energy_budget_j of slow",)
    assert found.jobs[0].budget == made.budget
    assert (
        "note: --device-budget-j 50 in place"
        in command("card", "simulate", "--scenario", path, "--rounds", "6", "--device-budget-j", "50").out
    )


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("0", "energy_budget_j is 0; give a number above 0"),
        ("-5.0", "energy_budget_j is -5"),
        ("nan", "energy_budget_j must be a finite number"),
        ("inf", "energy_budget_j must be a finite number"),
        ("1e-5", "which is no energy of a device"),
        ("1e13", "which is no energy of a device"),
        ('"20 Wh"', "must be a finite number"),
    ],
)
def test_a_budget_that_no_battery_has_is_refused_with_its_line(value: str, problem: str) -> None:
    text = FILE.replace("energy_budget_j = 35.0", f"energy_budget_j = {value}")
    line = next(n for n, words in enumerate(text.splitlines(), start=1) if "energy_budget_j" in words)
    with pytest.raises(ScenarioError) as refused:
        parse_scenario(text, "fleet.toml")
    assert f"fleet.toml, line {line}: " in refused.value.message
    assert problem in f"{refused.value.message}; {refused.value.remedy}"


@pytest.mark.parametrize(
    ("changes", "options", "problem"),
    [
        ({'"card"': '"sft"'}, {}, "energy_budget_j"),
        ({}, {"scheme": "sft"}, "energy_budget_j has no effect on scheme sft"),
        ({}, {"sensitivity": True}, "--sensitivity plans one round again by itself"),
        ({}, {"max_fleet_energy_j": 30.0}, "a cap on all devices in a round and a budget of each"),
        ({"energy_budget_j = 35.0": ""}, {"scheme": "sft", "device_budget_j": 5.0}, "no effect on scheme sft"),
        ({"power_w = 10.0": ""}, {}, "the power of device 'slow' is not known"),
        (
            {"energy_budget_j = 35.0": "energy_budget_j = 0.5"},
            {},
            "slow: a budget of 500 mJ cannot be kept in 6 rounds",
        ),
        ({}, {"device_budget_j": 0.0}, "--device-budget-j is 0"),
        ({}, {"device_budget_j": float("nan")}, "--device-budget-j is nan"),
        ({}, {"device_budget_j": 1e13}, "--device-budget-j is 10 TJ, which is no energy"),
    ],
)
def test_what_knows_no_budget_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, str], options: dict[str, Any], problem: str
) -> None:
    text = FILE
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    path = file(tmp_path, text)
    with pytest.raises((ScenarioError, UsageError, PlanError, InfeasibleError)) as refused:
        plan(None, PlanOptions(scenario=path, **options))
    assert problem in refused.value.message and "\n" not in refused.value.message and refused.value.remedy


def test_a_device_without_a_budget_may_have_no_power(tmp_path: Path) -> None:
    made = plan(None, PlanOptions(scenario=file(tmp_path, FILE.replace("power_w = 20.0\n", ""))))
    assert made.budget is not None and made.budget.kept
    assert made.budget.spent_j[0] is None and made.budget.myopic_j[0] is None
    shown = command("card", "plan", "--scenario", str(tmp_path / "fleet.toml")).out
    assert "N/A" in next(line for line in shown.split("energy budgets of")[1].splitlines() if "quick" in line)


def test_the_page_shows_what_is_spent_of_every_budget(tmp_path: Path) -> None:
    made = plan(None, PlanOptions(scenario=file(tmp_path)))
    assert made.budget is not None
    [section] = [s for s in plan_sections(made) if s.title == "Energy budgets over all rounds"]
    [spent, beside] = [p for p in section.parts if isinstance(p, Table)]
    row = dict(zip((c.name for c in spent.columns), spent.rows[1], strict=True))
    assert row["budget"] == 35.0 and row["spent"] == made.budget.spent_j[1]
    assert spent.rows[0][1] == "none" and [r[0] for r in beside.rows] == ["with the budgets", "one by one, without"]
    assert section.lines == ("Every budget is kept.",)
    [chart] = [p for p in section.parts if isinstance(p, Chart)]
    line = next(s for s in chart.series if s.name == "slow has spent")
    assert line.y[0] == 0.0 and line.y[-1] == pytest.approx(made.budget.spent_j[1]) and len(line.x) == 7
    # A budget that was missed is no line in grey.
    missed = replace(made, budget=replace(made.budget, kept=False, spent_j=(made.budget.spent_j[0], 40.0)))
    [section] = [s for s in plan_sections(missed) if s.title == "Energy budgets over all rounds"]
    assert section.lines == ("Not kept: the budget of slow.",)


ASKED = PlanOptions(
    uplink_mbps=50, downlink_mbps=100, device_frequencies="all", device_weight=0.0, weight=0.8, rounds=8
)


def from_database(tmp_path: Path, options: PlanOptions = ASKED, load_s: float | None = None) -> Plan:
    with open_store(tmp_path / "swept.db") as store:
        if not store.devices.all():
            add_server(store, load=load_s)
            add_swept(store, load_s=load_s)
        return plan(store, options)


def spent_j(made: Plan) -> float:
    return sum(r.devices[0].device_energy_j or 0.0 for r in made.rounds)


@pytest.mark.parametrize("share", [0.25, 0.6, 0.9])
def test_a_plan_from_the_database_spends_a_battery_over_its_rounds(tmp_path: Path, share: float) -> None:
    """Links are fixed: every plan that keeps it and takes each of its choices in so many rounds is tried."""
    free = from_database(tmp_path)
    frugal = from_database(tmp_path, replace(ASKED, device_weight=1e6))
    least, most = spent_j(frugal), spent_j(free)
    assert least < 0.9 * most
    budget_j = least + share * (most - least)
    made = from_database(tmp_path, replace(ASKED, device_budget_j=budget_j))
    assert made.budget is not None and made.budget.kept and spent_j(made) <= budget_j * (1 + 1e-9)
    assert made.budget.myopic_j == pytest.approx((most,))
    assert len({(r.devices[0].cut, r.devices[0].device_frequency_hz) for r in made.rounds}) > 1
    with open_store(tmp_path / "swept.db") as store:
        problem = gather(store, calibrated_request(ASKED, CalibratedScenario())).problem
    nothing = np.zeros(problem.device_s.shape)
    problem = replace(problem, handling_s=nothing, latency_s=nothing[:, 0])
    best = mixes(problem, 8, budget_j)
    assert made.budget.cost <= 1.05 * best
    mine = recorded([problem], 0) * 8
    assert made.budget.cost >= offline_bound(mine, budget_j) / 8 * (1 - 1e-9)
    # The page and the run see the rounds as they were decided.
    with open_store(tmp_path / "swept.db") as store:
        assert store.plans.get(made.uid) == made
    followed = [Schedule(made).at(number, "board") for number in range(1, 9)]
    assert [(a.cut, a.device_frequency_hz, a.frequency_hz) for a in followed] == [
        (d.cut, d.device_frequency_hz, d.frequency_hz) for r in made.rounds for d in r.devices
    ]


def test_cuts_that_take_time_to_move_are_moved_seldom(tmp_path: Path) -> None:
    """A layer takes seconds to load: the rounds mix two choices without going to and fro between their cuts."""
    asked = replace(ASKED, weight=0.2, energy="busy")
    free = from_database(tmp_path, asked, load_s=0.5)
    frugal = from_database(tmp_path, replace(asked, device_weight=1e6))
    assert frugal.rounds[0].devices[0].cut < free.rounds[0].devices[0].cut
    budget_j = 0.5 * (spent_j(free) + spent_j(frugal))
    made = from_database(tmp_path, replace(asked, device_budget_j=budget_j))
    cuts = [r.devices[0].cut for r in made.rounds]
    assert made.budget is not None and made.budget.kept
    assert sum(a != b for a, b in zip(cuts, cuts[1:], strict=False)) == 1, cuts
    for before, here in zip(made.rounds, made.rounds[1:], strict=False):
        moved = before.devices[0].cut != here.devices[0].cut
        # What the move takes is in the delay that is planned, and nothing where all stay.
        assert (here.devices[0].delay_terms.switch > made.rounds[0].devices[0].delay_terms.switch) == moved


def test_a_file_over_calibrated_devices_gives_each_its_budget(tmp_path: Path) -> None:
    rates = "uplink_bps = 5e7\ndownlink_bps = 1e8\n"
    path = tmp_path / "fleet.toml"
    spent = spent_j(from_database(tmp_path))
    text = f'rounds = 8\n[[devices]]\nname = "board"\n{rates}energy_budget_j = {0.9 * spent!r}\n'
    text += '[objective]\ndevice_frequencies = "all"\nweight = 0.8\n'
    path.write_text(text)
    made = from_database(tmp_path, PlanOptions(from_db=True, scenario=str(path)))
    assert made.budget is not None and made.budget.budget_j == (0.9 * spent,) and made.budget.kept
    same = from_database(tmp_path, replace(ASKED, device_budget_j=0.9 * spent))
    assert [r.devices for r in same.rounds] == [r.devices for r in made.rounds]
    for words, options in (
        ("no effect on scheme sft", {"scheme": "sft"}),
        ("two plans", {"max_fleet_energy_j": 3.0}),
        ("--sensitivity", {"sensitivity": True}),
    ):
        with pytest.raises((UsageError, PlanError), match=words):
            from_database(tmp_path, PlanOptions(from_db=True, scenario=str(path), **options))
    path.write_text(text.replace(repr(0.9 * spent), "-1"))
    with pytest.raises(ScenarioError, match="line 6: .*energy_budget_j is -1"):
        from_database(tmp_path, PlanOptions(from_db=True, scenario=str(path)))
    # What is measured for one round by itself is measured for another plan.
    path.write_text(text.replace("[[devices]]", '[server]\nname = "gpu"\n[[devices]]'))
    with pytest.raises(ScenarioError, match="without the energy_budget_j of all rounds"):
        read_plan(str(path))


def test_a_drawn_channel_is_planned_by_its_law_and_not_by_its_rounds(tmp_path: Path) -> None:
    asked = replace(ASKED, uplink_mbps=None, downlink_mbps=None, channel="normal", rounds=4)
    free = from_database(tmp_path, asked)
    made = from_database(tmp_path, replace(asked, device_budget_j=0.85 * spent_j(free)))
    assert made.budget is not None and made.budget.kept and made.budget.myopic_j == pytest.approx((spent_j(free),))
    assert made.budget.cost >= made.budget.myopic_cost


def test_a_run_longer_than_its_budgets_is_refused(tmp_path: Path) -> None:
    """After the last planned round nothing is left to spend, and a run would go on as in that round."""
    made = from_database(tmp_path, replace(ASKED, device_budget_j=1e3))
    check_length(made, 8)
    with pytest.raises(RunError, match="keeps energy budgets over 8 round.s., and the run has 9") as refused:
        check_length(made, 9)
    assert refused.value.remedy is not None and "--rounds 9" in refused.value.remedy
    check_length(from_database(tmp_path), 9)


def test_a_budget_that_the_links_empty_is_said() -> None:
    """Rounds of which the later ones are far worse than the channel gives reason to expect."""
    base = only_first(base_problem(1, "round"))
    good = [base] * 30
    bad = [replace(base, uplink_bps=base.uplink_bps / 8, downlink_bps=base.downlink_bps / 8)] * 10
    least = sum(min(c.own_j for c in choices_of(p, 0)) for p in good + bad)
    made = plan_rounds(good + bad, budgets=Budgets([1.001 * least]))
    assert made.budget is not None and not made.budget.kept and made.budget.missed == ("d0",)
    assert any(note.startswith("d0 spends ") and "more than its budget of" in note for note in made.notes)
