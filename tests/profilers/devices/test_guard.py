"""Frequencies go back, however the process ends; the next one is told when they could not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cardlab.core.errors import DeviceBusyError, DeviceError
from cardlab.profilers.devices import open_platform
from cardlab.profilers.devices.guard import FrequencyGuard, journals


class Register:
    """A frequency that is a value in memory."""

    def __init__(self) -> None:
        self.locked_hz: float | None = None
        self.log: list[str] = []

    def saved_state(self) -> Mapping[str, Any]:
        return {"locked_hz": self.locked_hz}

    def apply(self, frequency_hz: float, memory_hz: float | None) -> None:
        self.log.append(f"apply {frequency_hz:g}")
        self.locked_hz = frequency_hz

    def restore(self, saved: Mapping[str, Any]) -> None:
        self.log.append("restore")
        self.locked_hz = saved["locked_hz"]


def test_the_journal_is_on_disk_before_the_first_write(tmp_path: Path) -> None:
    class Watching(Register):
        def apply(self, frequency_hz: float, memory_hz: float | None) -> None:
            [journal] = journals(tmp_path)
            assert journal.saved == {"locked_hz": None}
            super().apply(frequency_hz, memory_hz)

    control = Watching()
    with FrequencyGuard("x:1", "x", control, tmp_path).locked(1e9):
        assert control.locked_hz == 1e9
    assert control.log == ["apply 1e+09", "restore"]
    assert journals(tmp_path) == ()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_frequencies_go_back_when_the_block_raises(tmp_path: Path, error: type[BaseException]) -> None:
    control = Register()
    with pytest.raises(error), FrequencyGuard("x:1", "x", control, tmp_path).locked(1e9):
        raise error
    assert control.locked_hz is None
    assert journals(tmp_path) == ()


def test_frequencies_go_back_when_setting_them_fails_half_way(tmp_path: Path) -> None:
    class Failing(Register):
        def apply(self, frequency_hz: float, memory_hz: float | None) -> None:
            super().apply(frequency_hz, memory_hz)
            raise DeviceError("the memory frequency cannot be set", remedy="leave it")

    control = Failing()
    with pytest.raises(DeviceError), FrequencyGuard("x:1", "x", control, tmp_path).locked(1e9):
        pytest.fail("the block must not run")
    assert control.locked_hz is None


def test_two_processes_cannot_hold_one_device(tmp_path: Path) -> None:
    with FrequencyGuard("x:1", "x", Register(), tmp_path).locked(1e9):
        with pytest.raises(DeviceBusyError), FrequencyGuard("x:1", "x", Register(), tmp_path).locked(2e9):
            pytest.fail("the second must not get it")
        [journal] = journals(tmp_path)
        assert not journal.abandoned
        with FrequencyGuard("x:2", "x", Register(), tmp_path).locked(2e9):
            pass


def test_a_leftover_is_refused_then_restored(tmp_path: Path) -> None:
    control = Register()
    guard = FrequencyGuard("x:1", "x", control, tmp_path)
    with pytest.raises(RuntimeError), guard.locked(1e9):
        # What SIGKILL leaves: the journal stays and nothing is restored.
        [journal] = journals(tmp_path)
        kept = journal.path.read_text()
        raise RuntimeError
    control.locked_hz = 1e9
    journal.path.write_text(kept)
    assert journals(tmp_path)[0].abandoned
    with pytest.raises(DeviceError, match="profile-device restore"), guard.locked(2e9):
        pytest.fail("a leftover must be restored first")
    assert guard.restore_leftover()
    assert control.locked_hz is None
    assert not guard.restore_leftover()


HOLD = """
import sys, time
from cardlab.profilers.devices import open_platform
device = open_platform("simulated:rtx-4060-ti")
with device.locked(device.frequencies()[40]):
    print("held", flush=True)
    {body}
"""
BODIES = {
    "exit": ("pass", None),
    "exception": ("raise ValueError", None),
    "SIGINT": ("time.sleep(60)", signal.SIGINT),
    "SIGTERM": ("time.sleep(60)", signal.SIGTERM),
}


def _locked_hz(state: Path) -> float | None:
    [register] = (state / "cardlab" / "simulated").glob("*.json")
    value = json.loads(register.read_text())["locked_hz"]
    return None if value is None else float(value)


def hold_and_end(body: str, end: signal.Signals | None, state: Path) -> None:
    """A process locks a simulated card and ends in the given way."""
    environment = {**os.environ, "XDG_STATE_HOME": str(state)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(body=body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    if end is not None:
        assert _locked_hz(state) is not None
        time.sleep(0.01)
        process.send_signal(end)
    process.wait(timeout=20)


@pytest.mark.parametrize("way", BODIES)
def test_frequencies_are_back_after_every_end_but_kill(tmp_path: Path, way: str) -> None:
    body, end = BODIES[way]
    for _ in range(2):
        hold_and_end(body, end, tmp_path)
        assert _locked_hz(tmp_path) is None
        assert not list((tmp_path / "cardlab" / "clocks").glob("*.json"))


@pytest.mark.accept
@pytest.mark.parametrize("way", BODIES)
def test_frequencies_are_back_in_100_of_100(tmp_path: Path, way: str) -> None:
    body, end = BODIES[way]
    for _ in range(100):
        hold_and_end(body, end, tmp_path)
        assert _locked_hz(tmp_path) is None
    print(f"frequencies restored after {way}: 100 of 100")


def test_after_kill_the_frequency_stays_locked_until_restore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.cli.run import command

    hold_and_end("time.sleep(60)", signal.SIGKILL, tmp_path)
    assert _locked_hz(tmp_path) is not None
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    result = command("profile-device", "restore", "--json")
    assert result.code == 0 and result.document["restored"] == ["simulated:rtx-4060-ti:rtx-4060-ti"]
    assert _locked_hz(tmp_path) is None
    assert command("profile-device", "restore").out == "no frequency was left locked\n"
    device = open_platform("simulated:rtx-4060-ti")
    with device.locked(device.frequencies()[3]):
        assert device.state().frequency_hz == device.frequencies()[3]
