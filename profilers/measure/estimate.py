"""How long a sweep will take, before it begins."""

from __future__ import annotations

from collections.abc import Sequence

from cardlab.core.records.measurement import PlannedPoint
from cardlab.profilers.board.window import half_windows, idle_window_s, settle_window_s
from cardlab.profilers.devices.device import HardwareDevice
from cardlab.profilers.measure.window import window_s

# A few time constants of a cooler, which are 10 to 20 s.
SETTLE_S = 40.0
TIMING_S = 60.0


def estimate_seconds(device: HardwareDevice, planned: Sequence[PlannedPoint], budget_s: float | None) -> float:
    """Expected length of a session: settling, timings (the budget, else a guess of 60 s), power windows."""
    per_point_s = TIMING_S if budget_s is None else budget_s
    fixed_s = 0.0
    if device.meter is not None:
        # Settling compares the last four windows with the four before; each measurement lets a step fade first.
        each_s = settle_window_s(device.meter.update_s)
        settle_s = max(SETTLE_S, 2.0 * half_windows(each_s) * each_s)
        per_point_s += 2.0 * window_s(device) + settle_s + 3.0 * device.meter.memory_s
        fixed_s = idle_window_s(device.meter.update_s, device.window_min_s) + device.meter.memory_s
    return fixed_s + per_point_s * len(planned)
