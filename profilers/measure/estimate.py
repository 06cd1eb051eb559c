"""How long a sweep will take, before it begins; and the least that one point of it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cardlab.core.records.measurement import PlannedPoint
from cardlab.profilers.board.rules import MAX_SAMPLES, MIN_SAMPLES, PATIENCE_S, WARMUPS, median
from cardlab.profilers.board.series import TimingPolicy
from cardlab.profilers.board.window import half_windows, idle_window_s, settle_window_s
from cardlab.profilers.devices.device import HardwareDevice
from cardlab.profilers.measure.runtimes import open_runtime
from cardlab.profilers.measure.wholestep import WHOLE_STEP_POLICY
from cardlab.profilers.measure.window import window_s
from cardlab.profilers.runtime.describe import describe_equivalent_step, describe_works
from cardlab.profilers.runtime.workbench import Workload

# A few time constants of a cooler, which are 10 to 20 s.
SETTLE_S = 40.0
# Of a load, whose length nobody knows before it has run: as long as a series is patient, twice.
TIMING_S = 2 * PATIENCE_S
# With less for its segments a point is not begun: it would hold single samples.
LEAST_TIMING_S = 1.0
# A process that loads torch and builds the whole model.
# What a rehearsal of one side at one cut may take before five steps are enough (`split/rehearsal.py`).
REHEARSAL_S = 30.0
_START_S = 15.0
_TRIALS = 3


def settle_s(device: HardwareDevice, step_s: float = 0.0) -> float:
    """Time until power is steady under a step of that length, usually; 0 without a meter."""
    if device.meter is None:
        return 0.0
    # The last windows are compared with those before; each holds a step at least.
    each_s = settle_window_s(device.meter.update_s)
    windows = 2 * half_windows(each_s)
    return max(SETTLE_S, windows * each_s, windows * step_s)


def powers_s(device: HardwareDevice, step_s: float = 0.0) -> float:
    """Time of the two windows of power at a point, each after the meter has forgotten what was before."""
    if device.meter is None:
        return 0.0
    lead_s = max(device.meter.memory_s, step_s)
    return max(window_s(device), step_s) + window_s(device) + device.meter.memory_s + lead_s + lead_s


def idle_s(device: HardwareDevice) -> float:
    """Time of the window at rest, once a session; 0 without a meter."""
    if device.meter is None:
        return 0.0
    return idle_window_s(device.meter.update_s, device.window_min_s) + device.meter.memory_s


def least_point_s(device: HardwareDevice) -> float:
    """The least that one point takes: settling, its windows of power, and a little for its timings."""
    return settle_s(device) + powers_s(device) + LEAST_TIMING_S


def estimate_seconds(
    device: HardwareDevice, planned: Sequence[PlannedPoint], timing_s: float | None = None, step_s: float = 0.0
) -> float:
    """Expected length of a session in the device's time.

    Args:
        timing_s: timings of one point at the highest frequency; None for a load, of which nothing is known.
        step_s: a step of the whole model at the highest frequency.
    """
    total_s = idle_s(device)
    for point in planned:
        slower = _slower(device, point)
        times_s = TIMING_S if timing_s is None else timing_s * slower
        total_s += settle_s(device, step_s * slower) + powers_s(device, step_s * slower) + times_s
    return total_s


def timing_seconds(device: HardwareDevice, workload: Workload, policy: TimingPolicy) -> tuple[float | None, float]:
    """Timings of one point and one step of the whole model at the frequency of now, from the size of the model.

    Both from how fast a small product runs here. None and 0 for a load, whose size is not known.
    """
    if workload.task is None or workload.analysis is None:
        return None, 0.0
    flop_per_s = _speed(device, workload)
    works = describe_works(workload.task, workload.analysis)
    timing_s = 0.0
    for work in works:
        timing_s += _series_s(sum((lap.flop or 0.0) / flop_per_s for lap in work.laps), policy)
    step = describe_equivalent_step(workload.task, workload.analysis)
    return timing_s, sum((lap.flop or 0.0) / flop_per_s for lap in step.laps)


def whole_step_seconds(step_s: float) -> float:
    """Time of the check against a real step of the whole model, in a process of its own."""
    samples = WHOLE_STEP_POLICY.warmups + WHOLE_STEP_POLICY.max_samples
    few = WHOLE_STEP_POLICY.warmups + WHOLE_STEP_POLICY.min_samples
    return _START_S + max(few * step_s, min(samples * step_s, WHOLE_STEP_POLICY.patience_s))


def rehearsal_seconds(step_s: float) -> float:
    """Time of the steps that both sides of a cut make as a run does, at two cuts each, rests included."""
    # Each pair of sides at one cut is a step of the whole model; a rest is as long as what came before it.
    return _START_S + min(4.0 * 12.0 * step_s, 4.0 * REHEARSAL_S)


def _series_s(each_s: float, policy: TimingPolicy) -> float:
    """A series of iterations of that length, as the rules of measuring stop it on a quiet machine."""
    if policy.repeats is not None:
        return (WARMUPS + policy.repeats) * each_s
    usual = (WARMUPS + MAX_SAMPLES // 2) * each_s
    return max((WARMUPS + MIN_SAMPLES) * each_s, min(usual, PATIENCE_S))


def _slower(device: HardwareDevice, point: PlannedPoint) -> float:
    offered = device.frequencies()
    return 1.0 if point.requested_hz is None or not offered else offered[-1] / point.requested_hz


def _speed(device: HardwareDevice, workload: Workload) -> float:
    """FLOP/s of the fixed product here."""
    runtime = open_runtime(device)
    if runtime.torch_device is None:
        # Nothing is run: the device says how long a layer's worth of arithmetic takes.
        work, lap_timer = runtime.trial_work(), device.lap_timer
    else:
        from cardlab.profilers.runtime.execution import import_torch
        from cardlab.profilers.runtime.segments import reference_work

        import_torch().set_num_threads(workload.execution.threads)
        work = reference_work(workload.execution.dtype, runtime.torch_device)
        lap_timer = runtime.lap_timer(workload.execution.threads) or device.lap_timer
    [lap] = work.laps
    # The first pass loads libraries.
    taken = [lap_timer.time(lap, work).wall_s for _ in range(_TRIALS + 1)][1:]
    seconds = max(median(taken), 1e-9)
    return (lap.flop or math.inf) / seconds
