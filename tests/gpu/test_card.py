"""A real NVIDIA card: what is only true if the hardware says so. Skipped where there is none.

Nothing is locked or set on the card unless CARDLAB_TEST_LOCK=1 says that it may be: a card is often shared.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

pytest.importorskip("torch")

from cardlab.profilers.devices.nvidia.device import NvidiaDevice
from cardlab.profilers.measure.runtimes import open_runtime
from cardlab.profilers.measure.segments import time_segments
from cardlab.profilers.measure.selftest import selftest
from cardlab.profilers.measure.timing import TimingTools, time_work
from cardlab.profilers.measure.window import measure, measure_waiting
from cardlab.profilers.runtime import analyse, resolve_task
from cardlab.profilers.runtime.workbench import Workload

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def card() -> Iterator[NvidiaDevice]:
    platform = NvidiaDevice()
    yield platform
    platform.close()


def test_identity(card: NvidiaDevice) -> None:
    assert card.identity.key.startswith("nvidia:GPU-")
    assert card.identity.cores is None or card.identity.cores > 0
    runtime = open_runtime(card)
    execution = runtime.resolve_execution("auto", "sdpa", 1)
    assert execution.accelerator is not None and runtime.torch_device is not None
    assert runtime.torch_device.startswith("cuda:")


def test_power_under_load_is_above_idle_and_below_the_limit(card: NvidiaDevice) -> None:
    if card.meter is None:
        pytest.skip("no source of power on this card")
    idle = measure_waiting(card, 3.0)
    runtime = open_runtime(card)
    busy = measure(card, runtime.trial_work(), lap_timer=runtime.lap_timer())
    assert idle.power_w is not None and busy.power_w is not None
    assert busy.power_w.value > idle.power_w.value
    limit_w = card.identity.power_limit_w
    assert not isinstance(limit_w, float) or busy.power_w.value < 1.1 * limit_w
    # What a card that computes can show, and no number of another unit.
    assert busy.frequency_hz is not None and 0.1e9 < busy.frequency_hz < 5e9
    assert busy.temperature_c is not None and 10.0 < busy.temperature_c < 110.0
    print(
        f"waiting {idle.power_w.value:.1f} W, under load {busy.power_w.value:.1f} W of {limit_w} W,"
        f" {busy.frequency_hz / 1e6:.0f} MHz, {busy.temperature_c:.0f} C"
    )


def test_the_selftest_passes_where_frequencies_can_be_set(card: NvidiaDevice) -> None:
    if os.environ.get("CARDLAB_TEST_LOCK") != "1":
        pytest.skip("locks a frequency: only with CARDLAB_TEST_LOCK=1")
    if not card.frequencies():
        pytest.skip("frequencies cannot be set here")
    runtime = open_runtime(card)
    checks = selftest(card, runtime.trial_work(), runtime.lap_timer())
    for check in checks:
        print(check)
        assert check.ok is not False, check
    # A check that could not be made is no pass: the frequency that was set must have been read back.
    assert any(check.ok for check in checks)


def test_a_layer_is_timed(card: NvidiaDevice) -> None:
    runtime, task = open_runtime(card), resolve_task("tiny-llama", sequence=64)
    execution = runtime.resolve_execution("auto", "sdpa", 1)
    workload = Workload(execution=execution, task=task, analysis=analyse(task, execution))
    lap_timer = runtime.lap_timer()
    assert lap_timer is not None
    timings = list(time_segments(runtime.workbench(workload), TimingTools(lap_timer=lap_timer)))
    assert {t.segment for t in timings} >= {"embedding", "first_layer", "layer", "head"}
    for timing in timings:
        for lap in timing.laps:
            # A tiny layer takes microseconds to milliseconds; a time in another unit would not.
            assert lap.estimate is not None and 1e-6 < lap.estimate.value < 0.5
            print(f"{timing.segment} {lap.phase}: {lap.estimate.value * 1e3:.4f} ms")


def test_the_gpus_own_time_is_below_the_time_of_a_layer(card: NvidiaDevice) -> None:
    """A tiny layer is launched slower than it computes, a large product is not; both are told apart."""
    runtime, task = open_runtime(card), resolve_task("tiny-llama", sequence=64)
    execution = runtime.resolve_execution("auto", "sdpa", 1)
    workload = Workload(execution=execution, task=task, analysis=analyse(task, execution))
    lap_timer = runtime.lap_timer()
    assert lap_timer is not None
    tools = TimingTools(lap_timer=lap_timer)
    timings = {t.segment: t for t in time_segments(runtime.workbench(workload), tools, extras=False)}
    assert all(lap.host_bound for lap in timings["layer"].laps)
    assert not any(lap.host_bound for lap in time_work(runtime.trial_work(), tools).laps)
