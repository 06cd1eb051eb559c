"""Power of a Jetson: averaging, quantisation, a second source beside the first, and a source that goes away."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import numpy as np
import pytest

from cardlab.calibrate import fit_power
from cardlab.core.errors import DeviceError, DeviceLostError, UsageError
from cardlab.core.quantity import MEASURED
from cardlab.core.records.measurement import Profile
from cardlab.core.records.task import Execution
from cardlab.db import open_store
from cardlab.profilers.board.series import TimingPolicy
from cardlab.profilers.devices.jetson import jtop
from cardlab.profilers.devices.jetson.device import JetsonDevice
from cardlab.profilers.devices.power import Rail, RailTrace
from cardlab.profilers.measure.environment import gather_environment
from cardlab.profilers.measure.estimate import estimate_seconds
from cardlab.profilers.measure.session import Request, run_session
from cardlab.profilers.measure.sweep import choose_frequencies, plan_points
from cardlab.profilers.measure.window import measure, measure_waiting, window_s
from cardlab.profilers.runtime.workbench import Workload
from tests.fakes.jetson.boards import BOARDS
from tests.fakes.jetson.machine import LiveBoard
from tests.fakes.jetson.tree import build, put
from tests.profilers.devices.test_nvidia import Quiet

SUM = "VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0"


def sweep(live: LiveBoard, database: Path, frequencies: str, budget_s: float | None = None) -> Profile:
    device = live.platform()
    workload = Workload(
        execution=Execution(dtype="float16", attention="sdpa", threads=1), label="burn", load=live.work()
    )
    request = Request(
        workload=workload,
        planned=plan_points(choose_frequencies(device.frequencies(), frequencies), 3),
        policy=TimingPolicy(repeats=5 if budget_s is None else None, budget_s=budget_s),
        environment=gather_environment(device),
        whole_step=False,
    )
    with open_store(str(database)) as store:
        return run_session(store, device, request, Quiet())


@pytest.mark.once
@pytest.mark.parametrize("seed", ["a", *(pytest.param(seed, marks=pytest.mark.once) for seed in "bcdef")])
def test_power_is_predicted_at_frequencies_left_out(seed: str, tmp_path: Path, database: Path) -> None:
    """An Orin NX swept at five of its seven frequencies; the sensor's truth at the two that were left out."""
    live = LiveBoard("orin-nx-16", tmp_path, seed)
    profile = sweep(live, database, "306MHz,510MHz,612MHz,816MHz,918MHz")
    assert profile.complete
    readings = []
    for point in profile.points:
        assert point.operating is not None and point.operating.throttled is False
        [total] = [m for m in point.measurements if m.quantity == "power" and m.meter.total]
        assert total.rail == "VDD_IN" and total.estimate is not None
        assert total.details["samples"] == 64 and total.details["shunt_ohm"] == pytest.approx(5e-3)
        assert total.details["averaging_s"] == pytest.approx(0.422, abs=1e-3)
        assert total.meter.quantisation_w == pytest.approx(0.045, abs=0.006)
        assert total.estimate.n is not None and total.estimate.n >= 18
        assert total.estimate.stderr is not None and total.estimate.stderr >= 0.04 / np.sqrt(12 * total.estimate.n)
        assert point.operating.frequency_hz is not None
        readings.append((point.operating.frequency_hz, total.estimate.value))
    law = fit_power([f for f, _ in readings], [p for _, p in readings])
    for left_out in (408e6, 714e6):
        truth_w = live.truth_w(left_out)
        assert float(law.predict(left_out)) == pytest.approx(truth_w, rel=0.03)
        print(f"Orin NX at {left_out / 1e6:.0f} MHz, left out: {float(law.predict(left_out)) / truth_w - 1:+.2%}")


def test_a_step_of_the_load_is_forgotten_before_the_window(tmp_path: Path) -> None:
    """Half a second of averaging: the mean of the window is that of the load, not of the rest before it."""
    live = LiveBoard("orin-nx-16", tmp_path)
    device = live.platform()
    with device.locked(918e6):
        measure_waiting(device, 20.0)
        start_s, start_j = live.now(), live.machine.energy_j
        reading = measure(device, live.work())
        mean_w = (live.machine.energy_j - start_j) / (live.now() - start_s)
    assert reading.power_w is not None
    assert reading.power_w.value == pytest.approx(mean_w, rel=0.02)


