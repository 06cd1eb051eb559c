"""A Jetson from the command line: doctor, a sweep with its table and resume, show, capture, self-test, bad cases."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import cardlab.workflows.doctor as doctor
import cardlab.workflows.profile as profiling
import cardlab.workflows.selftest as checking
from cardlab.profilers.devices import open_platform
from cardlab.profilers.devices.jetson.device import JetsonDevice
from cardlab.profilers.measure.capture import snapshot, write_tree
from cardlab.profilers.measure.selftest import selftest
from tests.cli.run import Result, command
from tests.conftest import as_user_without_rights
from tests.fakes.jetson.boards import BOARDS
from tests.fakes.jetson.machine import LiveBoard
from tests.fakes.jetson.tree import build, put
from tests.profilers.devices.test_cpu import ROOT_ONLY

Opens = Callable[[Path], None]


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> Opens:
    """Lets the commands find a fake tree where they would look at /."""

    def at(root: Path) -> None:
        for module in (profiling, doctor, checking):
            monkeypatch.setattr(module, "open_platform", partial(open_platform, sysfs_root=root))

    return at


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LiveBoard:
    """An Orin NX in virtual time behind the commands."""
    board = LiveBoard("orin-nx-16", tmp_path / "board")
    monkeypatch.setattr(profiling, "open_platform", lambda name, label=None: board.platform(label=label))
    monkeypatch.setattr(profiling, "command_work", lambda text: board.work())
    return board


def probes(result: Result) -> dict[str, dict[str, object]]:
    return {probe["name"]: probe for probe in result.document["probes"]}


def profile(database: Path, *more: str) -> Result:
    words = ("--platform", "jetson", "--load-command", "burn", "--repeats", "3", "--db", str(database), "--json")
    return command("profile-device", *words, *more)


def test_doctor_names_board_rails_and_rights(tmp_path: Path, opens: Opens) -> None:
    build(BOARDS["agx-orin-64-30w"], tmp_path)
    opens(tmp_path)
    found = probes(command("profile-device", "doctor", "--json"))
    assert found["platform"]["state"] == "jetson"
    assert "2048 cores, 1024 switched on" in str(found["device"]["state"])
    assert found["release"]["state"] == "L4T 36.4.3, JetPack 6"
    assert found["power mode"]["state"] == "MODE_30W (id 2): GPU up to 612 MHz"
    assert "4 frequencies, 306 .. 612 MHz" in str(found["frequency control"]["state"])
    assert "total VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0" in str(found["power meter"]["state"])
    assert "64GB module" in str(found["memory"]["state"]) and found["memory frequency"]["ok"]
    assert found["throttle signs"]["state"] == "OC1 7, OC2 7, OC3 7 since boot; 2 cooling devices"


def test_a_sweep_is_stored_and_shown(live: LiveBoard, database: Path) -> None:
    document = profile(database, "--frequencies", "4", "--name", "nx").document
    assert (document["device"]["name"], document["device"]["platform"], document["device"]["cores"]) == (
        "nx",
        "jetson",
        1024,
    )
    assert len(document["points"]) == 7
    for point in document["points"]:
        assert point["frequency_hz"] == point["requested_hz"] and point["throttled"] is False
        assert point["rail"] == "VDD_IN" and set(point["rails"]) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}
        assert point["power_mode"] == "MAXN" and point["memory_hz"] == 3199e6
        assert point["power_w"] > point["wait_power_w"] > 0
    assert live.kernel.read("max_freq") == 918_000_000 and live.kernel.read("min_freq") == 306_000_000
    shown = command("profile-device", "show", "--db", str(database))
    assert shown.code == 0 and "complete" in shown.out and "nx" in shown.out
    again = command("profile-device", "show", "--db", str(database), "--json").document
    assert again["run_id"] == document["run_id"]


def test_a_sweep_that_lost_its_gpu_is_resumed(live: LiveBoard, database: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"

    def vanish() -> None:
        if live.now() > 120.0 and not kept.exists():
            shutil.move(live.folder, kept)

    live.on_step = vanish
    profile(database, "--frequencies", "4").failed_in_one_line(1, "went away")
    live.on_step = None
    shutil.move(kept, live.folder)
    assert command("profile-device", "restore").code == 0
    document = profile(database, "--frequencies", "4", "--resume").document
    assert document["complete"] and len({p["requested_hz"] for p in document["points"]}) == 5


def test_a_dry_run_says_how_long_the_averaging_takes(tmp_path: Path, opens: Opens, database: Path) -> None:
    """Half an hour for five frequencies with 512 averages; a budget bounds it."""
    seconds = {}
    for name in ("orin-nx-16", "orin-nano-8"):
        build(BOARDS[name], tmp_path / name)
        opens(tmp_path / name)
        seconds[name] = profile(database, "--dry-run").document["estimated_s"]
        words = ("--platform", "jetson", "--load-command", "burn", "--dry-run", "--budget", "10m", "--json")
        short = command("profile-device", *words).document
        assert short["estimated_s"] <= min(600.0, seconds[name]) and short["reached"] >= 1
    assert 600 < seconds["orin-nx-16"] < 1700 < seconds["orin-nano-8"] < 3600
    assert not database.exists()


def test_capture_is_read_only_and_can_be_replayed(tmp_path: Path) -> None:
    build(BOARDS["agx-orin-64"], tmp_path / "a")
    found = json.loads(json.dumps(snapshot(tmp_path / "a")["sysfs"]))
    assert not any("serial" in name for name in found) and "1421023012345" not in json.dumps(found)
    assert not any(name.endswith("/load") for name in found)
    write_tree(found, tmp_path / "b")
    first, second = JetsonDevice(tmp_path / "a"), JetsonDevice(tmp_path / "b")
    assert first.identity.details == second.identity.details and first.frequencies() == second.frequencies()
    assert first.meter is not None and second.meter is not None
    assert {r.name for r in first.meter.rails} == {r.name for r in second.meter.rails}
    assert first.state() == second.state()


def test_capture_of_a_nano(tmp_path: Path) -> None:
    build(BOARDS["nano"], tmp_path / "a")
    write_tree(snapshot(tmp_path / "a")["sysfs"], tmp_path / "b")
    device = JetsonDevice(tmp_path / "b")
    assert device.meter is not None and device.identity.cores == 128


def test_the_self_test_passes_and_fails_as_it_should(tmp_path: Path) -> None:
    live = LiveBoard("orin-nx-16", tmp_path)
    assert [check.ok for check in selftest(live.platform(), live.work())] == [True, True, True]
    live.kernel.clamp_hz = 306_000_000
    lock = selftest(live.platform(), live.work())[0]
    assert lock.ok is False and "read 306 MHz" in lock.state


def test_a_model_without_a_cuda_torch_is_refused_in_one_line(tmp_path: Path, opens: Opens) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    build(BOARDS["orin-nx-16"], tmp_path)
    opens(tmp_path)
    for words in (("--model", "tiny-llama"), ("selftest",)):
        command("profile-device", *words).failed_in_one_line(1, "CUDA", "JetPack 6")


def test_elsewhere_jetson_is_refused_in_one_line() -> None:
    if Path("/etc/nv_tegra_release").exists():
        pytest.skip("this is a Jetson")
    command("profile-device", "--platform", "jetson", "--load-command", "true").failed_in_one_line(1, "no Jetson")


@ROOT_ONLY
def test_without_rights_each_lack_has_its_remedy(tmp_path: Path) -> None:
    build(BOARDS["orin-nx-16"], tmp_path)
    for path in (tmp_path / "sys").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
    (tmp_path / "sys/kernel/debug").chmod(0o700)
    (tmp_path / "proc/device-tree/serial-number").chmod(0o444)
    put(tmp_path / "run/jtop.sock", "").chmod(0o660)

    def look() -> str:
        device = JetsonDevice(tmp_path)
        lacking = [p for p in device.capabilities() if p.ok is False]
        assert device.frequencies() == () and device.meter is not None and device.memory_hz() is None
        return " | ".join(f"{p.name}: {p.remedy}" for p in lacking)

    said = as_user_without_rights(tmp_path, look)
    (tmp_path / "sys/kernel/debug").chmod(0o755)
    assert "frequency control: run as root" in said
    assert "memory frequency: run as root" in said
