"""If these fail, `profile-device --for-plan` names another plan than `card plan` makes, or loses what it measured."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cardlab import best_for_plan, open_store
from cardlab.db.store.meters import behind_sensors
from cardlab.profilers.devices import HardwareDevice, open_platform
from cardlab.workflows.for_plan import plan_search, read_plan
from tests.cli.run import Result, command
from tests.conftest import surround

pytest.importorskip("torch")
pytestmark = pytest.mark.torch
TASK = ("--model", "tiny-llama", "--batch", "8", "--seq", "256", "--no-whole-step")
BOARD = ("--platform", "simulated:agx-orin-1", "--name", "board")
BEST = ("profile-device", *BOARD, *TASK, "--frequencies", "best")
LAB = """[server]
name = "gpu"
[[devices]]
name = "board"
uplink_bps = 2e8
downlink_bps = 3e8
[objective]
weight = 0.3
device_energy_weight = 0.5
device_frequencies = "all"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a server and its fits."""
    folder = tmp_path_factory.mktemp("server")
    words = ("--platform", "simulated:rtx-4060-ti", "--name", "gpu", *TASK, "--frequencies", "5")
    with pytest.MonkeyPatch.context() as patch:
        surround(patch, folder)
        assert command("profile-device", *words, "--db", str(folder / "lab.db")).code == 0
        assert command("calibrate", "fit", "--device", "gpu", "--db", str(folder / "lab.db")).code == 0
    return folder / "lab.db"


@pytest.fixture
def lab(server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which the commands use, and the scenario."""
    monkeypatch.setenv("CARD_DB", str(shutil.copy(server, tmp_path / "lab.db")))
    (tmp_path / "lab.toml").write_text(LAB)
    return tmp_path / "lab.toml"


def points(result: Result) -> list[float]:
    assert result.code == 0, result.err
    return [point["requested_hz"] for point in result.document["points"] if point["done"]]


def test_a_board_is_measured_for_a_plan_and_card_plan_makes_it(lab: Path) -> None:
    measured = command(*BEST, "--for-plan", str(lab), "--json")
    assert len(points(measured)) < 11
    found = measured.document["best_for_plan"]
    assert "best_frequency" not in measured.document
    assert measured.document["for_plan"] == found["scenario"] and found["scenario"].startswith("lab.toml (")
    line = next(one for one in measured.err.splitlines() if "plan of lab.toml" in one)
    (decided,) = found["decisions"]
    assert f"board cut {decided['cut']}, server at {decided['server_frequency_hz'] / 1e6:.0f} MHz" in line
    assert f"{found['measured']} of 11 frequencies of board measured" in line and "saved" in line
    assert "dearer than the best plan at 95 %" in line
    assert "assumed: " in measured.err and "uncertainty is not counted" in measured.err
    assert found["provenance"]["origins"] == ["simulated"]
    assert found["known"] and found["regret95"] <= 0.02 and found["measured"] < found["offered"] == 11
    # The same from Python, and by the plan itself once the few points are fitted.
    with open_store(lab.with_name("lab.db")) as store:
        again = best_for_plan(store, store.runs.get(measured.document["run_id"]), str(lab))
    assert again.regret95 == found["regret95"] and again.decisions[0].cut == decided["cut"]
    assert command("calibrate", "fit", "--device", "board").code == 0
    planned = command("card", "plan", "--from-db", "--scenario", str(lab), "--json")
    assert planned.code == 0, planned.err
    device = planned.document["rounds"][0]["devices"][0]
    assert device["cut"] == decided["cut"]
    # A step of the table beside it at most: laws are fitted to the points, and a belief is none of them.
    assert abs(device["frequency_hz"] - decided["server_frequency_hz"]) <= 100e6
    assert abs(device["device_frequency_hz"] - decided["device_frequency_hz"]) <= 102e6


def test_a_calibrated_sensor_counts_once(lab: Path) -> None:
    """The fault that it is for: the line by corrected powers, and JSON by powers that were corrected twice."""
    assert command("profile-device", *BOARD, *TASK, "--frequencies", "max").code == 0
    file = lab.with_name("meter.csv")
    file.write_text("reference_w,sensor_w\n" + "".join(f"{w},{0.5 * w + 2.0}\n" for w in (5, 10, 20, 30, 40)))
    assert command("calibrate", "meter", "--reference", str(file), "--device", "board").code == 0
    measured = command(*BEST, "--for-plan", str(lab), "--json")
    assert measured.code == 0, measured.err
    found = measured.document["best_for_plan"]
    with open_store(lab.with_name("lab.db")) as store:
        stored = store.runs.get(measured.document["run_id"])
        again = best_for_plan(store, behind_sensors(store.runs, stored), str(lab))
        as_read = best_for_plan(store, stored, str(lab))
        search = plan_search(store, read_plan(str(lab)), stored.run, metered=True)
        judged = search.judge(stored, search.part.allowed_hz)
    assert judged is not None and judged.regret95 == found["regret95"]
    assert again.regret95 == found["regret95"] != as_read.regret95
    assert f"at most {max(found['regret95'], 0.001):.1%} dearer" in measured.err


