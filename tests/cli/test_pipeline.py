"""The whole path - profile, fit, plan, report - as a person types it."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cardlab.card.problem.from_db import Request, gather
from cardlab.card.problem.objective import cost, ranges, table
from cardlab.card.problem.scenario import Objective
from cardlab.card.schemes.card.planning import plan
from cardlab.db import open_store
from tests.cli.run import command
from tests.conftest import surround

pytestmark = pytest.mark.torch
TINY = ("--model", "tiny-llama", "--seq", "32")
# Large enough that the simulated server is not all launch overhead.
WORK = ("--model", "tiny-llama", "--seq", "1024", "--batch", "16")
# Shorter laps, so more of them: a sweep that lasts long enough to be met in its middle.
LONG = ("--model", "tiny-llama", "--seq", "512", "--batch", "12")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a simulated server and two simulated devices, fitted."""
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        surround(patch, folder)
        db = str(folder / "cardlab.db")
        for name in ("rtx-4060-ti", "orin-nx", "orin-nano"):
            result = command("profile-device", *WORK, "--platform", f"simulated:{name}", "--db", db, "--json")
            assert result.code == 0, result.err
        assert command("calibrate", "fit", "--db", db, "--json").code == 0
    return folder / "cardlab.db"


def test_a_profile_of_this_host_has_the_keys_of_the_contract(database: Path) -> None:
    result = command("profile-device", *TINY, "--repeats", "5", "--no-whole-step", "--db", str(database), "--json")
    assert result.code == 0, result.err
    document = result.document
    assert document["schema_version"] == 1
    assert {"run_id", "device", "task", "execution", "points", "cuts", "check"} <= set(document)
    assert {"name", "key", "platform", "cores", "frequency_max_hz"} <= set(document["device"])
    assert document["task"]["layers"] == 4 and document["task"]["parameters"] == 217_664
    [point] = document["points"]
    assert [s["segment"] for s in point["segments"]] == ["embedding", "first_layer", "layer", "head"]
    layer = point["segments"][2]
    assert layer["count"] == 3 and layer["forward_s"] > 0 and layer["backward_s"] > 0
    assert layer["estimates"]["forward_s"]["provenance"] == {"origins": ["measured"], "how": "direct"}
    assert point["power_w"] is None and layer["energy_j"] is None
    assert [c["cut"] for c in document["cuts"]] == [1, 2, 3]
    assert document["check"]["whole_step_s"] is None and document["check"]["sum_of_segments_s"] > 0
    shown = command("profile-device", "show", "--db", str(database), "--json")
    assert shown.document["run_id"] == document["run_id"]
    assert "tiny-llama" in command("profile-device", "show", document["run_id"][:6], "--db", str(database)).out


def test_a_sweep_says_simulated_to_the_end(measured: Path) -> None:
    db = ("--db", str(measured))
    fits = command("calibrate", "show", *db, "--json").document
    assert {f["quantity"] for f in fits["fits"]} == {"power", "wait_power", "latency"}
    assert all(f["provenance"]["origins"] == ["simulated"] for f in fits["fits"])
    [server] = [c for c in fits["constants"] if c["device"] == "rtx-4060-ti"]
    assert server["cores"] == 4352 and server["kappa_paper_w_per_hz3"] > 0
    assert server["estimates"]["kappa_paper_w_per_hz3"]["stderr"] > 0
    assert all(isinstance(d["delta"], float) for d in server["delta"]) and server["delta"]
    made = command("card", "plan", "--from-db", "--uplink-mbps", "50", "--downlink-mbps", "100", *db, "--json")
    assert made.code == 0, made.err
    document = made.document
    assert document["provenance"]["origins"] == ["simulated"]
    assert "simulated" in document["notes"][0]
    assert any("weight" in line for line in document["assumptions"])
    for d in document["rounds"][0]["devices"]:
        assert sum(d["delay_terms"].values()) == pytest.approx(d["delay_s"])
        assert d["server_energy_j"] > 0
    out = measured.with_name("report.html")
    assert command("card", "report", *db, "--out", str(out)).code == 0
    page = out.read_text()
    assert page.count("<svg") >= 4 and "simulated" in page and document["plan_id"][:12] in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page) and "<script" not in page


