# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a device runs at another frequency than planned and nobody hears of it, its joules are wrong or lost,
or its frequency stays locked when the run is over.

The boards are the kernel's files for cpufreq and RAPL below a folder; a thread counts the energy of the frequency that
stands in them.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

from cardlab.core.records.training import DeviceReading
from cardlab.profilers.devices import open_platform
from cardlab.split.frequency import OwnReadings
from cardlab.split.recording import round_record
from tests.profilers.devices.test_cpu import policy, settings, zone
from tests.split.models import small_task
from tests.split.processes import Trial


def watts(khz: float) -> float:
    """What a board draws at a frequency."""
    return 4.0 + 6.0 * (khz / 1e6) ** 2


def board(root: Path) -> Path:
    zone(root, "intel-rapl:0", "package-0")
    return policy(root)


def power(root: Path) -> None:
    """Count the energy of the frequency in force, as long as this process lives."""
    base = root / "sys/devices/system/cpu/cpufreq/policy0"
    counter = root / "sys/class/powercap/intel-rapl:0/energy_uj"

    def count() -> None:
        energy_uj, then = 60e6, time.monotonic()
        while True:
            time.sleep(0.002)
            now = time.monotonic()
            speed = (base / "scaling_setspeed").read_text().strip()
            khz = float(speed) if speed.isdigit() else 1_800_000.0
            energy_uj += watts(khz) * (now - then) * 1e6
            then = now
            if (root / "gone").exists():
                counter.unlink(missing_ok=True)
                return
            for file, value in ((counter, energy_uj), (base / "scaling_cur_freq", khz)):
                # The reader must never find a file empty, as it never finds the kernel's.
                draft = file.with_suffix(".new")
                draft.write_text(f"{int(value)}\n")
                draft.replace(file)

    threading.Thread(target=count, daemon=True).start()


def started(trial: Trial, name: str, root: Path, **more) -> int:
    def before(_transport: object) -> None:
        os.environ["XDG_STATE_HOME"] = str(root / "state")
        power(root)

    return trial.device(name, board=root, before=before, **more)


def readings(trial: Trial, name: str) -> list[DeviceReading]:
    found = [turn.device_reading for turn in trial.journal().turns if turn.device == name]
    assert all(reading is not None for reading in found)
    return [reading for reading in found if reading is not None]


def test_a_device_holds_what_was_planned_and_says_what_it_drew(tmp_path: Path) -> None:
    task = small_task(tmp_path, batch=8, sequence=96)
    roots = {name: tmp_path / name for name in "ab"}
    files = {name: board(root) for name, root in roots.items()}
    found = {name: settings(base) for name, base in files.items()}
    holds = {"a": [1.2e9, 2.4e9], "b": [3.0e9]}
    trial = Trial(tmp_path, task, {"a": [1], "b": [3]}, rounds=2, epochs=25, holds=holds, silence_s=30.0)
    try:
        children = [trial.server(), *(started(trial, name, roots[name]) for name in "ab")]
        # While the other has its turn a device idles, and nothing is held there.
        trial.until(lambda: settings(files["b"])[0] == "userspace" and settings(files["a"]) == found["a"])
        assert trial.journal().closed < 2
        assert [trial.wait(child) for child in children] == [0, 0, 0], trial.log("server")
    finally:
        trial.end()
    for name in "ab":
        for number, reading in enumerate(readings(trial, name)):
            asked = holds[name][number % len(holds[name])]
            assert reading.held_hz == asked and reading.refusal is None
            assert reading.frequency_hz == pytest.approx(asked, rel=0.01)
            assert reading.power_w == pytest.approx(watts(asked / 1e3), rel=0.03)
        # As it was found, governor and limits.
        assert settings(files[name]) == found[name]
    turn = trial.journal().turns[0]
    own = turn.device_reading
    assert own is not None and own.energy_j is not None and own.power_w is not None
    # Over its own round: what the server counts from its first act to the adapters' return, but for the way of these.
    assert own.energy_j / own.power_w == pytest.approx(turn.elapsed_s, rel=0.1)
    stored = round_record(trial.journal().settings, turn)
    assert stored.device_reading == own


