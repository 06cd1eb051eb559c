"""Frequencies and governors of a board go back however the process ends, and by `restore` after SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from cardlab.profilers.devices import open_platform
from tests.conftest import ROOT
from tests.fakes.jetson.boards import BOARDS
from tests.fakes.jetson.tree import build
from tests.profilers.devices.test_jetson_frequency import settings

pytestmark = pytest.mark.once

HOLD = """
import sys, time
sys.path.insert(0, {repository!r})
from pathlib import Path
from cardlab.profilers.devices.jetson.device import JetsonDevice
from cardlab.profilers.measure.window import measure
from tests.fakes.jetson.kernel import FakeKernel
root, folder = Path({root!r}), Path({folder!r})
board = JetsonDevice(root, writer=FakeKernel(root, folder, {semantics!r}))
with board.locked(board.frequencies()[2]):
    print("held", flush=True)
    {body}
"""
ENDS = {
    "exit": ("pass", None),
    "exception": ("raise ValueError", None),
    "SIGINT": ("time.sleep(60)", signal.SIGINT),
    "SIGTERM": ("time.sleep(60)", signal.SIGTERM),
    "SIGTERM while measuring": ("measure(board, lambda: time.sleep(0.01), 60.0)", signal.SIGTERM),
}


class Held:
    """A board whose frequencies another process holds and then leaves in some way."""

    def __init__(self, name: str, folder: Path) -> None:
        self.root = folder / "board"
        self.name = name
        self.gpu = build(BOARDS[name], self.root)
        self.environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
        self.before = settings(self.root)

    def hold_and_end(self, body: str, end: signal.Signals | None) -> None:
        code = HOLD.format(
            repository=str(ROOT),
            root=str(self.root),
            folder=str(self.gpu),
            body=body,
            semantics=BOARDS[self.name].kernel,
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=self.environment
        )
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        if end is not None:
            assert settings(self.root) != self.before
            time.sleep(0.01)
            process.send_signal(end)
        process.wait(timeout=30)
        process.stdout.close()


@pytest.mark.parametrize("way", ENDS)
@pytest.mark.parametrize("name", ["orin-nx-16", "nano"])
def test_everything_is_back(name: str, way: str, tmp_path: Path) -> None:
    held = Held(name, tmp_path)
    held.hold_and_end(*ENDS[way])
    assert settings(held.root) == held.before
    assert not list((tmp_path / "state/cardlab/clocks").glob("*.json"))


@pytest.mark.accept
@pytest.mark.parametrize("way", ENDS)
def test_everything_is_back_in_100_of_100(way: str, tmp_path: Path) -> None:
    held = Held("orin-nx-16", tmp_path)
    for _ in range(100):
        held.hold_and_end(*ENDS[way])
        assert settings(held.root) == held.before
    print(f"Jetson's frequencies, memory frequency and governors restored after {way}: 100 of 100")


@pytest.mark.parametrize("name", ["orin-nx-16", "nano"])
def test_after_kill_restore_puts_everything_back(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the product's own writer; the fake tree stands in for / where the command opens the platform."""
    import cardlab.workflows.doctor as doctor
    import cardlab.workflows.profile as profiling
    from tests.cli.run import command

    held = Held(name, tmp_path)
    held.hold_and_end("time.sleep(60)", signal.SIGKILL)
    assert settings(held.root) != held.before
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for module in (profiling, doctor):
        monkeypatch.setattr(module, "open_platform", partial(open_platform, sysfs_root=held.root))
    probes = {p["name"]: p for p in command("profile-device", "doctor", "--json").document["probes"]}
    assert probes["frequency left locked"]["remedy"] == "profile-device restore"
    result = command("profile-device", "restore", "--json")
    assert result.code == 0 and [key.split(":")[0] for key in result.document["restored"]] == ["jetson"]
    assert settings(held.root) == held.before
    assert command("profile-device", "restore").out == "no frequency was left locked\n"
