"""Simulations: the same whoever does the work, and fleets that are drawn by their number."""

from __future__ import annotations

import sys
import types
from concurrent.futures import Future
from dataclasses import replace

import pytest

from cardlab.card import load_scenario
from cardlab.card.problem.scenario import Constraints
from cardlab.card.simulate import draw_fleet, jobs, simulate
from cardlab.core.errors import MissingDependencyError, PlanError

LETTER = replace(load_scenario("card-letter"), rounds=3)


def test_processes_give_what_this_process_gives_and_progress_is_told():
    todo = jobs(LETTER, ("good", "poor"), fleets=2)
    told = []
    alone = simulate(todo, progress=lambda done, count: told.append((done, count)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    told.clear()
    assert simulate(todo, workers=2, progress=lambda done, count: told.append((done, count))) == alone
    assert told[-1] == (4, 4)
    assert [(p.channel, p.fleet) for p in alone] == [("good", 0), ("good", 1), ("poor", 0), ("poor", 1)]
    assert all(p.baselines["device_only"][0] > p.delay_s for p in alone)


def test_fleets_are_drawn_by_number_and_fleet_0_is_the_scenarios_own():
    assert draw_fleet(LETTER, 0) is LETTER
    assert draw_fleet(LETTER, 1) == draw_fleet(LETTER, 1) != draw_fleet(LETTER, 2)
    many = draw_fleet(LETTER, 0, 12)
    assert len(many.devices) == len({d.name for d in many.devices}) == 12


def test_an_infeasible_job_says_why_and_stops_no_other():
    tight = replace(LETTER, constraints=Constraints(deadline_s=19.7))
    played = simulate(jobs(tight, (), fleets=1) + jobs(LETTER, (), fleets=1))
    assert played[0].delay_s is None and "deadline of 19.7 s cannot be kept" in played[0].infeasible
    assert played[1].delay_s is not None


def test_an_unknown_channel():
    with pytest.raises(PlanError, match="good, normal, poor"):
        jobs(LETTER, ("best",), fleets=1)


def test_a_dask_scheduler_is_reached_by_its_address(monkeypatch):
    seen = []

    class Client:
        def __init__(self, address, timeout):
            if "nowhere" in address:
                raise OSError("timed out")
            seen.append(address)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            seen.append("closed")

        def submit(self, function, job):
            future: Future[object] = Future()
            future.set_result(function(job))
            return future

    monkeypatch.setitem(sys.modules, "distributed", types.SimpleNamespace(Client=Client))
    todo = jobs(LETTER, (), fleets=2)
    assert simulate(todo, scheduler="tcp://host:8786") == simulate(todo)
    assert seen == ["tcp://host:8786", "closed"]
    with pytest.raises(PlanError, match="no Dask scheduler answers at tcp://nowhere:1"):
        simulate(todo, scheduler="tcp://nowhere:1")


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingDependencyError, match=r"cardlab\[cluster\]"):
        simulate(jobs(LETTER, (), fleets=1), scheduler="tcp://host:8786")
