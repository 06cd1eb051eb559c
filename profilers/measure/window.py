"""How work is measured on a device, whichever it is.

    run until the frequency reads what was asked and power is steady -> window of whole sensor updates,
    frequency and throttle flags read all the while

The device reads and sets; what is done with it, and in which order, is here.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cardlab.core.quantity import Estimate, product
from cardlab.profilers.board.rules import on_request
from cardlab.profilers.board.timer import LapTimer
from cardlab.profilers.board.work import Work, as_work
from cardlab.profilers.devices.device import HardwareDevice, State
from cardlab.profilers.devices.power import RailTrace
from cardlab.profilers.measure.reading import Reading

# Blocks of updates show their correlation only from 16 on.
WINDOW_UPDATES = 20
SETTLE_TIMEOUT_S = 120.0
# Power is compared over 8 s: with a cooler's time constant of 10-20 s a change of 0.1 % in 8 s leaves 0.1-0.2 %
# to come, where 0.25 % in 4 s left 0.6-1 %.
SETTLE_HALF_S = 8.0
SETTLE_SHARE = 0.001
SETTLE_WINDOW_S = 1.0
SETTLE_MOST_WINDOWS = 15
STATE_INTERVAL_S = 0.05
# Long against waking up, so that waiting really is rest.
WAIT_S = 0.25


def measure(
    device: HardwareDevice,
    work: Work | Callable[[], object],
    seconds: float | None = None,
    lap_timer: LapTimer | None = None,
) -> Reading:
    """Run work for a window and say what it took.

    Args:
        work: a Work or a bare callable; every iteration is synchronised.
        seconds: length of the window; None sizes it from the meter (at least 20 updates).
        lap_timer: times its laps; None takes the device's own.

    Returns:
        Reading; powers are None without a meter.
    """
    work, lap_timer = as_work(work), lap_timer or device.lap_timer
    _lead(device, work, lap_timer)
    return _window(device, work, window_s(device) if seconds is None else seconds, lap_timer)


def measure_waiting(device: HardwareDevice, seconds: float | None = None) -> Reading:
    """Power while nothing runs, at whatever frequency is held now."""

    def wait() -> None:
        device.timer.sleep(WAIT_S)

    return measure(device, wait, seconds)


def settle(device: HardwareDevice, work: Work, frequency_hz: float | None, lap_timer: LapTimer | None = None) -> None:
    """Run work until the frequency under load is the requested one and power is steady.

    Power is steady when the mean of the last 8 s (two windows at least) is within 0.1 % of the 8 s before,
    or within what the windows' own scatter allows: heat approaches its balance so slowly (tens of seconds)
    that one window never differs much from the next. Gives up silently after 120 s of the device's time, or
    15 windows of a slow sensor: the operating point says what was reached.
    """
    work, lap_timer = as_work(work), lap_timer or device.lap_timer
    _lead(device, work, lap_timer)
    length_s = settle_window_s(device)
    deadline_s = device.timer.now() + max(SETTLE_TIMEOUT_S, SETTLE_MOST_WINDOWS * length_s)
    steady = 0
    powers_w: list[float] = []
    # Three windows in a row: a frequency that is only passed on the way counts once.
    while device.timer.now() < deadline_s and (steady < 3 or not power_steady(powers_w, half_windows(length_s))):
        reading = _window(device, work, length_s, lap_timer)
        steady = steady + 1 if on_request(reading.frequency_hz, frequency_hz) else 0
        if steady == 0:
            # Powers at another frequency are no evidence.
            powers_w.clear()
        elif reading.power_w is not None:
            powers_w.append(reading.power_w.value)
        elif steady >= 3:
            return


def window_s(device: HardwareDevice) -> float:
    """Length of a power window: many whole updates of the slowest rail."""
    if device.meter is None:
        return 0.0
    # Two more, because a window begins and ends in the middle of an update.
    return max(device.window_min_s, (WINDOW_UPDATES + 2) * device.meter.update_s)


def settle_window_s(device: HardwareDevice) -> float:
    """Length of one window while waiting for power to settle: two updates of a slow rail."""
    return 0.0 if device.meter is None else max(SETTLE_WINDOW_S, 2.0 * device.meter.update_s)


def half_windows(window_s: float) -> int:
    """Windows in each of the two stretches that are compared while power settles."""
    return max(2, math.ceil(SETTLE_HALF_S / window_s)) if window_s > 0 else 2


def power_steady(powers_w: Sequence[float], half: int) -> bool:
    """Whether the last `half` windows agree with those before them, to 0.1 % or to their own scatter."""
    if len(powers_w) < 2 * half:
        return False
    late, early = np.array(powers_w[-half:]), np.array(powers_w[-2 * half : -half])
    scatter_w = math.sqrt((late.var(ddof=1) + early.var(ddof=1)) / half)
    return bool(abs(late.mean() - early.mean()) <= max(SETTLE_SHARE * early.mean(), 1.5 * scatter_w))


def _lead(device: HardwareDevice, work: Work, lap_timer: LapTimer) -> None:
    """Run work until the meter has forgotten what was before."""
    memory_s = 0.0
    if device.meter is not None:
        device.meter.prepare()
        memory_s = device.meter.memory_s
    _iterate(device, work, lap_timer, device.timer.now() + memory_s)


def _window(device: HardwareDevice, work: Work, seconds: float, lap_timer: LapTimer) -> Reading:
    """Measure work that is running already."""
    states: list[State] = []
    with contextlib.ExitStack() as stack:
        recording = None if device.meter is None else stack.enter_context(device.meter.recording())
        start_s = device.timer.now()
        times_s = _iterate(device, work, lap_timer, start_s + seconds, states)
    traces = {} if recording is None else dict(recording.traces)
    return _reading(device, times_s, device.timer.now() - start_s, states, traces)


def _iterate(
    device: HardwareDevice, work: Work, lap_timer: LapTimer, until_s: float, states: list[State] | None = None
) -> list[float]:
    """Iterations (at least one) until the device's time passes `until_s`; seconds of each."""
    times_s = []
    look_s = device.timer.now()
    while True:
        times_s.append(sum([lap_timer.time(lap, work).wall_s for lap in work.laps]))
        work.reset()
        now_s = device.timer.now()
        if states is not None and (now_s >= look_s or now_s >= until_s):
            # Reading the sensors takes time itself: not after every short iteration.
            states.append(device.state())
            look_s = now_s + STATE_INTERVAL_S
        if now_s >= until_s:
            return times_s


def _reading(
    device: HardwareDevice,
    times_s: Sequence[float],
    window_s: float,
    states: Sequence[State],
    traces: Mapping[str, RailTrace],
) -> Reading:
    spread_s = float(np.std(times_s, ddof=1) / np.sqrt(len(times_s))) if len(times_s) > 1 else None
    per_iteration = Estimate(float(np.mean(times_s)), spread_s, None, len(times_s), device.provenance)
    total = next((t for t in traces.values() if t.rail.total), None)
    power = None if total is None else total.mean(device.provenance)
    flags = [s.throttled for s in states if s.throttled is not None]
    return Reading(
        iterations=len(times_s),
        seconds=window_s,
        seconds_per_iteration=per_iteration,
        power_w=power,
        energy_per_iteration_j=None if power is None else product(power, per_iteration),
        frequency_hz=_mean([s.frequency_hz for s in states]),
        throttled=any(flags) if flags else None,
        reasons=tuple(dict.fromkeys(reason for state in states for reason in state.reasons)),
        temperature_c=_mean([s.temperature_c for s in states]),
        traces=traces,
        sources={name: trace.source for name, trace in traces.items()},
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
