"""If these fail, `--frequencies best` measures what nobody needs, loses what was measured, or names a wrong one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cardlab import best_frequency, open_store, profile
from cardlab.core.errors import BadDataError
from cardlab.profilers.devices.simulated import catalogue
from cardlab.workflows import ProfileOptions
from tests.cli.run import command

pytest.importorskip("torch")
pytestmark = pytest.mark.torch
TASK = ("--model", "tiny-llama", "--batch", "8", "--seq", "256", "--no-whole-step")
BOARD = ("--platform", "simulated:agx-orin-1")


@pytest.fixture(autouse=True)
def own_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The checkout keeps no database of a test, whose schema the next commit may have changed."""
    monkeypatch.chdir(tmp_path)


def energies(document) -> dict[float, float]:
    """Energy of a step at each point, J, from what the document says of its segments."""
    found = {}
    for point in document["points"]:
        seconds = sum(s["count"] * ((s["forward_s"] or 0.0) + (s["backward_s"] or 0.0)) for s in point["segments"])
        found[point["frequency_hz"]] = point["power_w"] * seconds
    return found


def test_a_search_finds_what_the_whole_sweep_finds() -> None:
    found = command("profile-device", *BOARD, *TASK, "--frequencies", "best", "--json")
    assert found.code == 0, found.err
    best = found.document["best_frequency"]
    assert "least energy at" in found.err and "of 11 frequencies measured" in found.err and "saved" in found.err
    swept = command("profile-device", *BOARD, *TASK, "--frequencies", "all", "--json").document
    whole = energies(swept)
    # 2 % of the optimum, and as much for a sweep that visits each frequency at another heat.
    assert whole[best["frequency_hz"]] <= 1.04 * min(whole.values())
    assert best["provenance"] == {"how": "derived", "origins": ["simulated"]}
    assert best["known"] and best["measured"] < best["offered"] == 11
    low, high = best["saving_ci95"]
    saved = 1.0 - whole[best["frequency_hz"]] / whole[max(whole)]
    assert low - 0.01 <= saved <= high + 0.01


def test_a_search_goes_on_where_it_was_interrupted() -> None:
    """The budget ends it after some points; what these measured is not measured again."""
    words = ("profile-device", *BOARD, *TASK, "--frequencies", "best", "--json")
    cut = command(*words, "--budget", "200s")
    assert cut.code == 0, cut.err
    done = [p for p in cut.document["points"] if p["done"]]
    whole = command(*words, "--resume")
    assert whole.code == 0, whole.err
    assert whole.document["run_id"] == cut.document["run_id"] and whole.document["best_frequency"]["known"]
    assert [p["segments"] for p in whole.document["points"][: len(done)]] == [p["segments"] for p in done]
    # A search that is at its end has nothing to measure.
    again = command(*words, "--resume")
    assert len(again.document["points"]) == len(whole.document["points"])


def test_a_frequency_that_is_not_kept_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The power cap holds the board below its highest frequencies: the best is among those that it keeps."""
    capped = replace(catalogue.DEVICES["agx-orin-1"], power_limit_w=12.0)
    monkeypatch.setitem(catalogue.DEVICES, "agx-orin-1", capped)
    options = ProfileOptions(
        model="tiny-llama", batch=8, sequence=256, platform="simulated:agx-orin-1", frequencies="best", whole_step=False
    )
    with open_store(":memory:") as store:
        measured = profile(store, options)
    found = best_frequency(measured)
    assert any(point.operating is not None and point.operating.throttled for point in measured.points)
    assert found.highest_hz < 1300e6 and found.frequency_hz <= found.highest_hz
    kept = {p.requested_hz for p in measured.points if p.operating is not None and not p.operating.throttled}
    assert found.highest_hz in kept


def test_a_throttled_visit_is_no_choice_where_its_clock_reads_as_asked_for() -> None:
    options = ProfileOptions(
        model="tiny-llama", batch=8, sequence=256, platform="simulated:agx-orin-1", frequencies="4", whole_step=False
    )
    with open_store(":memory:") as store:
        measured = profile(store, options)
    highest = max(point.requested_hz or 0.0 for point in measured.points)
    points = tuple(
        replace(p, operating=replace(p.operating, throttled=True)) if p.operating and p.requested_hz == highest else p
        for p in measured.points
    )
    assert best_frequency(measured).highest_hz == highest
    assert best_frequency(replace(measured, points=points)).highest_hz < highest


def test_where_nothing_can_be_chosen_or_metered_it_is_refused() -> None:
    refused = command("profile-device", *BOARD, *TASK, "--frequencies", "best", "--memory-frequencies", "all")
    refused.failed_in_one_line(2, "--frequencies best looks for one frequency")
    refused = command("profile-device", "--platform", "cpu", *TASK, "--frequencies", "best")
    refused.failed_in_one_line(1, "--frequencies best")


def test_a_dry_run_says_that_more_points_follow() -> None:
    said = command("profile-device", *BOARD, *TASK, "--frequencies", "best", "--dry-run")
    assert "3 operating point(s)" in said.out and "and then whichever tells most" in said.out


def test_a_profile_without_energy_says_so() -> None:
    options = ProfileOptions(
        model="tiny-llama", batch=8, sequence=256, platform="simulated:agx-orin-1", frequencies="max", whole_step=False
    )
    with open_store(":memory:") as store, pytest.raises(BadDataError) as caught:
        best_frequency(profile(store, options))
    assert caught.value.remedy