def test_a_device_is_found_by_the_label_that_the_database_knows(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to repeat --name: the board was given its label once, and calls itself as its maker does."""

    def real(name: str, *, label: str | None) -> HardwareDevice:
        found = open_platform(name)
        found.identity = replace(found.identity, name=label or "tegra-ubuntu")
        return found

    monkeypatch.setattr("cardlab.workflows.profile.open_platform", real)
    words = ("profile-device", "--platform", "simulated:agx-orin-1:x", *TASK, "--frequencies")
    assert command(*words, "max", "--name", "board").code == 0
    measured = command(*words, "best", "--for-plan", str(lab), "--budget", "90s", "--json")
    assert measured.code == 0, measured.err
    assert measured.document["device"]["name"] == "board" and measured.document["for_plan"]


def test_a_server_is_measured_for_the_plan_of_its_devices(lab: Path) -> None:
    """The other way round: a board is known, and a second server is measured for it."""
    assert command("profile-device", *BOARD, *TASK, "--frequencies", "4").code == 0
    assert command("calibrate", "fit", "--device", "board").code == 0
    lab.write_text(LAB.replace("gpu", "second"))
    words = ("--platform", "simulated:rtx-4060:other", "--name", "second", *TASK, "--frequencies", "best")
    measured = command("profile-device", *words, "--for-plan", str(lab), "--json")
    assert len(points(measured)) <= 12
    found = measured.document["best_for_plan"]
    assert found["serves"] and found["known"] and found["offered"] > 100
    # What stands in for it while it is measured is no import.
    assert found["provenance"]["origins"] == ["simulated"]
    assert found["decisions"][0]["device"] == "board" and found["decisions"][0]["device_frequency_hz"] is not None


def test_a_search_goes_on_for_the_plan_that_it_was_begun_for(lab: Path) -> None:
    cut = command(*BEST, "--for-plan", str(lab), "--json", "--budget", "150s")
    done = points(cut)
    assert len(done) < 3 and "not complete" in cut.err
    other = lab.with_name("other.toml")
    other.write_text(LAB.replace("weight = 0.3", "weight = 0.6"))
    for words in (("--for-plan", str(other)), ()):
        refused = command(*BEST, *words, "--resume")
        refused.failed_in_one_line(2, "was begun for another plan (lab.toml (", "give --for-plan as it was begun with")
    # The same scenario, from another folder.
    moved = lab.parent / "moved"
    moved.mkdir()
    whole = command(*BEST, "--for-plan", shutil.copy(str(lab), str(moved / "lab.toml")), "--json", "--resume")
    assert points(whole)[: len(done)] == done and len(points(whole)) >= 3
    assert whole.document["run_id"] == cut.document["run_id"] and whole.document["best_for_plan"]["known"]


def test_what_cannot_be_planned_yet_is_refused_before_anything_is_measured(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = command("profile-device", "list", "--json").document
    plan = ("--for-plan", str(lab))
    for words, text, code, said in (
        ((*BEST[:-2], *plan), LAB, 2, "add --frequencies best"),
        ((*BEST, *plan), LAB.replace('"board"', '"other"'), 2, "knows no 'board'"),
        ((*BEST, *plan), LAB.replace('"gpu"', '"nobody"'), 1, "profile-device --name nobody"),
        ((*BEST, *plan, "--seq", "64"), LAB, 1, "has no complete profile of this task"),
        ((*BEST, *plan), LAB.replace("2e8", "2e8\ncores = 3"), 1, "comes from the database"),
        ((*BEST, *plan), LAB.replace('"all"', '"held"'), 1, "--frequencies max"),
        ((*BEST, *plan, "--memory-frequencies", "all"), LAB, 2, "--memory-frequencies"),
    ):
        lab.write_text(text)
        command(*words).failed_in_one_line(code, said)
    load = ("profile-device", *BOARD, "--load-command", "true", "--frequencies", "best", *plan)
    command(*load).failed_in_one_line(2, "plan of a model")
    assert command("profile-device", "list", "--json").document == before
    # A remedy that works: with the server's fits gone, they are made.
    lab.write_text(LAB)
    empty = lab.with_name("empty.db")
    monkeypatch.setenv("CARD_DB", str(empty))
    command(*BEST, *plan).failed_in_one_line(1, "there is no database")
    assert not empty.exists()


def test_a_server_without_fits_is_named_with_the_command_that_makes_them(lab: Path) -> None:
    words = ("--platform", "simulated:rtx-4060:b", "--name", "second", *TASK, "--frequencies", "3")
    assert command("profile-device", *words).code == 0
    lab.write_text(LAB.replace("gpu", "second"))
    refused = command(*BEST, "--for-plan", str(lab))
    refused.failed_in_one_line(1, "'second' has no fit", "run: calibrate fit --device second")
    assert command("calibrate", "fit", "--device", "second").code == 0
    assert command(*BEST, "--for-plan", str(lab), "--budget", "90s").code == 0


def test_a_dry_run_says_what_the_points_are_for(lab: Path) -> None:
    said = command(*BEST, "--for-plan", str(lab), "--dry-run")
    assert said.code == 0 and "3 operating point(s)" in said.out and "until the plan is decided" in said.out
    lab.write_text(LAB.replace('"board"', '"other"'))
    command(*BEST, "--for-plan", str(lab), "--dry-run").failed_in_one_line(2, "knows no 'board'")


def test_what_it_was_for_is_kept_in_bundles_too(lab: Path) -> None:
    cut = command(*BEST, "--for-plan", str(lab), "--json", "--budget", "150s")
    bundle = lab.with_name("all.cardlab")
    assert command("calibrate", "export", "--out", str(bundle)).code == 0
    home = lab.with_name("home.db")
    with open_store(home) as store:
        assert store.runs.summaries() == ()
    assert command("calibrate", "merge", str(bundle), "--db", str(home)).code == 0
    shown = json.loads(command("profile-device", "show", cut.document["run_id"], "--json", "--db", str(home)).out)
    assert shown["for_plan"] == cut.document["for_plan"]
