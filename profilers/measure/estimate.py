"""How long a sweep will take, before it begins."""

from __future__ import annotations

from collections.abc import Sequence

from cardlab.core.records.measurement import PlannedPoint
from cardlab.profilers.devices.device import Platform, half_windows
from cardlab.profilers.measure.point import IDLE_S

SETTLE_S = 40.0
TIMING_S = 60.0


def estimate_seconds(platform: Platform, planned: Sequence[PlannedPoint], budget_s: float | None) -> float:
    """Expected length of a session: settling, timings (the budget, else a guess of 60 s), power windows."""
    per_point_s = TIMING_S if budget_s is None else budget_s
    fixed_s = 0.0
    if platform.meter is not None:
        # Settling compares the last four windows with the four before; each measurement lets a step fade first.
        settle_s = max(SETTLE_S, 2.0 * half_windows(platform.settle_window_s()) * platform.settle_window_s())
        per_point_s += 2.0 * platform.window_s() + settle_s + 3.0 * platform.meter.memory_s
        fixed_s = max(IDLE_S, platform.window_s()) + platform.meter.memory_s
    return fixed_s + per_point_s * len(planned)
