# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""From a profile to the report of how far reality lay from the plan: plan --from-db, run --plan, validate, as typed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

from cardlab.core.identity import new_uid
from cardlab.db import open_store
from cardlab.db.times import utc_now
from tests.cli.run import Result, command

TASK = ("--model", "tiny-llama", "--batch", "4", "--seq", "128", "--dtype", "float32")
MEASURE = ("--name", "here", "--no-whole-step", "--repeats", "5")
PARTIES = ("--server", "here", "--device", "here")
# Slow enough that the air counts, and what a message costs beside its bytes does not.
RATES = ("--uplink-mbps", "20", "--downlink-mbps", "40")
BITS = 4 * 128 * 64 * 4 * 8


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def done(*words: str) -> Result:
    result = command(*words)
    assert result.code == 0, f"{' '.join(words)}: {result.err}"
    return result


def planned(*words: str) -> dict[str, Any]:
    return done("card", "plan", "--from-db", *PARTIES, *RATES, "--rounds", "3", *words, "--json").document


def followed(plan: dict[str, Any], *words: str) -> dict[str, dict[str, Any]]:
    """Run the plan here, and its terms as `card validate` holds them."""
    run = done("card", "run", "--local", "--plan", plan["plan_id"], *words, "--json").document
    assert run["plan_id"] == plan["plan_id"] and len(run["rounds"]) == 3
    cuts = [[d["cut"] for d in r["devices"]] for r in run["rounds"]]
    assert cuts == [[d["cut"] for d in r["devices"]] for r in plan["rounds"]]
    checked = done("card", "validate", "--json").document
    assert checked["run_id"] == run["run_id"]
    return {term["term"]: term for term in checked["terms"]}


@pytest.mark.alone
def test_what_was_planned_is_what_the_run_is_held_against(tmp_path: Path) -> None:
    done("profile-device", *TASK, *MEASURE)
    done("calibrate", "fit")
    plan = planned("--weight", "1", "--local-epochs", "2", "--wire-dtype", "float32")
    decision = plan["rounds"][0]["devices"][0]
    terms = followed(plan, "--link", "20mbit", "--out", str(tmp_path / "plain"))
    # Every term that the plan states is the prediction, to the last digit, and the air's is arithmetic.
    for name in ("device", "server", "uplink", "downlink", "adapters"):
        assert terms[name]["predicted_s"] == pytest.approx(decision["delay_terms"][name], rel=1e-9), name
    assert decision["delay_terms"]["uplink"] == pytest.approx(2 * BITS / 20e6, rel=1e-9)
    # The uplink is shaped to what was planned for; a factor would be another quantity.
    assert 0.7 < terms["uplink"]["observed_s"] / terms["uplink"]["predicted_s"] < 1.6
    for name in ("device", "server"):
        assert terms[name]["observed_s"] > 0 and terms[name]["error"] is not None
    # The same plan with a codec that nobody profiled: its bytes are not known, and the plan's are not those.
    unknown = followed(plan, "--link", "20mbit", "--codec", "topk:0.1:8", "--out", str(tmp_path / "unprofiled"))
    assert unknown["uplink"]["predicted_s"] is None and unknown["downlink"]["predicted_s"] is None
    assert unknown["device"]["predicted_s"] == pytest.approx(terms["device"]["predicted_s"], rel=1e-9)


def test_a_run_follows_every_round_of_its_plan_and_goes_no_further_than_its_budgets(tmp_path: Path) -> None:
    """The fault that it is for: a run that does round 1's decision in every round, or empties a battery after them."""
    done("profile-device", *TASK, *MEASURE)
    done("calibrate", "fit")
    typed = '[[devices]]\nname = "here"\nuplink_bps = 2e7\ndownlink_bps = 4e7\npower_w = 10.0\nenergy_budget_j = 1e6\n'
    (tmp_path / "fleet.toml").write_text(f'[server]\nname = "here"\n{typed}[objective]\nweight = 1.0\n')
    words = ("card", "plan", "--from-db", "--scenario", "fleet.toml", "--rounds", "3", "--local-epochs", "1", "--json")
    made = done(*words).document
    assert made["budget"]["kept"] and made["budget"]["budget_j"] == [1e6]
    with open_store("cardlab.db") as store:
        plan = store.plans.get(made["plan_id"])
        rounds = tuple(
            replace(r, devices=tuple(replace(d, cut=cut) for d in r.devices))
            for r, cut in zip(plan.rounds, (3, 1, 2), strict=True)
        )
        mixed = store.plans.add(replace(plan, uid=new_uid(), rounds=rounds), utc_now())
    longer = command("card", "run", "--local", "--plan", mixed.uid, "--rounds", "4", "--out", str(tmp_path / "longer"))
    longer.failed_in_one_line(1, "keeps energy budgets over 3 round(s), and the run has 4")
    assert not (tmp_path / "longer").exists()
    run = done("card", "run", "--local", "--plan", mixed.uid, "--out", str(tmp_path / "mixed"), "--json").document
    assert [[d["cut"] for d in r["devices"]] for r in run["rounds"]] == [[3], [1], [2]]


@pytest.mark.alone
def test_a_planned_codec_is_run_and_held_against_its_own_bytes(tmp_path: Path) -> None:
    done("profile-device", *TASK, *MEASURE, "--compression")
    done("calibrate", "fit")
    plan = planned("--scheme", "sft", "--compression", "0.1", "--wire-dtype", "float32")
    decision = plan["rounds"][0]["devices"][0]
    codec = decision["codec"]
    assert codec not in (None, "none")
    terms = followed(plan, "--out", str(tmp_path / "codec"))
    for name in ("uplink", "downlink", "encode", "decode"):
        assert terms[name]["predicted_s"] == pytest.approx(decision["delay_terms"][name], rel=1e-9), name
    assert decision["delay_terms"]["uplink"] < 0.3 * BITS / 20e6
    assert 0.4 < terms["uplink"]["predicted_s"] / terms["uplink"]["observed_s"] < 1.6
    [listed] = done("card", "runs", "--json").document["runs"]
    assert listed["plan_id"] == plan["plan_id"] and listed["rounds"] == 3
