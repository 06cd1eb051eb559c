"""If these fail, a run whose intervals do not hold is called right, or is given the wrong reason."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from cardlab.core.quantity import Provenance
from cardlab.core.records.coverage import calibration_of, coverage_by_term, coverage_of_all
from cardlab.core.records.device import Device
from cardlab.core.records.plan import Decision, DelayTerms, Outcome, Plan, PlannedRound
from cardlab.core.records.training import DeviceReading, TrainPhase, TrainRound

BOARD = Device(key="jetson:1", name="board", platform="jetson")
SERVER_S, DEVICE_S, SIGMA = 0.5, 1.0, 0.02
MEASURED = Provenance.of("measured")


def round_of(number: int, device_s: float, server_s: float, **changes: object) -> TrainRound:
    """A round that was predicted to take the device 1 s and the server half a second, each to 2 %."""

    def phase(term: str, observed_s: float, predicted_s: float) -> TrainPhase:
        half_s = 1.96 * SIGMA * predicted_s
        return TrainPhase(
            term=term,
            observed_s=observed_s,
            predicted_s=predicted_s,
            predicted_ci95=(predicted_s - half_s, predicted_s + half_s),
        )

    whole_s = DEVICE_S + SERVER_S
    half_s = 1.96 * SIGMA * float(np.hypot(DEVICE_S, SERVER_S))
    made = TrainRound(
        uid=f"r{number}",
        run="run",
        plan="p",
        device=BOARD,
        number=number,
        cut=1,
        frequency_hz=1e9,
        loss=1.0,
        delay_s=device_s + server_s,
        energy_j=None,
        phases=(phase("device", device_s, DEVICE_S), phase("server", server_s, SERVER_S)),
        predicted_delay_ci95=(whole_s - half_s, whole_s + half_s),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def a_run(rng: np.random.Generator, count: int = 24, factor=lambda k: 1.0, sigma: float = SIGMA, **changes: object):
    return [
        round_of(
            k + 1,
            DEVICE_S * factor(k) * (1 + sigma * rng.standard_normal()),
            SERVER_S * (1 + SIGMA * rng.standard_normal()),
            **changes,
        )
        for k in range(count)
    ]


def of_device(rounds, plan=None):
    return next(c for c in coverage_by_term(rounds, plan) if c.term == "device")


def test_a_right_prediction_is_hardly_ever_blamed_and_a_wrong_one_always():
    blamed = [of_device(a_run(np.random.default_rng(seed))).reason for seed in range(300)]
    assert sum(reason is not None for reason in blamed) <= 9
    for seed in range(50):
        found = of_device(a_run(np.random.default_rng(seed), factor=lambda k: 1.1))
        assert found.reason is not None and "in all rounds" in found.reason
        assert 0.08 < float(found.reason.split("%")[0]) / 100 < 0.12


@pytest.mark.parametrize(
    ("factor", "sigma", "word"),
    [
        (lambda k: 1.0 if k < 12 else 1.5, SIGMA, "drift"),
        (lambda k: 1.0 + 0.01 * k, SIGMA, "drift"),
        (lambda k: 1.0, 6 * SIGMA, "contention"),
        (lambda k: 1.06, SIGMA, "in all rounds"),
    ],
    ids=["a step", "a slow drift", "other work", "a constant factor"],
)
def test_the_reason_is_the_one_that_was_planted(factor, sigma, word):
    said = [of_device(a_run(np.random.default_rng(seed), factor=factor, sigma=sigma)).reason for seed in range(60)]
    right = sum(reason is not None and word in reason for reason in said)
    assert right >= 54, said


def test_a_step_is_named_with_its_round():
    said = of_device(a_run(np.random.default_rng(3), factor=lambda k: 1.0 if k < 12 else 1.5)).reason
    assert (
        said is not None
        and "up to round 12" in said
        and "from round 13 on" in said
        and float(said.split("%")[1].split()[-1]) == pytest.approx(50, abs=5)
    )


def test_other_work_now_and_then_is_contention():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        busy = rng.permutation(24)[:7]
        found = of_device(a_run(rng, factor=lambda k, busy=busy: 1.8 if k in busy else 1.0))
        assert found.reason is not None and "contention" in found.reason


def test_another_frequency_comes_before_all_else():
    slow = a_run(np.random.default_rng(1), factor=lambda k: 1.5, device_reading=DeviceReading(frequency_hz=6.1e8))
    found = of_device(slow, plan_of(device_hz=9.2e8))
    assert found.reason == "another frequency: the device ran at 610 MHz where 920 MHz was planned"
    same = a_run(np.random.default_rng(1), factor=lambda k: 1.5, device_reading=DeviceReading(frequency_hz=9.2e8))
    assert "in all rounds" in str(of_device(same, plan_of(device_hz=9.2e8)).reason)
    hot = DeviceReading(frequency_hz=9.2e8, throttled=True)
    throttled = of_device(a_run(np.random.default_rng(1), factor=lambda k: 1.5, device_reading=hot))
    assert throttled.reason == "the device was throttled"


def plan_of(device_hz: float) -> Plan:
    terms = DelayTerms(device=1, encode=0, uplink=0, decode=0, server=0.5, downlink=0, adapters=0, switch=0)
    decision = Decision(
        device="board",
        cut=1,
        frequency_hz=1e9,
        device_frequency_hz=device_hz,
        delay_s=1.5,
        delay_terms=terms,
        server_energy_j=None,
        cost=0.0,
        provenance=MEASURED,
    )
    return Plan(
        uid="p",
        scheme="card",
        energy=None,
        rounds=(PlannedRound(round=1, devices=(decision,)),),
        outcome=Outcome(delay_s=1.5, server_energy_j=None),
        provenance=MEASURED,
    )


def test_calibration_counts_what_lies_inside_each_level():
    rounds = a_run(np.random.default_rng(0), count=2000)
    for one in calibration_of(rounds):
        if one.term in ("device", "server"):
            assert one.share == pytest.approx(one.level, abs=0.03), one
    for whole in coverage_of_all(rounds):
        assert whole.device is None and whole.share == pytest.approx(0.95, abs=0.02) and not whole.far


def test_what_was_not_predicted_with_an_interval_is_in_no_count():
    rounds = [replace(r, predicted_delay_ci95=None) for r in a_run(np.random.default_rng(0), count=3)]
    bare = [replace(r, phases=tuple(replace(p, predicted_ci95=None) for p in r.phases)) for r in rounds]
    assert {c.term for c in coverage_by_term(rounds)} == {"device", "server"}
    assert not coverage_by_term(bare) and not coverage_of_all(bare) and not calibration_of(bare)
    assert NormalDist().cdf(1.96) == pytest.approx(0.975, abs=1e-4)