@pytest.mark.parametrize(("name", "least_s"), [("orin-nx-16", 9.0), ("orin-nano-8", 74.0)])
def test_windows_are_sized_from_the_averaging(name: str, least_s: float, tmp_path: Path) -> None:
    assert window_s(LiveBoard(name, tmp_path).platform()) >= least_s


@pytest.mark.once
def test_a_budget_is_kept_and_the_estimate_with_it(tmp_path: Path, database: Path) -> None:
    """512 averages make a sweep of a few frequencies take the better part of an hour."""
    live = LiveBoard("orin-nano-8", tmp_path)
    device = live.platform()
    planned = plan_points(choose_frequencies(device.frequencies(), "all"), 3)
    estimated_s = estimate_seconds(device, planned, 30.0)
    assert estimated_s > 1500.0
    start_s = live.now()
    sweep(live, database, "all", budget_s=30.0)
    assert 0.5 * estimated_s < live.now() - start_s < 1.1 * estimated_s


def test_the_total_is_the_sum_of_three_rails(tmp_path: Path) -> None:
    live = LiveBoard("agx-orin-64", tmp_path)
    device = live.platform()
    with device.locked(1224e6):
        reading = measure(device, live.work())
    means = {name: float(np.mean(trace.power_w)) for name, trace in reading.traces.items()}
    assert reading.power_w is not None
    parts = means["VDD_GPU_SOC"] + means["VDD_CPU_CV"] + means["VIN_SYS_5V0"]
    assert reading.power_w.value == pytest.approx(parts, rel=1e-6)
    assert means["VDDQ_VDD2_1V8AO"] > 0.05 * parts, "what a double count would have added"
    step_w = reading.traces[SUM].quantisation_w
    assert step_w is not None and 0.3 < step_w < 0.4


def test_a_step_that_never_moves_does_not_average_out() -> None:
    rail = Rail(name="VDD_IN", scope="", total=True)
    still = RailTrace(rail=rail, end_s=(1.0,) * 50, power_w=(5.0,) * 50, update_s=1.0, quantisation_w=0.04, source="x")
    estimate = still.mean(MEASURED)
    assert estimate is not None and estimate.stderr == pytest.approx(0.04 / 12**0.5)


@pytest.mark.parametrize("name", ["nano-2gb", "orin-nx-16"])
def test_without_power_the_time_is_still_measured(name: str, tmp_path: Path) -> None:
    build(BOARDS[name], tmp_path)
    for label in tmp_path.glob("sys/bus/i2c/devices/*/hwmon/hwmon*/in*_label"):
        label.write_text("NC\n")
    device = JetsonDevice(tmp_path)
    reading = measure(device, lambda: time.sleep(0.001), 0.01)
    assert reading.power_w is None and reading.iterations > 1
    probe = next(p for p in device.capabilities() if p.name == "power meter")
    assert (probe.ok is None) == (name == "nano-2gb")
    assert probe.ok is None or probe.remedy


def test_without_the_driver_it_says_what_to_load(tmp_path: Path) -> None:
    import shutil

    build(BOARDS["orin-nx-16"], tmp_path)
    for path in (*tmp_path.glob("sys/class/hwmon/hwmon4"), *tmp_path.glob("sys/bus/i2c/devices/*")):
        path.unlink() if path.is_symlink() else shutil.rmtree(path)
    probe = next(p for p in JetsonDevice(tmp_path).capabilities() if p.name == "power meter")
    assert probe.ok is False and "ina3221" in (probe.remedy or "")


def test_monitors_that_vanish_are_an_error(tmp_path: Path) -> None:
    import shutil

    live = LiveBoard("orin-nx-16", tmp_path)
    device = live.platform()
    live.on_step = lambda: shutil.rmtree(tmp_path / "sys/bus/i2c", ignore_errors=True) if live.now() > 3.0 else None
    with pytest.raises(DeviceLostError, match="INA3221"):
        measure(device, live.work())


