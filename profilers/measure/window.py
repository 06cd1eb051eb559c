"""How work is measured on a device, whichever it is.

    run until the frequency reads what was asked and power is steady -> window of whole sensor updates,
    frequency and throttle flags read all the while

The device reads and sets; what is done with it, and in which order, is here. How long, and what is steady, is said in
board/window.py, which the agent follows too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from cardlab.core.errors import ProfileError
from cardlab.core.quantity import Estimate, product
from cardlab.profilers.board import window as board
from cardlab.profilers.board.power import mean_known
from cardlab.profilers.board.timer import LapTimer
from cardlab.profilers.board.work import Work, as_work
from cardlab.profilers.devices.device import HardwareDevice, State
from cardlab.profilers.devices.errors import said_as
from cardlab.profilers.devices.power import RailTrace, within_physics
from cardlab.profilers.measure.deadline import Deadline
from cardlab.profilers.measure.reading import Reading


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

    Raises ProfileError for work that cannot run.
    """
    work, lap_timer = as_work(work), lap_timer or device.lap_timer
    with said_as(ProfileError):
        _lead(device, work, lap_timer)
        return _window(device, work, window_s(device) if seconds is None else seconds, lap_timer)


def measure_waiting(device: HardwareDevice, seconds: float | None = None) -> Reading:
    """Power while nothing runs, at whatever frequency is held now."""
    return measure(device, board.waiting(device.timer), seconds)


def settle(
    device: HardwareDevice,
    work: Work,
    frequency_hz: float | None,
    lap_timer: LapTimer | None = None,
    deadline: Deadline | None = None,
) -> None:
    """Run work until the frequency under load is the requested one and power is steady, by the rule of the board.

    Raises BudgetSpent where the deadline comes first: power that is not steady is none.
    """
    work, lap_timer = as_work(work), lap_timer or device.lap_timer

    def read(seconds: float) -> board.WindowReading:
        if deadline is not None:
            deadline.hold(seconds)
        reading = _window(device, work, seconds, lap_timer)
        return board.WindowReading(reading.frequency_hz, None if reading.power_w is None else reading.power_w.value)

    with said_as(ProfileError):
        _lead(device, work, lap_timer)
        board.settle(read, device.timer, update_s(device), frequency_hz)


def update_s(device: HardwareDevice) -> float | None:
    """Updates of the slowest rail, None without a meter."""
    return None if device.meter is None else device.meter.update_s


def window_s(device: HardwareDevice) -> float:
    """Length of a power window: many whole updates of the slowest rail."""
    return board.window_s(update_s(device), device.window_min_s)


def _lead(device: HardwareDevice, work: Work, lap_timer: LapTimer) -> None:
    """Run work until the meter has forgotten what was before."""
    memory_s = 0.0
    if device.meter is not None:
        device.meter.prepare()
        memory_s = device.meter.memory_s
    board.iterate(work, lap_timer, device.timer, device.timer.now() + memory_s)


def _window(device: HardwareDevice, work: Work, seconds: float, lap_timer: LapTimer) -> Reading:
    """Measure work that is running already."""
    states: list[State] = []
    with contextlib.ExitStack() as stack:
        recording = None if device.meter is None else stack.enter_context(device.meter.recording())
        start_s = device.timer.now()
        times_s = board.iterate(work, lap_timer, device.timer, start_s + seconds, lambda: states.append(device.state()))
    limit_w = device.identity.power_limit_w
    judged = {} if recording is None else {n: within_physics(t, limit_w) for n, t in recording.traces.items()}
    found = _reading(device, times_s, device.timer.now() - start_s, states, {n: t for n, (t, _) in judged.items()})
    return replace(found, reasons=(*found.reasons, *(line for _, line in judged.values() if line is not None)))


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
        frequency_hz=mean_known([s.frequency_hz for s in states]),
        throttled=any(flags) if flags else None,
        reasons=tuple(dict.fromkeys(reason for state in states for reason in state.reasons)),
        temperature_c=mean_known([s.temperature_c for s in states]),
        traces=traces,
        sources={name: trace.source for name, trace in traces.items()},
    )
