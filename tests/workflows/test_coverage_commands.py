"""If these fail, `card validate` blames a run for nothing, or does not say why its rounds are not where they were
predicted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import cardlab
from cardlab.core.identity import new_uid
from cardlab.core.records.measurement import RunKind
from cardlab.core.records.plan import TERMS, Plan
from cardlab.core.records.training import DeviceReading, TrainPhase, TrainRound
from cardlab.db.store import Store
from cardlab.workflows import PlanOptions
from tests import records
from tests.card.database import BOARD, SERVER, whole
from tests.cli.run import command

ROUNDS = 20
Factor = Callable[[int], float]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.chdir(tmp_path)
    with whole(tmp_path / "cardlab.db") as found:
        yield found


def ran(store: Store, plan: Plan, factor: Factor, hz: float | None = None) -> str:
    """A run whose device took so many times what was predicted, and read that frequency; the uid."""
    run = records.run(uid=new_uid(), kind=RunKind.TRAIN, device=SERVER)
    store.runs.begin(run)
    rng = np.random.default_rng(7)
    for number in range(1, ROUNDS + 1):
        decision = plan.decision(number, "board")
        assert decision is not None
        phases = []
        for term in TERMS:
            seconds = getattr(decision.delay_terms, term)
            taken_s = seconds * (factor(number) if term == "device" else 1.0) * rng.lognormal(0.0, 0.001)
            ci95 = decision.terms_ci95.get(term)
            phases.append(TrainPhase(term=term, observed_s=taken_s, predicted_s=seconds, predicted_ci95=ci95))
        store.rounds.add(
            TrainRound(
                uid=new_uid(),
                run=run.uid,
                plan=plan.uid,
                device=BOARD,
                number=number,
                cut=decision.cut,
                frequency_hz=decision.frequency_hz,
                loss=1.0,
                delay_s=sum(p.observed_s or 0.0 for p in phases),
                energy_j=None,
                phases=tuple(phases),
                predicted_delay_ci95=decision.delay_ci95,
                device_reading=None if hz is None else DeviceReading(frequency_hz=hz),
            )
        )
    return run.uid


def said(run: str) -> tuple[str | None, str]:
    """The reason that is given for the device's term, from the document, and the text."""
    document = command("card", "validate", run, "--db", "cardlab.db", "--json").document
    (own,) = (c for c in document["coverage"] if c["term"] == "device")
    assert own["rounds"] == ROUNDS and own["share"] == own["inside"] / ROUNDS
    return own["reason"], command("card", "validate", run, "--db", "cardlab.db").out


def test_a_run_outside_its_intervals_is_told_why(store: Store) -> None:
    plan = cardlab.plan(
        store,
        PlanOptions(from_db=True, server="gpu", devices=("board",), weight=1.0, uplink_mbps=20.0, downlink_mbps=40.0),
    )
    planned_hz = plan.rounds[0].devices[0].device_frequency_hz
    assert planned_hz is not None
    busy = {3, 4, 9, 15, 16, 18}
    right = ran(store, plan, lambda n: 1.0, planned_hz)
    wrong = {
        "contention": ran(store, plan, lambda n: 1.7 if n in busy else 1.0, planned_hz),
        "drift": ran(store, plan, lambda n: 1.0 if n < 11 else 1.4, planned_hz),
        "another frequency": ran(store, plan, lambda n: 1.5, 0.66 * planned_hz),
        "in all rounds": ran(store, plan, lambda n: 1.3, planned_hz),
    }
    reason, text = said(right)
    assert reason is None and "outside at" not in text and f"device {ROUNDS} of {ROUNDS}" in text
    for word, run in wrong.items():
        reason, text = said(run)
        assert reason is not None and word in reason, (word, reason)
        assert f"outside at board: device: {reason}" in " ".join(text.split())
    # Runs of the whole database are counted together.
    assert f"of {5 * ROUNDS}" in text.partition("inside in all runs here:")[2]


def test_a_page_draws_how_often_rounds_lie_in_their_intervals(store: Store, tmp_path: Path) -> None:
    plan = cardlab.plan(
        store,
        PlanOptions(from_db=True, server="gpu", devices=("board",), weight=1.0, uplink_mbps=20.0, downlink_mbps=40.0),
    )
    ran(store, plan, lambda n: 1.3)
    done = command("card", "report", "--out", "page.html", "--db", "cardlab.db")
    assert done.code == 0, done.err
    page = (tmp_path / "page.html").read_text()
    assert "Inside the intervals" in page and "calibration of the intervals" in page
    assert re.search(r"\+(29|30)\.\d%.{0,60}against the prediction in all rounds", page)
