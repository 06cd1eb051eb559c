# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If this fails, the joules of a plan are not those that a server's and two boards' meters count in its run, or a run
that is killed leaves a frequency held.

Every step is a command in a process of its own, from profiles to `card validate`. The server's card is real
nvidia-ml-py on the fake library; the boards are the kernel's files for cpufreq and RAPL below a folder each, whose
energy a thread counts. The numerics are real, on this machine's CPU, and the links are shaped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

from tests.cli.run import Result
from tests.conftest import missing
from tests.profilers.devices.test_cpu import policy, put, settings, zone
from tests.split.test_commands import ended, listening, port  # noqa: F401 - a fixture

TASK = ("--model", "tiny-llama", "--batch", "4", "--seq", "64", "--dtype", "float32")
RATE_MBPS = 1
BOARDS = ("board-a", "board-b")
# What a process is told before its command: of a card that does not exist, and of a board that is files in a folder.
CARD = """
import ctypes, os, pynvml
from cardlab.profilers.devices.nvidia.device import NvidiaDevice
real = NvidiaDevice.__init__
def computes_on_the_cpu(self, *given, **named):
    real(self, *given, **named)
    self.torch_device, self.torch_key = "cpu", None
NvidiaDevice.__init__ = computes_on_the_cpu
pynvml.nvmlInit()
library = ctypes.CDLL("libnvidia-ml.so.1")
library.fake_load.argtypes = [ctypes.c_double]
# Each process has a card of its own, cold at its begin: a small load heats it little.
library.fake_load(0.25)
"""
BOARD = """
import cardlab.workflows.profile as profiling, cardlab.workflows.run_device as running
from cardlab.profilers import devices
root = sys.argv.pop(1)
def here(_name="auto", *, label=None):
    return devices.open_platform("cpu", sysfs_root=root, label=label)
profiling.open_platform = running.open_platform = here
"""
SCENARIO = '[server]\nname = "hub"\n' + "".join(
    f"[[devices]]\nname = '{name}'\nuplink_bps = {RATE_MBPS}e6\ndownlink_bps = {RATE_MBPS}e6\n"
    "transmit_power_w = 0.0\nreceive_power_w = 0.0\n"
    for name in BOARDS
)


def watts(khz: float) -> float:
    return 4.0 + 2.0 * (khz / 1e6) ** 3


