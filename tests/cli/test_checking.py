"""`capture` and `selftest`, and `doctor` on a card, as a person runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cardlab.profilers.devices.cpu.device import CpuDevice
from cardlab.profilers.devices.nvidia.nvml import Card
from cardlab.profilers.measure.capture import capture_gpu, snapshot, write_tree
from cardlab.profilers.measure.selftest import selftest
from tests.cli.run import command
from tests.fakes.nvml.card import FakeCard
from tests.profilers.devices.test_cpu import policy, zone


def test_a_simulated_device_passes() -> None:
    result = command("profile-device", "selftest", "--platform", "simulated:rtx-4060-ti", "--json")
    assert result.code == 0 and result.document["passed"]
    assert [c["ok"] for c in result.document["checks"]] == [True, True, True]


def test_a_cpu_without_anything_passes() -> None:
    assert command("profile-device", "selftest", "--platform", "cpu").code == 0


def test_a_fake_card_passes(fake_card: FakeCard) -> None:
    assert [c.ok for c in selftest(fake_card.platform(), fake_card.work())] == [True, True, True]
    assert fake_card.lib.fake_locked_mhz() == 0


def test_a_card_that_takes_no_lock_fails_it(fake_card: FakeCard) -> None:
    fake_card.lib.fake_arbitrate(300, 2535)
    lock = selftest(fake_card.platform(), fake_card.work())[0]
    assert lock.ok is False and lock.remedy and "2535 MHz" in lock.state


@pytest.mark.parametrize("code", [3, 4, 15])
def test_a_refused_lock_is_a_failed_check(fake_card: FakeCard, code: int) -> None:
    fake_card.fail("nvmlDeviceSetGpuLockedClocks", code)
    [lock] = selftest(fake_card.platform(), fake_card.work())
    assert lock.ok is False and lock.remedy


def test_a_capture_holds_what_the_card_answers(fake_card: FakeCard) -> None:
    fake_card.fail("nvmlDeviceGetPowerUsage", 3)
    found = json.loads(json.dumps(capture_gpu(Card(0))))
    assert found["nvmlDeviceGetName"] == {"value": "NVIDIA Fake RTX"}
    assert "not supported" in found["nvmlDeviceGetPowerUsage"]["error"]
    assert found["nvmlDeviceGetUUID"]["value"] == "GPU-00000000-0000-0000-0000-000000000000"
    assert len(found["nvmlDeviceGetSupportedGraphicsClocks(8751)"]["value"]) == 156
    assert [f["fieldId"] for f in found["nvmlDeviceGetFieldValues"]["value"]] == [74, 269, 270, 271, 83, 185, 186]


def test_a_captured_tree_can_be_replayed(tmp_path: Path) -> None:
    zone(tmp_path / "a", "intel-rapl:0", "package-0")
    policy(tmp_path / "a")
    write_tree(snapshot(tmp_path / "a")["sysfs"], tmp_path / "b")
    first, second = CpuDevice(tmp_path / "a"), CpuDevice(tmp_path / "b")
    assert first.frequencies() == second.frequencies() != ()
    assert [p.state for p in first.capabilities()][-2:] == [p.state for p in second.capabilities()][-2:]


def test_capture_writes_one_document(fake_card: FakeCard, tmp_path: Path) -> None:
    assert command("profile-device", "capture", "--json").document["schema_version"] == 1
    assert command("profile-device", "capture", "--out", str(tmp_path / "c.json")).code == 0
    assert len(json.loads((tmp_path / "c.json").read_text())["gpus"]) == 1
    command("profile-device", "capture", "--out", str(tmp_path / "no" / "c.json")).failed_in_one_line(2, "--out")


def test_doctor_names_each_lack(fake_card: FakeCard, monkeypatch: pytest.MonkeyPatch) -> None:
    # Doctor watches the counter move, so time has to pass by itself.
    monkeypatch.setenv("FAKE_NVML_WALL", "1")
    fake_card.fail("nvmlDeviceGetTemperature", 4)
    document = command("profile-device", "doctor", "--platform", "nvidia", "--json").document
    probes = {p["name"]: p for p in document["probes"]}
    assert probes["platform"]["state"] == "nvidia" and probes["power meter"]["ok"]
    assert probes["temperature"]["ok"] is False and "root" in probes["temperature"]["remedy"]


def test_without_a_driver_it_says_so() -> None:
    import subprocess
    import sys

    code = "from cardlab.cli.main import profile_device as main; main()"
    words = ["selftest", "--platform", "nvidia"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        pytest.skip("this machine has an NVIDIA driver")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "libnvidia-ml" in done.stderr