@pytest.mark.parametrize("weight", [0.0, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("energy", ["busy", "above_idle", "round"])
def test_the_plan_from_the_database_is_the_best_of_a_brute_force_grid(
    measured: Path, weight: float, energy: str
) -> None:
    request = Request(
        uplink_bps=5e7, downlink_bps=1e8, energy=energy, objective=Objective(weight=weight, local_epochs=5)
    )
    with open_store(measured, create=False) as store:
        found = gather(store, request)
    problem = found.problem
    made = plan(problem)
    tables = [table(problem, m) for m in range(len(problem.devices))]
    for m, decision in enumerate(made.rounds[0].devices):
        costs = np.full((problem.cuts.size, problem.frequency_hz.size), np.inf)
        # The grid is walked by hand, one choice at a time, from the parts of the delay and the energy.
        low_d, high_d = tables[m].delay_s.min(), tables[m].delay_s.max()
        energies = np.empty_like(costs)
        delays = np.empty_like(costs)
        for c in range(problem.cuts.size):
            for f in range(problem.frequency_hz.size):
                busy = 5 * problem.server_s[c, f]
                link = 8 * (problem.up_bytes[c] / 5e7 + problem.down_bytes[c] / 1e8)
                adapters = 8 * problem.adapter_bytes[c] * (1 / 5e7 + 1 / 1e8)
                delays[c, f] = 5 * (problem.device_s[m, c] + link) + busy + adapters
                assert problem.power_w is not None and problem.wait_power_w is not None
                if energy == "busy":
                    energies[c, f] = problem.power_w[f] * busy
                elif energy == "above_idle":
                    assert problem.idle_power_w is not None
                    energies[c, f] = (problem.power_w[f] - problem.idle_power_w) * busy
                else:
                    energies[c, f] = problem.power_w[f] * busy + problem.wait_power_w[f] * (delays[c, f] - busy)
        assert delays.min() == pytest.approx(low_d) and delays.max() == pytest.approx(high_d)
        costs = weight * (delays - delays.min()) / np.ptp(delays)
        costs += (1 - weight) * (energies - energies.min()) / np.ptp(energies)
        assert decision.cost == pytest.approx(costs.min(), abs=1e-9)
        cut = int(np.flatnonzero(problem.cuts == decision.cut)[0])
        assert decision.frequency_hz is not None
        clock = int(np.argmin(np.abs(problem.frequency_hz - decision.frequency_hz)))
        assert costs[cut, clock] == pytest.approx(costs.min(), abs=1e-9)
    assert ranges(problem, tables) and cost(problem, tables[0], ranges(problem, tables)[0]).min() >= -1e-12


def test_predictions_agree_with_what_was_measured(measured: Path) -> None:
    db = ("--db", str(measured))
    run = command("profile-device", "show", "--all", *db, "--json").document["runs"]
    server = next(r for r in run if r["device_name"] == "rtx-4060-ti")
    points = command("profile-device", "show", server["uid"], *db, "--json").document["points"]
    clean = [p for p in points if not p["throttled"]]
    assert len(clean) >= 6
    for point in clean:
        mhz = str(point["frequency_hz"] / 1e6)
        result = command("calibrate", "predict", "--device", "rtx-4060-ti", "--frequency-mhz", mhz, *db, "--json")
        [power] = [p for p in result.document["predictions"] if p["quantity"] == "power"]
        assert power["value"] == pytest.approx(point["power_w"], rel=0.06)
        assert not power["extrapolated"]


def _start_sweep(db: Path, state: Path) -> subprocess.Popen[bytes]:
    code = "from cardlab.cli.main import profile_device; profile_device()"
    words = [*LONG, "--platform", "simulated:rtx-4060-ti", "--frequencies", "24", "--db", str(db)]
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "XDG_STATE_HOME": str(state)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _points_done(db: Path) -> int:
    if not db.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{db}?mode=ro", uri=True) as connection:
            query = "SELECT count(*) FROM operating_point"
            return int(connection.execute(query).fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def test_kill_in_the_middle_of_a_sweep_loses_nothing(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "killed"
    process = _start_sweep(database, state)
    deadline = time.monotonic() + 60
    while _points_done(database) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = _points_done(database)
    assert 3 <= done < 26, "the sweep must be cut short in its middle"
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    words = (*LONG, "--platform", "simulated:rtx-4060-ti", "--frequencies", "24", "--db", str(database))
    # Whatever it left locked: going on for the process that died takes over its journal.
    resumed = command("profile-device", *words, "--resume", "--json")
    assert resumed.code == 0, resumed.err
    document = resumed.document
    assert document["complete"] and len({p["index"] for p in document["points"] if p["done"]}) == 26
    assert len(command("profile-device", "show", "--all", "--db", str(database), "--json").document["runs"]) == 1
    again = command("profile-device", *words, "--resume", "--frequencies", "max", "--json")
    assert again.code == 0 and again.document["run_id"] != document["run_id"]


def test_interrupt_in_the_middle_keeps_what_was_measured(database: Path, tmp_path: Path) -> None:
    process = _start_sweep(database, tmp_path / "state")
    deadline = time.monotonic() + 60
    while _points_done(database) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert _points_done(database) >= 2
    assert not list((tmp_path / "state" / "cardlab" / "clocks").glob("*.json"))
