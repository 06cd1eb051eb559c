"""If these fail, `card validate` blames a run for nothing, or does not say why its rounds are not where they were
predicted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cardlab
from cardlab.core.records.plan import Plan
from cardlab.db.store import Store
from cardlab.workflows import PlanOptions
from tests.card.database import whole
from tests.cli.run import command
from tests.workflows.planned_rounds import ran

ROUNDS = 20
Factor = Callable[[int], float]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.chdir(tmp_path)
    with whole(tmp_path / "cardlab.db") as found:
        yield found


def took(store: Store, plan: Plan, factor: Factor, hz: float | None = None) -> str:
    """A run whose device took so many times what was predicted, and read that frequency; the uid."""
    ratios = {"device": [factor(number) for number in range(1, ROUNDS + 1)]}
    return ran(store, plan, ratios, noise=0.001, read_hz=hz)


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
    right = took(store, plan, lambda n: 1.0, planned_hz)
    wrong = {
        "contention": took(store, plan, lambda n: 1.7 if n in busy else 1.0, planned_hz),
        "drift": took(store, plan, lambda n: 1.0 if n < 11 else 1.4, planned_hz),
        "another frequency": took(store, plan, lambda n: 1.5, 0.66 * planned_hz),
        "in all rounds": took(store, plan, lambda n: 1.3, planned_hz),
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
    took(store, plan, lambda n: 1.3)
    done = command("card", "report", "--out", "page.html", "--db", "cardlab.db")
    assert done.code == 0, done.err
    page = (tmp_path / "page.html").read_text()
    assert "Inside the intervals" in page and "calibration of the intervals" in page
    assert re.search(r"\+(29|30)\.\d%.{0,60}against the prediction in all rounds", page)
