"""The simulated devices obey their stated physics, and everything they yield says that it is simulated."""

from __future__ import annotations

import numpy as np
import pytest

from cardlab.core.errors import NotSupportedError, UsageError
from cardlab.core.quantity import Origin
from cardlab.profilers.board.work import Lap, Work
from cardlab.profilers.devices import open_platform
from cardlab.profilers.devices.simulated.catalogue import DEVICES
from cardlab.profilers.devices.simulated.machine import Machine
from cardlab.profilers.measure.window import measure, measure_waiting

STEP = Work(segment="layer", laps=(Lap(phase="step", run=None, flop=4e11, traffic_bytes=4e9),))


@pytest.mark.parametrize("name", DEVICES)
def test_power_and_voltage_rise_with_the_frequency_and_time_falls(name: str) -> None:
    physics = DEVICES[name]
    frequencies = physics.frequencies_hz
    volts = [physics.voltage_v(f) for f in frequencies]
    watts = [physics.power_w(f, 60.0, 1.0, 0.0) for f in frequencies]
    times = [physics.lap_seconds(f, 1e11, 1e8, "layer", 1)[0] for f in frequencies]
    assert volts[0] == physics.voltage_min_v and volts[-1] == pytest.approx(physics.voltage_max_v, abs=0.007)
    assert all(np.diff(volts) >= 0) and all(np.diff(watts) > 0) and all(np.diff(times) < 0)


def test_cores_are_those_of_the_card_and_of_the_paper() -> None:
    cores = {name: physics.cores for name, physics in DEVICES.items()}
    assert cores["rtx-4060-ti"] == 4352 and cores["rtx-4060"] == 3072
    assert [cores[n] for n in ("agx-orin-1", "agx-orin-2", "agx-orin-3", "orin-nx", "orin-nano")] == [
        2048,
        2048,
        1792,
        1024,
        512,
    ]


def test_heat_makes_leakage_and_the_sensor_averages_true_energy() -> None:
    physics = DEVICES["rtx-4060-ti"]
    assert physics.power_w(1e9, 80.0, 1.0, 0.0) > physics.power_w(1e9, 40.0, 1.0, 0.0)
    machine = Machine(physics, "test")
    machine.request(1.5e9)
    while machine.now_s < 30.0:
        machine.work(4e11, 4e9, "layer", 1)
    times, watts = machine.sensor_updates(20.0, 30.0)
    true_w = np.diff(machine.energy_at(np.array([20.0, 30.0])))[0] / 10.0
    assert len(times) == 100
    assert watts.mean() / machine.meter_gain == pytest.approx(true_w, rel=0.003)


def test_a_card_at_its_limit_throttles_and_says_so() -> None:
    device = open_platform("simulated:rtx-4060-ti")
    hot = Work(segment="head", laps=(Lap(phase="step", run=None, flop=2e13, traffic_bytes=1e9),))
    with device.locked(device.frequencies()[-1]):
        for _ in range(40):
            measure(device, hot, 1.0)
        reading = measure(device, hot, 2.0)
    assert reading.throttled
    assert reading.frequency_hz is not None and reading.frequency_hz < device.frequencies()[-1]


def test_measure_reads_time_power_and_frequency_of_any_work() -> None:
    device = open_platform("simulated:orin-nx")
    with device.locked(device.frequencies()[2]):
        reading = measure(device, STEP)
        waiting = measure_waiting(device)
    assert reading.frequency_hz == device.frequencies()[2]
    assert reading.power_w is not None and waiting.power_w is not None
    assert waiting.power_w.value < reading.power_w.value
    assert reading.energy_per_iteration_j is not None
    assert reading.energy_per_iteration_j.value == pytest.approx(
        reading.power_w.value * reading.seconds_per_iteration.value
    )
    assert reading.power_w.n is not None and reading.power_w.n >= 20
    assert reading.power_w.provenance.origins == {Origin.SIMULATED}


def test_two_labels_are_two_devices_and_one_label_is_reproducible() -> None:
    first, again, other = (open_platform(f"simulated:orin-nx:{label}") for label in ("a", "a", "b"))
    assert first.identity.key == again.identity.key == "simulated:orin-nx:a" != other.identity.key
    assert measure(first, STEP) == measure(again, STEP) != measure(other, STEP)


def test_frequencies_that_are_not_offered_and_names_that_do_not_exist_are_refused() -> None:
    device = open_platform("simulated:orin-nano")
    with pytest.raises(NotSupportedError, match="nearest frequency is"), device.locked(5e9):
        pytest.fail("must not lock")
    with pytest.raises(UsageError, match="orin-nx"):
        open_platform("simulated:gtx-480")
    with pytest.raises(UsageError, match="choose one of"):
        open_platform("abacus")


def test_virtual_time_is_quick() -> None:
    import time

    device = open_platform("simulated:rtx-4060-ti")
    start = time.perf_counter()
    measure(device, STEP, 60.0)
    assert device.timer.now() >= 60.0
    assert time.perf_counter() - start < 5.0


def test_a_callable_of_unknown_size_ends_on_a_virtual_frequency() -> None:
    device = open_platform("simulated:orin-nx")
    reading = measure(device, lambda: sum(range(20000)), 0.05)
    assert reading.iterations >= 1 and reading.seconds >= 0.05


@pytest.mark.parametrize("hz", (1.2e9, 2.6e9))
def test_short_iterations_taken_many_at_once_are_as_one_by_one(hz: float) -> None:
    """If this fails, a small model and a large one are measured on two different devices."""
    laps = ((4e8, 2e6), (8e8, 5e6))
    whole = {}
    for way in ("one", "many"):
        machine = Machine(DEVICES["rtx-4060-ti"], "a card")
        machine.request(hz)
        times_s: list[float] = []
        while machine.now_s < 4.0:
            ahead = machine.work_ahead(laps, "layer", 1, 4.0 - machine.now_s) if way == "many" else []
            times_s += ahead or [sum(machine.work(*lap, "layer", 1) for lap in laps)]
        whole[way] = (np.mean(times_s), machine.energy_j / machine.now_s, machine.temperature_c, machine.frequency_hz)
        assert len(times_s) == pytest.approx(machine.now_s / np.mean(times_s))
    assert whole["many"][:3] == pytest.approx(whole["one"][:3], rel=2e-3)
    assert whole["many"][3] == whole["one"][3]
