"""If these fail, a plan or a prediction leaves out what a message waits for on the link, or counts it twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cardlab.card.problem.from_db import Request, gather
from cardlab.card.problem.scenario import Objective
from cardlab.card.schemes.card.planning import plan_rounds
from cardlab.card.schemes.sft.building import instance_from_scenario
from cardlab.card.schemes.sft.deciding import decide
from cardlab.card.schemes.sft.large_scale import _Lagrangian
from cardlab.card.schemes.sft.planning import plan_instance
from cardlab.core.errors import PlanError
from cardlab.core.quantity import Provenance
from cardlab.core.records.link import Link
from cardlab.core.records.plan import TERMS, DelayTerms, Plan
from cardlab.db.store import Store
from cardlab.split.settings import RunSettings
from cardlab.workflows.expectation import Serving, expected_by_device
from tests import records
from tests.card.database import BOARD, SERVER, whole
from tests.card.test_sft import random_scenario
from tests.cli.run import command

EPOCHS = 4
TYPED = Request(uplink_bps=5e7, downlink_bps=1e8, objective=Objective(weight=1.0, local_epochs=EPOCHS))
STORED = replace(TYPED, uplink_bps=None, downlink_bps=None)
LINK = Link(
    uid="1" * 8,
    name="lab",
    uplink_bps=2e7,
    downlink_bps=4e7,
    rtt_s=0.04,
    provenance=Provenance.of("measured"),
    measured_at="2026-11-21T10:00:00.000000Z",
)


def planned(store: Store, request: Request) -> Plan:
    found = gather(store, request)
    return plan_rounds(found.problems, uncertainty=found.uncertainty, inputs=found.inputs)


def terms_of(plan: Plan) -> DelayTerms:
    return plan.rounds[0].devices[0].delay_terms


def about_latency(plan: Plan) -> list[str]:
    return [line for line in plan.assumptions if "latency" in line]


def test_each_message_of_a_round_waits_for_half_a_round_trip(database: Path) -> None:
    """Two messages a mini-batch, and the adapters down and back."""
    with whole(database) as store:
        plain, far = planned(store, TYPED), planned(store, replace(TYPED, rtt_s=0.04))
    added = {"uplink": EPOCHS * 0.02, "downlink": EPOCHS * 0.02, "adapters": 2 * 0.02}
    for term in TERMS:
        before, after = getattr(terms_of(plain), term), getattr(terms_of(far), term)
        assert after - before == pytest.approx(added.get(term, 0.0), abs=1e-12)
    low, high = far.rounds[0].devices[0].delay_ci95 or (0.0, 0.0)
    assert low <= far.rounds[0].devices[0].delay_s <= high
    assert about_latency(plain) == ["no link latency (its round trip is not known: --rtt-ms)"]
    assert not about_latency(far)


def test_the_latency_of_an_imported_stream_is_beside_its_rate(database: Path) -> None:
    with whole(database) as store:
        store.links.add(replace(LINK, provenance=Provenance.of("imported")))
        found = gather(store, STORED).problem
        assert found.uplink_bps.tolist() == [2e7] and found.latency.tolist() == [0.02]
        # What is typed takes its place, for the round trip as for the rates.
        assert gather(store, replace(STORED, rtt_s=0.01)).problem.latency.tolist() == [0.005]


@pytest.mark.parametrize("rtt_s", [0.0, 0.01, 0.04, 10.0])
def test_a_message_of_the_measured_size_takes_what_it_took(database: Path, rtt_s: float) -> None:
    """The rate of single messages holds their latency: counted beside it, it would be counted twice."""
    size = 200_000
    link = replace(LINK, rtt_s=rtt_s, message_bytes=size)
    with whole(database) as store:
        store.links.add(link)
        problem = gather(store, STORED).problem
    sent = replace(problem, up_bytes=np.full(3, float(size)), down_bytes=np.full(3, float(size)))
    terms = sent.terms(0, 0, 0.0)
    assert terms.uplink == pytest.approx(EPOCHS * size * 8 / 2e7)
    assert terms.downlink == pytest.approx(EPOCHS * size * 8 / 4e7)
    tenth = replace(problem, up_bytes=np.full(3, size / 10)).terms(0, 0, 0.0)
    if rtt_s:
        # A message of a tenth takes more than a tenth.
        assert tenth.uplink > 1.05 * terms.uplink / 10
    else:
        assert tenth.uplink == pytest.approx(terms.uplink / 10)


def test_a_link_of_0_1_says_that_its_rates_hold_the_latency(database: Path) -> None:
    with whole(database) as store:
        store.links.add(LINK)
        assert gather(store, STORED).problem.latency.tolist() == [0.0]
        assert about_latency(planned(store, STORED)) == [
            "no link latency beside the rates of link 'lab' (they hold it for one message size)"
        ]
        with pytest.raises(PlanError, match="hold its latency") as refused:
            gather(store, replace(STORED, rtt_s=0.01))
        assert "--rtt-ms" in (refused.value.remedy or "")


@pytest.mark.parametrize("rtt_ms", ["-1", "nan", "inf"])
def test_a_round_trip_that_is_none_is_refused(database: Path, rtt_ms: str) -> None:
    whole(database).close()
    words = ("card", "plan", "--from-db", "--uplink-mbps", "50", "--downlink-mbps", "100", "--db", str(database))
    command(*words, f"--rtt-ms={rtt_ms}").failed_in_one_line(2, "--rtt-ms")


def test_a_round_trip_is_for_a_plan_from_a_database(database: Path) -> None:
    command("card", "plan", "--scenario", "card-letter", "--rtt-ms", "20").failed_in_one_line(2, "--rtt-ms")


def test_a_run_over_a_shaped_link_is_expected_with_its_delay(database: Path) -> None:
    settings = RunSettings(
        run="2" * 32, task=records.TASK, rounds=1, epochs=3, learning_rate=1e-3, wire_dtype="float32", cut=2
    )
    with whole(database) as store:
        plain, far = (
            expected_by_device(store, settings, Serving(SERVER), link).predictions[BOARD.key].terms
            for link in ("100mbit", "100mbit,20ms")
        )
    added = {name: far[name] - plain[name] for name in far}
    assert added == pytest.approx({**dict.fromkeys(far, 0.0), "uplink": 0.06, "downlink": 0.06, "adapters": 0.04})


@pytest.mark.once
@pytest.mark.parametrize("seed", [1, 3, 4])
def test_parallel_devices_wait_for_it_in_every_path(seed: int) -> None:
    instance = instance_from_scenario(random_scenario(seed))
    base, wait_s = instance.problem.base, np.linspace(0.01, 0.03, instance.problem.devices)
    far = replace(instance.problem, base=replace(base, latency_s=wait_s))
    at = np.zeros(far.devices, dtype=np.int64)
    messages = 2 * base.objective.local_epochs + 2
    np.testing.assert_allclose(far.fixed_s(at, at) - instance.problem.fixed_s(at, at), messages * wait_s)
    even = np.full(far.devices, 1.0 / far.devices)
    plain = decide(instance.problem, instance.rounds[0], at, at, even)
    waiting = decide(far, instance.rounds[0], at, at, even)
    for m, (before, after) in enumerate(zip(plain, waiting, strict=True)):
        on_the_link = [t.uplink + t.downlink + t.adapters for t in (before.delay_terms, after.delay_terms)]
        assert on_the_link[1] - on_the_link[0] == pytest.approx(messages * wait_s[m])
    # What all wait for moves the relaxed round by as much.
    alike = replace(instance.problem, base=replace(base, latency_s=np.full(far.devices, 0.02)))
    x = np.concatenate([np.zeros(far.devices), np.full(far.devices, float(far.rates[-1]))])
    near, away = (_Lagrangian(p, instance.statistics).delay(x)[0] for p in (instance.problem, alike))
    np.testing.assert_allclose(away - near, messages * 0.02)
    made = plan_instance(replace(instance, problem=far))
    without = plan_instance(instance)
    for name, outcome in made.baselines.items():
        assert outcome.delay_s > without.baselines[name].delay_s + wait_s.min(), name
