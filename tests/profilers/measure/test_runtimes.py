"""If these fail, what a measurement gives depends on what was asked of the device before."""

from __future__ import annotations

from cardlab.profilers.devices import open_platform
from cardlab.profilers.measure.runtimes import open_runtime
from cardlab.profilers.measure.window import measure
from cardlab.profilers.runtime.runtime import DescribedRuntime, TorchRuntime


def test_asking_changes_nothing() -> None:
    device = open_platform("cpu")
    before = device.lap_timer
    runtime = open_runtime(device)
    first = runtime.trial_work()
    runtime.lap_timer(2)
    assert device.lap_timer is before and open_runtime(device) == runtime == TorchRuntime("cpu")
    reading = measure(device, first, 0.01, runtime.lap_timer())
    assert reading.iterations >= 1 and reading.seconds_per_iteration.value > 0


def test_a_simulated_device_is_described_and_timed_by_itself() -> None:
    device = open_platform("simulated:rtx-4060-ti")
    runtime = open_runtime(device)
    assert runtime.torch_device is None and runtime.lap_timer() is None
    assert runtime == DescribedRuntime()
    assert measure(device, runtime.trial_work(), 1.0).frequency_hz is not None
