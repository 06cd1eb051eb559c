"""What it takes to move a cut between rounds is fed from measured loading of layers; what nobody timed is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cardlab.card.problem.delay import moving_s
from cardlab.card.problem.from_db import Request, gather
from cardlab.card.problem.scenario import Constraints, Objective
from cardlab.card.schemes.card.planning import plan_rounds
from cardlab.card.solvers.batch import solve_batch
from cardlab.card.solvers.enumeration import best_choice, extents_of
from cardlab.core.records.plan import Plan
from cardlab.db import open_store
from cardlab.split.schedule import Schedule
from tests import records
from tests.card.database import add_device, add_server

LINKED = Request(uplink_bps=5e7, downlink_bps=1e8, objective=Objective(weight=0.3, local_epochs=4))


def planned(path: Path, device_load: float | None, server_load: float | None) -> Plan:
    """Three rounds at cuts 1, 3 and 1: the second has to keep three layers on the device."""
    with open_store(path / "a.db") as store:
        add_server(store, load=server_load)
        add_device(store, load=device_load)
        found = gather(store, LINKED)
    free = found.problem
    bound = replace(free, constraints=Constraints(min_device_layers=3))
    made = plan_rounds([free, bound, free], uncertainty=found.uncertainty, inputs=found.inputs)
    assert [r.devices[0].cut for r in made.rounds] == [1, 3, 1], "the case shows nothing"
    return made


def test_a_moved_cut_takes_what_its_layers_take_to_load(tmp_path: Path) -> None:
    """It was 0 in every plan, though profiles time it."""
    made = planned(tmp_path, 0.25, 0.004)
    switch = [r.devices[0].delay_terms.switch for r in made.rounds]
    assert switch == pytest.approx([0.0, 2 * 0.25, 2 * 0.004])
    for decision in (r.devices[0] for r in made.rounds):
        assert decision.delay_s == pytest.approx(decision.delay_terms.total)
    assert made.not_predicted == () and not [n for n in made.notes if "switch" in n]


def test_a_move_that_costs_too_much_is_not_made(tmp_path: Path) -> None:
    with open_store(tmp_path / "a.db") as store:
        add_server(store, load=60.0)
        add_device(store, load=60.0)
        found = gather(store, LINKED)
    bound = replace(found.problem, constraints=Constraints(min_device_layers=3))
    made = plan_rounds([bound, found.problem], inputs=found.inputs)
    assert [r.devices[0].cut for r in made.rounds] == [3, 3]
    assert [r.devices[0].delay_terms.switch for r in made.rounds] == [0.0, 0.0]


def test_what_nobody_timed_is_said_and_not_predicted(tmp_path: Path) -> None:
    made = planned(tmp_path, None, 0.004)
    assert [n for n in made.notes if n.startswith("switch N/A for board")]
    assert made.not_predicted == ("switch",)
    schedule = Schedule(plan=made)
    assert all("switch" not in schedule.at(n, "board").expected.terms for n in (1, 2, 3))


def test_the_first_round_loads_all_layers_which_no_term_of_a_plan_is(tmp_path: Path) -> None:
    schedule = Schedule(plan=planned(tmp_path, 0.25, 0.004))
    assert "switch" not in schedule.at(1, "board").expected.terms
    assert schedule.at(2, "board").expected.terms["switch"] == pytest.approx(0.5)


def test_the_batch_solver_moves_cuts_at_the_same_price(tmp_path: Path) -> None:
    with open_store(tmp_path / "a.db") as store:
        add_server(store, load=0.004)
        add_device(store, load=0.25)
        problem = gather(store, LINKED).problem.moved_from(np.array([3]))
    choice = best_choice(problem, 0, extents_of(problem)[0])
    answer = solve_batch(problem)
    assert problem.moves_s is not None and problem.moves_s[0].tolist() == pytest.approx([0.008, 0.004, 0.0])
    assert (answer.place[0], answer.listed[0]) == (choice.cut, choice.frequency)
    assert answer.cost[0] == pytest.approx(choice.cost)


def test_only_layers_that_come_take_time() -> None:
    assert float(moving_s(2.0, 5.0, 0.1, np.nan)) == pytest.approx(0.3)
    assert float(moving_s(5.0, 2.0, np.nan, 0.2)) == pytest.approx(0.6)
    assert float(moving_s(4.0, 4.0, np.nan, np.nan)) == 0.0
    assert np.isnan(moving_s(2.0, 5.0, np.nan, 0.2))
    assert records.TASK.architecture.layers == 4
