"""Source through the solver, the guard band, and the figures it is meant for."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from benchmarks.planner import quality
from cardlab.card import load_scenario
from cardlab.card.problem.problem import problem_from_scenario
from cardlab.card.problem.scenario import Constraints
from cardlab.card.schemes.card.planning import plan
from cardlab.card.uncertainty import Source, Uncertainty, certainties, contributions, relative_uncertainty, with_guard
from cardlab.core.errors import PlanError
from tests.card.instances import random_problem


@pytest.fixture
def problem():
    letter = load_scenario("card-letter")
    frequencies = tuple(np.linspace(2.46e8, 2.46e9, 60))
    return problem_from_scenario(replace(letter, server=replace(letter.server, frequencies_hz=frequencies)))


def test_without_uncertainty_a_decision_is_certain(problem):
    sure = plan(problem, uncertainty=relative_uncertainty(problem, device=0.0, server=0.0, power=0.0, draws=20))
    for d in sure.rounds[0].devices:
        assert d.cut_probability == 1.0
        assert d.delay_ci95 == pytest.approx((d.delay_s, d.delay_s))
    assert all(lost == pytest.approx(0.0, abs=1e-12) for lost in sure.uncertainty.values())


def test_the_narrowest_decision_is_the_least_certain(problem):
    made = plan(problem, uncertainty=relative_uncertainty(problem, device=0.2, server=0.2, power=0.2, draws=100))
    seconds = [d.runner_up for d in made.rounds[0].devices if d.runner_up is not None]
    margins = [second.margin for second in seconds if second.margin is not None]
    chances = [d.cut_probability for d in made.rounds[0].devices if d.cut_probability is not None]
    assert len(margins) == len(chances) == len(made.rounds[0].devices)
    assert chances[margins.index(min(margins))] == min(chances) < 0.95


@pytest.mark.once
def test_intervals_have_the_width_of_the_uncertainty(problem):
    uncertainty = relative_uncertainty(problem, device=0.0, server=0.1, power=0.0, draws=2000)
    sure = certainties(problem, [(0, 30)] * 5, uncertainty)[0]
    busy = problem.objective.local_epochs * problem.server_s[0, 30]
    low, high = sure.delay_ci95
    assert high - low == pytest.approx(2 * 1.96 * 0.1 * busy, rel=0.1)


def test_the_constant_that_matters_is_named(problem):
    rng = np.random.default_rng(0)
    loud = Source(name="loud", device=2, device_s=0.4 * rng.standard_normal((40, 1)) * problem.device_s[2])
    quiet = Source(name="quiet", device=0, device_s=np.zeros((40, problem.cuts.size)))
    uncertainty = Uncertainty(sources=(quiet, loud), draws=40)
    lost = plan(problem, uncertainty=uncertainty).uncertainty
    assert list(lost) == ["loud", "quiet"]
    assert lost["loud"] > 1e-3 and lost["quiet"] == 0.0
    choices = [(30, 9)] * 5
    assert contributions(problem, choices, uncertainty)["quiet"] > 0.0  # a choice that is not the best loses anyway


def test_the_guard_is_the_quantile_of_the_delay(problem):
    limited = replace(problem, constraints=Constraints(deadline_s=100.0, deadline_confidence=0.95))
    uncertainty = relative_uncertainty(problem, device=0.05, server=0.05, draws=2000)
    guard = with_guard(limited, uncertainty).guard_s
    delays = np.array(
        [
            5 * (uncertainty.drawn(problem, n).device_s[1, 10] + uncertainty.drawn(problem, n).server_s[10, 20])
            for n in range(2000)
        ]
    )
    assert guard.shape == (5, 31, 60)
    assert guard[1, 10, 20] == pytest.approx(NormalDist().inv_cdf(0.95) * delays.std(), rel=0.02)


def test_a_confidence_without_uncertainty_and_uncertainty_without_frequencies_are_refused(problem):
    limited = replace(problem, constraints=Constraints(deadline_s=100.0, deadline_confidence=0.95))
    with pytest.raises(PlanError, match="uncertainty of the constants is not known"):
        plan(limited)
    with pytest.raises(PlanError, match="frequencies_hz"):
        relative_uncertainty(random_problem(0, kind="paper"))


def check_quality(devices: int, calibrations: int):
    found = quality(devices, calibrations)
    assert found["guarded"]["missed"] <= 0.02
    assert found["guarded"]["refused"] <= 0.05
    assert found["unguarded"]["missed"] > found["guarded"]["missed"]
    assert found["datasheet"]["missed"] > found["unguarded"]["missed"]
    return found


def test_guarded_plans_keep_their_deadlines():
    check_quality(40, 8)


@pytest.mark.accept
def test_guarded_plans_keep_their_deadlines_in_full():
    found = check_quality(400, 25)
    for name, row in found.items():
        values = ", ".join(f"{key} {value:.4g}" for key, value in row.items())
        print(f"planner deadline 1.2 x minimum, 5 % error, {name}: {values}")
