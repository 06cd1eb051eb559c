"""If these fail, a board that cannot run cardlab is measured wrongly, left at a locked frequency, or not at all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cardlab.core.identity import content_hash
from cardlab.db import open_store
from cardlab.db.bundle import export_bundle, merge_bundle
from cardlab.profilers.agent import board as agent_board
from cardlab.profilers.agent import bundle as agent_bundle
from cardlab.profilers.agent.main import main as agent_main
from cardlab.profilers.agent.pack import pack_agent
from cardlab.profilers.board.errors import BoardError
from cardlab.profilers.board.files import write_text
from cardlab.profilers.board.identity import host_key
from cardlab.profilers.board.ina3221 import SOURCE
from cardlab.profilers.board.rails import scope
from cardlab.profilers.devices import open_platform
from tests.conftest import missing
from tests.fakes.agent_board import make_board
from tests.fakes.jetson.boards import BOARDS
from tests.fakes.jetson.tree import build
from tests.profilers.board.pythons import old_python

pytestmark = pytest.mark.once

SLEEP = "sleep 0.05"
FAST = ("--repeats", 3, "--window", 0.5)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    file = tmp_path / "agent.pyz"
    pack_agent(file, None)
    return file


def run_agent(python: str, file: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [python, str(file), *(str(word) for word in words)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)


def measure_load(python: str, file: Path, tmp_path: Path, *more: object) -> subprocess.CompletedProcess[str]:
    places = ("--root", tmp_path / "root", "--state", tmp_path / "state", "--out", tmp_path / "board.zip")
    return run_agent(python, file, "run", *places, "--load-command", SLEEP, *FAST, *more)


def limits(root: Path) -> tuple[int, int]:
    node = next((root / "sys/class/devfreq").iterdir())
    return int((node / "min_freq").read_text()), int((node / "max_freq").read_text())


@pytest.mark.parametrize("python", [sys.executable, pytest.param("3.6", marks=pytest.mark.once)])
def test_board_without_torch_is_measured_and_merged(python: str, packed: Path, tmp_path: Path) -> None:
    if python == "3.6":
        found = old_python()
        if found is None:
            missing("no Python 3.6 (pyenv install 3.6)")
        python = str(found)
    make_board(tmp_path / "root", "orin-nx")
    done = measure_load(python, packed, tmp_path, "--frequencies", "max")
    assert done.returncode == 0, done.stderr
    store = open_store(tmp_path / "x.db")
    merge_bundle(store, tmp_path / "board.zip")
    profile = store.runs.latest()
    assert profile.complete
    assert profile.run.device.platform == "jetson"
    assert profile.run.device.key == host_key("jetson", tmp_path / "root").key, "the board keeps its identity"
    point = profile.points[0]
    assert point.requested_hz == 918e6
    assert point.operating is not None and point.operating.frequency_hz == 918e6
    assert not point.operating.throttled
    power = {m.rail: m for m in point.measurements if m.quantity == "power"}
    assert set(power) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}
    assert [m.rail for m in power.values() if m.meter and m.meter.total] == ["VDD_IN"]
    assert power["VDD_IN"].estimate.value == pytest.approx(5.0 * 1.6)
    assert power["VDD_IN"].meter.scope == scope("VDD_IN") and power["VDD_IN"].meter.source == SOURCE
    latency = point.find("latency", "load", "run")
    assert latency.estimate.value > 0.05 and latency.repeats == 1 and latency.clean == 3
    own = open_platform("jetson", sysfs_root=tmp_path / "root")
    assert profile.run.offered_hz == own.frequencies() and own.frequencies()[0] == 306e6
    assert profile.run.memory_budget_bytes == own.memory_available_bytes() and profile.run.sitting
    assert profile.run.device.cores == own.identity.cores == 1024
    assert profile.run.device.frequency_max_hz == own.identity.frequency_max_hz
    assert limits(tmp_path / "root") == (306_000_000, 918_000_000)


def test_power_mode_caps_what_is_offered_and_is_named(packed: Path, tmp_path: Path) -> None:
    build(BOARDS["agx-orin-64-30w"], tmp_path / "root")
    done = measure_load(sys.executable, packed, tmp_path, "--frequencies", "max")
    assert done.returncode == 0, done.stderr
    own = open_platform("jetson", sysfs_root=tmp_path / "root")
    with open_store(tmp_path / "x.db") as store:
        merge_bundle(store, tmp_path / "board.zip")
        profile = store.runs.latest()
    assert profile.run.offered_hz == own.frequencies() and profile.points[0].requested_hz == 612e6
    operating, state = profile.points[0].operating, own.state()
    assert operating.power_mode == state.power_mode == "MODE_30W"
    assert operating.cores_active == state.cores_active == 1024
    assert operating.temperature_c == state.temperature_c
    total = profile.points[0].total_power()
    [rail] = [rail for rail in own.meter.rails if rail.total]
    assert (total.rail, total.meter.scope) == (rail.name, rail.scope) and total.meter.quantisation_w > 0
    own.close()


def test_total_of_agx_orin_counts_no_rail_twice(tmp_path: Path) -> None:
    make_board(tmp_path, "agx-orin")
    board = agent_board.Board(str(tmp_path), str(tmp_path / "state"))
    assert board.total()[1] == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
    assert "VDDQ_VDD2_1V8AO" in [rail.name for rail in board.rails]


def test_rails_of_the_old_driver_are_read(tmp_path: Path) -> None:
    make_board(tmp_path, "nano")
    board = agent_board.Board(str(tmp_path), str(tmp_path / "state"))
    assert board.total() == ("POM_5V_IN", ("POM_5V_IN",))
    assert [rail.power_w() for rail in board.rails] == [2.5, 1.0, 0.5]


def test_frequency_that_a_killed_run_left_is_restored(tmp_path: Path) -> None:
    make_board(tmp_path / "root", "orin-nx")
    board = agent_board.Board(str(tmp_path / "root"), str(tmp_path / "state"))
    board.lock(408e6)
    assert limits(tmp_path / "root") == (408_000_000, 408_000_000)
    again = agent_board.Board(str(tmp_path / "root"), str(tmp_path / "state"))
    assert again.restore()
    assert limits(tmp_path / "root") == (306_000_000, 918_000_000)
    assert not again.restore(), "nothing is left to restore"


def test_frequency_that_the_board_does_not_take_is_an_error(tmp_path: Path, monkeypatch) -> None:
    make_board(tmp_path, "orin-nx")
    board = agent_board.Board(str(tmp_path), str(tmp_path / "state"))
    monkeypatch.setattr(agent_board, "write_text", lambda path, text: None)
    with pytest.raises(BoardError, match="did not take 408 MHz.*nvpmodel"):
        board.lock(408e6)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_run_restores_the_frequency_and_resumes(how, packed: Path, tmp_path: Path) -> None:
    make_board(tmp_path / "root", "orin-nx")
    places = ["--root", tmp_path / "root", "--state", tmp_path / "state", "--out", tmp_path / "board.zip"]
    words = [sys.executable, packed, "run", *places, "--load-command", SLEEP, *FAST, "--frequencies", 2]
    running = subprocess.Popen([str(word) for word in words], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (tmp_path / "board.zip").exists():
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.05)
    running.send_signal(how)
    assert running.wait(30) == 130
    assert limits(tmp_path / "root") == (306_000_000, 918_000_000)
    before = read_rows(tmp_path / "board.zip", "point")
    done = measure_load(sys.executable, packed, tmp_path, "--frequencies", 2, "--resume")
    assert done.returncode == 0, done.stderr
    assert "going on with run" in done.stderr
    assert len(read_rows(tmp_path / "board.zip", "run")) == 1
    assert [row["uid"] for row in before] == [row["uid"] for row in read_rows(tmp_path / "board.zip", "point")][:1]
    store = open_store(tmp_path / "x.db")
    merge_bundle(store, tmp_path / "board.zip")
    assert store.runs.latest().complete


@pytest.mark.parametrize("write", [1, 2, 3, 4])
def test_a_signal_between_two_writes_leaves_nothing_locked(
    write: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locking and releasing take two writes each, and a signal may come at any of them."""
    make_board(tmp_path / "root", "orin-nx")
    written, really = [0], write_text

    def interrupted(path: Path, text: str) -> None:
        written[0] += 1
        if written[0] == write:
            # As it is between emptying a plain file and filling it.
            path.write_text("")
            raise KeyboardInterrupt
        really(path, text)

    monkeypatch.setattr(agent_board, "write_text", interrupted)
    places = ["--root", tmp_path / "root", "--state", tmp_path / "state", "--out", tmp_path / "board.zip"]
    words = ["run", *places, "--load-command", SLEEP, *FAST, "--frequencies", 2]
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert agent_main([str(word) for word in words]) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert written[0] > write and limits(tmp_path / "root") == (306_000_000, 918_000_000)
    assert not any((tmp_path / "state").glob("*clocks*"))


