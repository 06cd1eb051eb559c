"""If these fail, a device cannot be opened by its name, measures wrongly, or a new vendor needs more than its line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cardlab.core.errors import DeviceError, UsageError
from cardlab.core.quantity import Estimate
from cardlab.db import open_store
from cardlab.profilers.board.series import TimingPolicy
from cardlab.profilers.devices import open_platform, registry
from cardlab.profilers.measure.open import open_device
from cardlab.profilers.measure.session import Request, run_session
from cardlab.profilers.measure.sweep import choose_frequencies, plan_points
from cardlab.profilers.runtime.workbench import Workload
from tests import records
from tests.cli.run import command
from tests.fakes.jetson.boards import BOARDS
from tests.fakes.jetson.tree import build
from tests.fakes.nvml.card import FakeCard
from tests.fakes.toy.device import FLOP_PER_CYCLE, OFFERED_HZ, watts
from tests.profilers.observing import Silent


def test_a_reading_is_frozen_and_says_what_an_iteration_took() -> None:
    with open_device("simulated:rtx-4060-ti") as gpu:
        assert gpu.identity.platform == "simulated" and gpu.capabilities()
        with gpu.locked(1_500_000_000):
            reading = gpu.measure(lambda: gpu.hardware.timer.sleep(0.01))
    assert reading.iterations >= 20 and reading.frequency_hz == 1.5e9 and reading.throttled is False
    assert isinstance(reading.power_w, Estimate) and isinstance(reading.energy_per_iteration_j, Estimate)
    energy_j = float(reading.power_w) * float(reading.seconds_per_iteration)
    assert float(reading.energy_per_iteration_j) == pytest.approx(energy_j)
    assert reading.temperature_c is not None and reading.sources == {"board": "simulated sensor"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        reading.iterations = 0  # type: ignore[misc]


def test_boards_and_processors_are_opened_below_a_root(tmp_path: Path) -> None:
    build(BOARDS["orin-nx-16"], tmp_path)
    assert open_device("jetson", sysfs_root=tmp_path).identity.platform == "jetson"
    cpu = open_device("cpu", sysfs_root=tmp_path / "nothing", label="mine")
    assert cpu.identity.name == "mine" and cpu.frequencies() == ()
    assert cpu.measure(lambda: None, seconds=0.01).power_w is None


def test_a_card_is_opened_by_its_number_and_by_its_uuid(fake_card: FakeCard) -> None:
    uuid = "GPU-fa4e0000-0000-4000-8000-000000000001"
    assert open_device("nvidia:0").identity == open_device(f"nvidia:{uuid}").identity
    assert open_device("nvidia").identity.key == f"nvidia:{uuid}"
    with pytest.raises(DeviceError, match="there is no GPU GPU-0000.*nvidia-smi -L"):
        open_device("nvidia:GPU-0000")
    with pytest.raises(UsageError, match="neither the number of a GPU nor its UUID"):
        open_device("nvidia:fastest")


@pytest.mark.parametrize("name", ["cpu:1", "jetson:agx", "auto:1", "abacus", ""])
def test_a_name_that_means_nothing_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        open_device(name)


def test_a_new_vendor_is_its_folder_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setitem(registry.VENDORS, "toy", "tests.fakes.toy")
    with pytest.raises(UsageError, match=r"toy\[:NUMBER\]"):
        open_platform("abacus")
    toy = open_platform("toy:7", label="my toy")
    request = Request(
        workload=Workload(execution=records.EXECUTION, task=records.TASK, analysis=records.ANALYSIS),
        planned=plan_points(choose_frequencies(toy.frequencies(), "all"), seed=1),
        policy=TimingPolicy(repeats=3),
        environment=records.ENVIRONMENT,
    )
    with open_store(tmp_path / "toy.db") as store:
        profile = run_session(store, toy, request, Silent())
    assert profile.complete and profile.run.offered_hz == OFFERED_HZ and profile.run.device.name == "my toy"
    for point in profile.points:
        hz, power = point.requested_hz, point.total_power()
        assert hz is not None and point.operating is not None and point.operating.frequency_hz == hz
        assert power is not None and float(power.estimate) == pytest.approx(watts(hz))  # type: ignore[arg-type]
        flop = records.ANALYSIS.segment("layer").forward_flop
        assert float(point.latency("layer", "forward")) == pytest.approx(flop / (FLOP_PER_CYCLE * hz))  # type: ignore[arg-type]
    probes = command("profile-device", "doctor", "--platform", "toy", "--json").document["probes"]
    assert {"name": "device", "ok": True, "state": "a toy", "remedy": None} in probes