class Fleet:
    """A made-up server and two boards, and the processes that run on them."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.folder, self._library = folder, library
        self.roots = {name: folder / name for name in BOARDS}
        self.files = {name: policy(root) for name, root in self.roots.items()}
        for number, root in enumerate(self.roots.values()):
            zone(root, "intel-rapl:0", "package-0")
            put(root / "etc/machine-id", f"{number + 1:032x}")
        self.started: list[subprocess.Popen[str]] = []
        self._over = threading.Event()
        self._counting = threading.Thread(target=self._count)
        self._counting.start()

    def end(self) -> None:
        """Stop everything that still goes on, before the folders go."""
        for process in self.started:
            process.kill()
            process.communicate()
        self._over.set()
        self._counting.join()

    def start(self, place: str, tool: str, *words: str) -> subprocess.Popen[str]:
        """A command on the hub or a board."""
        before, own = (CARD, ()) if place == "hub" else (BOARD, (str(self.roots[place]),))
        app = {"card": "card_app", "profile-device": "profile_app", "calibrate": "calibrate_app"}[tool]
        code = f"import sys\n{before}\nfrom cardlab.cli import apps\nfrom cardlab.cli.main import run\n"
        code += f"sys.exit(run(apps.{app}, {tool!r}, sys.argv[1:]))"
        process = subprocess.Popen(
            [sys.executable, "-c", code, *own, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={
                **os.environ,
                "LD_LIBRARY_PATH": str(self._library.parent),
                "FAKE_NVML_WALL": "1",
                "FAKE_NVML_STATE": str(self.folder / "locks"),
                "XDG_STATE_HOME": str(self.folder / f"state-{place}"),
                "OMP_NUM_THREADS": "1",
            },
        )
        self.started.append(process)
        return process

    def done(self, place: str, tool: str, *words: str) -> Result:
        """The same, at its end and without an error."""
        result = ended(self.start(place, tool, *words), 300.0)
        assert result.code == 0, (words, result.err)
        return result

    def locked_mhz(self) -> int:
        """At which the card is held."""
        found = self.folder / "locks"
        return int(found.read_text().split()[0]) if found.exists() else 0

    def _count(self) -> None:
        energies, then = dict.fromkeys(self.roots, 60e6), time.monotonic()
        while not self._over.wait(0.02):
            now = time.monotonic()
            for name, root in self.roots.items():
                speed = (self.files[name] / "scaling_setspeed").read_text().strip()
                khz = float(speed) if speed.isdigit() else 1_800_000.0
                energies[name] += watts(khz) * (now - then) * 1e6
                counter = root / "sys/class/powercap/intel-rapl:0/energy_uj"
                for file, value in ((counter, energies[name]), (self.files[name] / "scaling_cur_freq", khz)):
                    # The reader must never find a file empty, as it never finds the kernel's.
                    draft = file.with_suffix(".new")
                    draft.write_text(f"{int(value)}\n")
                    draft.replace(file)
            then = now


def until(true, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.accept
@pytest.mark.alone
def test_joules_of_every_party_are_those_of_the_plan(tmp_path: Path, fake_nvml_library: Path, port: int) -> None:  # noqa: F811
    if os.geteuid() != 0:
        missing("the card's clocks are locked by root here")
    fleet = Fleet(tmp_path, fake_nvml_library)
    try:
        joules(fleet, port)
    finally:
        fleet.end()


def joules(fleet: Fleet, port: int) -> None:  # noqa: F811
    found = {name: settings(base) for name, base in fleet.files.items()}
    measure = (*TASK, "--no-whole-step", "--repeats", "5")
    clocks = ("--frequencies", "1200MHz,2100MHz")
    fleet.done("hub", "profile-device", "--platform", "nvidia", "--name", "hub", *measure, *clocks)
    for name in BOARDS:
        fleet.done(
            name, "profile-device", "--platform", "cpu", "--name", name, *measure, "--frequencies", "1500MHz,3000MHz"
        )
    fleet.done("hub", "calibrate", "fit")
    (fleet.folder / "lab.toml").write_text(SCENARIO)
    counted = ("--from-db", "--scenario", "lab.toml", "--energy", "round", "--device-energy", "round", "--json")
    asked = ("--device-frequencies", "all", "--device-weight", "1", "--local-epochs", "4", "--wire-dtype", "float32")
    made = fleet.done("hub", "card", "plan", *counted, *asked).document
    chosen = {d["device"]: d["device_frequency_hz"] for d in made["rounds"][0]["devices"]}
    assert chosen == dict.fromkeys(BOARDS, 1.5e9)
    where, link = f"127.0.0.1:{port}", f"{RATE_MBPS}mbit"

    def begin(rounds: int, out: str) -> list[subprocess.Popen[str]]:
        serve = ("run", "server", "--platform", "nvidia", "--name", "hub", "--plan", made["plan_id"], "--bind", where)
        server = fleet.start("hub", "card", *serve, "--rounds", str(rounds), "--dtype", "float32", "--out", out)
        listening(port)
        join = ("run", "device", "--server", where, "--dtype", "float32", "--link", link)
        return [server, *(fleet.start(name, "card", *join, "--name", name) for name in BOARDS)]

    results = [ended(process, 300.0) for process in begin(4, "run")]
    assert [result.code for result in results] == [0, 0, 0], [result.err for result in results]
    checked = fleet.done("hub", "card", "validate", "--json").document
    for check in checked["energies"]:
        print(
            f"{check['party']} in a round of {check['device']}: predicted {check['predicted_j']:.2f} J, observed"
            f" {check['observed_j']:.2f} J, {check['error']:+.1%}; read {check['frequency_hz']:.4g} Hz"
        )
    assert {(check["party"], check["device"]) for check in checked["energies"]} == {
        (party, name) for party in ("server", "device") for name in BOARDS
    }
    for check in checked["energies"]:
        assert abs(check["error"]) <= 0.03
        assert check["frequency_hz"] == check["planned_hz"]
    assert not [note for note in checked["notes"] if "Hz" in note], checked["notes"]
    # Everything is as it was found, and so it is where a run is ended in its midst.
    assert {name: settings(base) for name, base in fleet.files.items()} == found and fleet.locked_mhz() == 0
    server, *boards = begin(400, "other")
    until(lambda: fleet.locked_mhz() and any(settings(base)[0] == "userspace" for base in fleet.files.values()))
    held = next(name for name, base in fleet.files.items() if settings(base)[0] == "userspace")
    killed = boards[BOARDS.index(held)]
    killed.send_signal(signal.SIGKILL)
    until(lambda: settings(fleet.files[BOARDS[1 - BOARDS.index(held)]])[0] == "userspace")
    for process in (server, *(board for board in boards if board is not killed)):
        process.send_signal(signal.SIGINT)
    for process in (server, *boards):
        process.communicate(timeout=60.0)
    assert fleet.locked_mhz() == 0 and settings(fleet.files[held])[0] == "userspace"
    fleet.done(held, "profile-device", "restore")
    assert {name: settings(base) for name, base in fleet.files.items()} == found