def read_rows(path: Path, table: str) -> list[dict[str, object]]:
    bundle = agent_bundle.Bundle(str(path))
    bundle.read()
    return bundle.tables[table]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run"], "packed without a model"),
        (["run", "--load-command", "no-such-program"], "cannot start 'no-such-program'"),
        (["run", "--load-command", "false"], "ended with exit code 1"),
        (["run", "--load-command", "true", "--out", "/no/such/folder/x.zip"], "cannot be written"),
        (["run", "--load-command", "true", "--frequencies", "fast"], "write all, max or a number"),
    ],
)
def test_faults_are_one_line_with_the_remedy(words, said, packed: Path, tmp_path: Path) -> None:
    make_board(tmp_path / "root", "bare-orin-nx")
    out = [] if "--out" in words else ["--out", tmp_path / "x.zip"]
    done = run_agent(sys.executable, packed, *words, *out, "--root", tmp_path / "root", "--state", tmp_path / "s")
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_damaged_bundle_is_not_gone_on_with(packed: Path, tmp_path: Path) -> None:
    make_board(tmp_path / "root", "bare-orin-nx")
    (tmp_path / "board.zip").write_bytes(b"PK but no zip")
    done = measure_load(sys.executable, packed, tmp_path, "--resume")
    assert done.returncode == 1
    assert "is no bundle to go on with" in done.stderr
    assert (tmp_path / "board.zip").read_bytes() == b"PK but no zip", "nothing was overwritten"


def test_agent_and_cardlab_name_the_same_things_alike() -> None:
    plain = {"b": [1.0, 2.5, None], "a": {"x": True, "y": "ü"}, "big": 1e18}
    assert agent_bundle.content_hash(plain) == content_hash(plain)


def test_bundle_of_the_agent_survives_a_round_through_the_database(packed: Path, tmp_path: Path) -> None:
    make_board(tmp_path / "root", "bare-orin-nx")
    assert measure_load(sys.executable, packed, tmp_path, "--readonly").returncode == 0
    store = open_store(tmp_path / "x.db")
    merge_bundle(store, tmp_path / "board.zip")
    export_bundle(store, tmp_path / "back.zip")
    again = merge_bundle(store, tmp_path / "board.zip")
    assert not again.added
    row = read_rows(tmp_path / "board.zip", "run")[0]
    assert json.loads(json.dumps(row)) == read_rows(tmp_path / "back.zip", "run")[0]