FAKE_JTOP = """
import os, time
class JtopException(Exception): pass
class jtop:
    def __init__(self, interval): self.left = int(os.environ.get("FAKE_JTOP_LINES", "1000000"))
    def __enter__(self):
        if "FAKE_JTOP_OFF" in os.environ:
            raise JtopException("The jtop.service is not active. Please run:\\nsudo jtop --install-service")
        return self
    def __exit__(self, *error): return False
    def ok(self):
        time.sleep(0.02); self.left -= 1
        return self.left >= 0
    @property
    def power(self):
        return {"rail": {"VDD_CPU_GPU_CV": {"power": 500}, "VDD_SOC": {"power": 1500}},
                "tot": {"name": "VDD_IN", "power": 5100}}
"""


@pytest.fixture
def fake_jtop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A jtop whose service can be told to go away; the child of the product imports it."""
    put(tmp_path / "modules/jtop/__init__.py", FAKE_JTOP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"), prepend=":")
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    root = tmp_path / "board"
    build(BOARDS["orin-nx-16"], root)
    put(root / "run/jtop.sock", "")
    monkeypatch.setattr(jtop, "INTERVAL_S", 0.02)
    return root


def test_jtop_is_the_check_beside_sysfs(fake_jtop: Path) -> None:
    device = JetsonDevice(fake_jtop)
    assert device.meter is not None
    device.meter.prepare()
    with device.meter.recording() as recording:
        time.sleep(1.5)
    trace = recording.traces["VDD_IN"]
    device.close()
    assert np.mean(trace.power_w) == pytest.approx(5.0) and trace.check_w == pytest.approx(5.1)
    assert "jtop differs by +2.0%" in trace.source
    assert recording.traces["VDD_SOC"].check_w == pytest.approx(1.5)


def test_sysfs_takes_over_when_the_service_goes(fake_jtop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_JTOP_LINES", "40")
    device = JetsonDevice(fake_jtop, power_source="jtop")
    assert device.meter is not None and device.meter.source.name == "jtop"
    device.meter.prepare()
    with device.meter.recording() as recording:
        time.sleep(3.0)
    trace = recording.traces["VDD_IN"]
    device.close()
    assert device.meter.source.name == "sysfs"
    assert {round(p, 3) for p in trace.power_w} == {5.1, 5.0}
    assert "jtop" in trace.source and "then INA3221" in trace.source and "does not answer any more" in trace.source


def test_a_check_that_goes_away_costs_nothing(fake_jtop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_JTOP_LINES", "5")
    device = JetsonDevice(fake_jtop)
    assert device.meter is not None
    device.meter.prepare()
    with device.meter.recording() as recording:
        time.sleep(2.0)
    device.close()
    trace = recording.traces["VDD_IN"]
    assert {round(p, 3) for p in trace.power_w} == {5.0} and "went away" in trace.source


def test_a_service_that_does_not_run_is_said_in_jtops_words(fake_jtop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_JTOP_OFF", "1")
    with pytest.raises(DeviceError, match="jtop.service is not active") as caught:
        jtop.open_jtop()
    assert "systemctl" in caught.value.remedy
    device = JetsonDevice(fake_jtop, power_source="jtop")
    assert device.meter is not None and device.meter.source.name == "sysfs"


def test_doctor_says_what_jtop_lacks(fake_jtop: Path) -> None:
    def probe() -> tuple[bool | None, str]:
        found = next(p for p in JetsonDevice(fake_jtop).capabilities() if p.name == "jtop")
        return found.ok, found.remedy or ""

    assert probe()[0] is True
    (fake_jtop / "run/jtop.sock").unlink()
    assert probe() == (False, "sudo systemctl restart jtop.service")


def test_tegrastats_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.profilers.devices.test_tegrastats import NEWEST

    program = put(tmp_path / "tegrastats", f"#!/bin/sh\necho noise\nwhile true; do echo '{NEWEST}'; sleep 0.05; done\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    source = jtop.open_tegrastats(0.05)
    try:
        assert set(source.rails()) == {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"}
        time.sleep(0.2)
        assert source.read()["VDD_CPU_CV"] == pytest.approx(3.268)
    finally:
        source.close()
    assert source._process.returncode is not None


def test_a_source_that_does_not_exist(tmp_path: Path) -> None:
    build(BOARDS["orin-nx-16"], tmp_path)
    with pytest.raises(UsageError, match="no power source"):
        JetsonDevice(tmp_path, power_source="meter")
