"""A card's frequency goes back however the process ends, and by `restore` after SIGKILL; in wall-clock time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

HOLD = """
import time
from cardlab.profilers.devices.nvidia.device import NvidiaDevice
from cardlab.profilers.devices.nvidia.frequency import Rights
from cardlab.profilers.measure.window import measure
card = NvidiaDevice(rights=Rights("direct", "fake root"))
with card.locked(1_500e6):
    print("held", flush=True)
    {body}
"""
ENDS = {
    "exit": ("pass", None),
    "exception": ("raise ValueError", None),
    "SIGINT": ("time.sleep(60)", signal.SIGINT),
    "SIGTERM": ("time.sleep(60)", signal.SIGTERM),
    "SIGTERM while measuring": ("measure(card, lambda: time.sleep(0.01), 60.0)", signal.SIGTERM),
}


def surroundings(library: Path, folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(library.parent),
        "FAKE_NVML_WALL": "1",
        "FAKE_NVML_STATE": str(folder / "locks"),
        "XDG_STATE_HOME": str(folder / "state"),
    }


def hold_and_end(body: str, end: signal.Signals | None, environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(body=body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    if end is not None:
        assert locked_mhz(environment) == 1500
        time.sleep(0.01)
        process.send_signal(end)
    process.wait(timeout=20)


def locked_mhz(environment: dict[str, str]) -> int:
    return int(Path(environment["FAKE_NVML_STATE"]).read_text().split()[0])


@pytest.mark.parametrize("way", ENDS)
def test_the_frequency_is_back(fake_nvml_library: Path, tmp_path: Path, way: str) -> None:
    environment = surroundings(fake_nvml_library, tmp_path)
    hold_and_end(*ENDS[way], environment)
    assert locked_mhz(environment) == 0


@pytest.mark.accept
@pytest.mark.parametrize("way", ENDS)
def test_the_frequency_of_a_card_is_back_in_100_of_100(fake_nvml_library: Path, tmp_path: Path, way: str) -> None:
    environment = surroundings(fake_nvml_library, tmp_path)
    for _ in range(100):
        hold_and_end(*ENDS[way], environment)
        assert locked_mhz(environment) == 0
    print(f"card's frequency restored after {way}: 100 of 100")


def test_after_kill_restore_releases_it(fake_nvml_library: Path, tmp_path: Path) -> None:
    environment = surroundings(fake_nvml_library, tmp_path)
    hold_and_end("time.sleep(60)", signal.SIGKILL, environment)
    assert locked_mhz(environment) == 1500
    code = "from cardlab.cli.main import profile_device as main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "restore"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "nvidia:GPU-" in done.stdout, done
    assert locked_mhz(environment) == 0


@pytest.mark.alone
def test_monitoring_costs_little(fake_nvml_library: Path, tmp_path: Path) -> None:
    """CPU time of the recording thread while nothing else runs, as a share of one core."""
    code = """
import resource, time
from cardlab.profilers.devices.nvidia.device import NvidiaDevice
from cardlab.profilers.devices.nvidia.frequency import Rights
card = NvidiaDevice(rights=Rights("direct", "fake root"))
def cpu(): return time.process_time()
with card.meter.recording():
    time.sleep(1.0)
    start = cpu()
    time.sleep(3.0)
    recording = (cpu() - start) / 3.0
start = time.process_time()
for _ in range(100): card.state()
looking = (time.process_time() - start) / 100 * 10
print(recording, looking)
"""
    environment = surroundings(fake_nvml_library, tmp_path)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    recording, looking = map(float, done.stdout.split())
    print(f"monitoring: recording {100 * recording:.2f} % of a core, ten looks a second {100 * looking:.3f} %")
    # Ten looks a second. The recording looks ten times at each tick to time it, and costs half a per cent.
    assert looking < 0.001
    assert recording < 0.01