def test_a_device_lets_its_frequency_go_while_others_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans count idling there, which costs less than waiting with the frequency held."""
    # Rounds that follow each other keep it; what is asked for anew replaces it.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    said: list[str] = []
    files = board(tmp_path)
    found = settings(files)
    platform = open_platform("cpu", sysfs_root=tmp_path)
    readings = OwnReadings(platform, said.append)
    for asked_hz, held_hz in ((1.2e9, 1.2e9), (2.3985e9, 2.4e9), (1.25e9, 1.2e9)):
        with readings.round(asked_hz) as watched:
            assert settings(files)[0] == "userspace"
        assert settings(files)[0] == "userspace"
        readings.rest()
        assert settings(files) == found
        assert watched.reading.held_hz == held_hz and (watched.reading.refusal is None) == (asked_hz == held_hz)
    for _ in range(2):
        with readings.round(1.25e9) as watched:
            pass
    # Said once a frequency.
    assert watched.reading.held_hz == 1.2e9 and len(said) == 2
    readings.rest()
    assert settings(files) == found
    platform.close()


def test_a_killed_device_leaves_a_frequency_that_restore_puts_back(tmp_path: Path) -> None:
    """Ctrl-C puts it back itself; after SIGKILL the journal of the guard does."""
    from cardlab.profilers.measure.session import restore

    task, root = small_task(tmp_path), tmp_path / "a"
    files = board(root)
    found = settings(files)
    trial = Trial(tmp_path, task, {"a": [1]}, rounds=400, epochs=20, holds={"a": [1.2e9]}, silence_s=2.0)
    try:
        trial.server()
        for sign in (signal.SIGINT, signal.SIGKILL):
            child = started(trial, "a", root)
            trial.until(lambda: settings(files)[0] == "userspace")
            os.kill(child, sign)
            trial.wait(child)
            if sign == signal.SIGINT:
                assert settings(files) == found
    finally:
        trial.end()
    assert settings(files)[0] == "userspace"
    state = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(root / "state")
    try:
        platform = open_platform("cpu", sysfs_root=root)
        assert platform.guard is not None and restore(platform)
        platform.close()
    finally:
        if state is None:
            del os.environ["XDG_STATE_HOME"]
        else:
            os.environ["XDG_STATE_HOME"] = state
    assert settings(files) == found


def test_a_frequency_that_the_board_does_not_offer_falls_back_to_the_nearest_below(tmp_path: Path) -> None:
    """As where a power mode caps it: the run goes on at what can be held, and says so once for each frequency."""
    task, root = small_task(tmp_path), tmp_path / "a"
    files = board(root)
    found = settings(files)
    trial = Trial(tmp_path, task, {"a": [1]}, rounds=4, holds={"a": [3.7e9, 1.2e9]}, silence_s=30.0)
    try:
        children = [trial.server(), started(trial, "a", root)]
        assert [trial.wait(child) for child in children] == [0, 0], trial.log("server")
    finally:
        trial.end()
    assert [reading.held_hz for reading in readings(trial, "a")] == [3.2e9, 1.2e9, 3.2e9, 1.2e9]
    said = "does not offer 3700 MHz; it holds 3200 MHz instead"
    for reading in readings(trial, "a")[::2]:
        assert reading.refusal is not None and said in reading.refusal
    assert trial.log("a").count(said) == 1 and settings(files) == found


def test_a_rail_that_is_lost_in_a_round_is_named_and_its_joules_are_not_guessed(tmp_path: Path) -> None:
    task, root = small_task(tmp_path, batch=8, sequence=96), tmp_path / "a"
    board(root)
    counter = root / "sys/class/powercap/intel-rapl:0/energy_uj"

    def lost(_transport: object, half: Any) -> None:
        forward, calls = half.forward, list[None]()

        def spoiled(*given: Any) -> Any:
            calls.append(None)
            if len(calls) == 70:
                # What the kernel says of a counter that may no longer be read.
                (root / "gone").touch()
            return forward(*given)

        half.forward = spoiled

    trial = Trial(tmp_path, task, {"a": [2]}, rounds=2, epochs=60, silence_s=30.0)
    try:
        children = [trial.server(), started(trial, "a", root, doom=lost)]
        assert [trial.wait(child) for child in children] == [0, 0], trial.log("server")
    finally:
        trial.end()
    first, second = readings(trial, "a")
    assert first.power_w is not None and first.energy_j is not None
    assert second.power_w is None and second.energy_j is None
    assert trial.log("a").count("the energy of this device is not known") == 1
    assert not counter.exists()


def test_a_board_that_cannot_hold_it_says_so_and_trains_all_the_same(tmp_path: Path) -> None:
    """Neither cpufreq nor a meter: named once, N/A and never 0."""
    task, root = small_task(tmp_path), tmp_path / "bare"
    root.mkdir()
    trial = Trial(tmp_path, task, {"a": [1]}, rounds=2, holds={"a": [1.2e9]})
    try:
        children = [trial.server(), trial.device("a", board=root)]
        assert [trial.wait(child) for child in children] == [0, 0], trial.log("server")
    finally:
        trial.end()
    assert trial.log("a").count("the frequency of this device is not the planned one") == 1
    for reading in readings(trial, "a"):
        assert reading.refusal and reading.held_hz is None and reading.power_w is None and reading.energy_j is None
    assert replace(readings(trial, "a")[0], refusal=None) == DeviceReading(
        cpu_hz=None, frequency_hz=None, throttled=readings(trial, "a")[0].throttled
    )
