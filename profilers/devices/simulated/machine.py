"""A simulated device at work: its state moves with virtual time, its sensor remembers the past."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from cardlab.profilers.devices.simulated.physics import Physics

_STEP_S = 0.02
# The sensor's windows are cut from this curve, so its points lie close against them.
_HISTORY_S = 0.002


class Machine:
    """State of one device: time, temperature, frequency, and the energy it has used.

    Args:
        physics: its constants.
        seed: text that makes its noise and its meter's gain; the same text, the same device.
    """

    def __init__(self, physics: Physics, seed: str) -> None:
        self.physics = self._whole = physics
        self.memory_locked_hz: float | None = None
        self.now_s = 0.0
        self.temperature_c = physics.ambient_c + 12.0
        self.locked_hz: float | None = None
        self.energy_j = 0.0
        self.throttled_s = 0.0
        self._index = 0
        self._locked_index: int | None = None
        self._levels = tuple(physics.level(hz) for hz in physics.frequencies_hz)
        self._laps: dict[tuple[int, float, float, str, int], tuple[float, float]] = {}
        self._random = np.random.default_rng(int(hashlib.sha256(seed.encode()).hexdigest()[:15], 16))
        # Real meters are off by some per cent from card to card, which no repetition removes.
        self.meter_gain = 1.0 + 0.015 * float(self._random.standard_normal())
        self._times = [0.0]
        self._energies = [0.0]

    @property
    def frequency_hz(self) -> float:
        """The frequency now: what was asked for, or less while throttled; the lowest one when idle."""
        return self.physics.frequencies_hz[self._index]

    def request(self, frequency_hz: float | None) -> None:
        """Lock the frequency to the nearest one offered, or release it."""
        self.locked_hz = None if frequency_hz is None else self._nearest(frequency_hz)
        self._locked_index = None if self.locked_hz is None else self.physics.frequencies_hz.index(self.locked_hz)
        self._index = self._wanted(busy=0.0)

    def request_memory(self, memory_hz: float | None) -> None:
        """Lock the memory to a frequency of its table, or release it to its highest."""
        self.memory_locked_hz = memory_hz
        self.physics = self._whole if memory_hz is None else self._whole.at_memory(memory_hz)
        self._laps.clear()

    def work(self, flop: float, traffic_bytes: float, segment: str, repeats: int) -> float:
        """Run one lap to its end; returns how long it took, seconds."""
        if self._locked_index is None:
            self._index = self._wanted(busy=1.0)
        lap_s, busy = self._lap(flop, traffic_bytes, segment, repeats)
        # Log-normal, because no time is negative.
        lap_s *= math.exp(self.physics.time_noise * self._random.standard_normal())
        self._advance(lap_s, busy, traffic_bytes / lap_s)
        return lap_s

    def work_ahead(
        self, laps: Sequence[tuple[float, float]], segment: str, repeats: int, seconds: float
    ) -> list[float]:
        """Iterations of these laps (FLOPs, bytes) for so long, a step of the physics at most: seconds of each.

        Empty where fewer than two fit. Heat and throttling do not see laps that are short against their step.
        """
        if self._locked_index is None:
            self._index = self._wanted(busy=1.0)
        lap_s, busy = np.array([self._lap(*lap, segment, repeats) for lap in laps]).T
        count = int(min(seconds, _STEP_S) / lap_s.sum())
        if count < 2:
            return []
        noise = self._random.standard_normal((count, len(laps)))
        times_s = lap_s * np.exp(self.physics.time_noise * noise)
        whole_s = float(times_s.sum())
        moved_bytes = count * sum(traffic_bytes for _, traffic_bytes in laps)
        # Power is linear in both, so their means over the laps give its mean.
        self._advance(whole_s, float((times_s * busy).sum()) / whole_s, moved_bytes / whole_s)
        return [float(once_s) for once_s in times_s.sum(axis=1)]

    def _lap(self, flop: float, traffic_bytes: float, segment: str, repeats: int) -> tuple[float, float]:
        """Seconds of one lap at the frequency of now, without noise, and the share of it that the cores compute."""
        lap = (self._index, flop, traffic_bytes, segment, repeats)
        if lap not in self._laps:
            self._laps[lap] = self.physics.lap_seconds(self.frequency_hz, flop, traffic_bytes, segment, repeats)
        return self._laps[lap]

    def rest(self, seconds: float) -> None:
        """Do nothing for a while; an unlocked frequency falls to the lowest."""
        self._index = self._wanted(busy=0.0)
        self._advance(seconds, 0.0, 0.0)

    def energy_at(self, times_s: np.ndarray) -> np.ndarray:
        """True energy used up to each time (ascending), joules."""
        # All that lies before is left out: a sweep has a million points behind it.
        first = max(0, bisect_right(self._times, float(times_s[0])) - 1)
        times, energies = [*self._times[first:], self.now_s], [*self._energies[first:], self.energy_j]
        return np.asarray(np.interp(times_s, times, energies))

    def sensor_updates(self, start_s: float, end_s: float) -> tuple[np.ndarray, np.ndarray]:
        """End times and readings of the sensor's windows that lie wholly between two times."""
        window = self.physics.window_s
        # On a fixed grid of its own: a real sensor's windows do not begin when somebody looks.
        first = int(np.ceil(start_s / window - 1e-9))
        last = int(np.floor(end_s / window + 1e-9))
        edges = np.arange(first, last + 1) * window
        if edges.size < 2:
            return np.empty(0), np.empty(0)
        true_w = np.diff(self.energy_at(edges)) / window
        noise = self.physics.sensor_noise_w * self._random.standard_normal(true_w.size)
        step = self.physics.sensor_step_w
        return edges[1:], np.round((true_w * self.meter_gain + noise) / step) * step

    def _nearest(self, frequency_hz: float) -> float:
        return min(self.physics.frequencies_hz, key=lambda f: abs(f - frequency_hz))

    def _wanted(self, busy: float) -> int:
        if self._locked_index is not None:
            return self._locked_index
        return len(self._levels) - 1 if busy > 0 else 0

    def _advance(self, seconds: float, busy: float, bytes_per_s: float) -> None:
        """Move time in steps short against the thermal constant, throttling on the way."""
        left = seconds
        while left > 0:
            # Nothing throttles at rest.
            step = min(_STEP_S if busy > 0 else 0.5, left)
            power = self._throttled_power(busy, bytes_per_s, step)
            self.temperature_c = self.physics.temperature_after(self.temperature_c, power, step)
            self.energy_j += power * step
            self.now_s += step
            left -= step
            if self.now_s - self._times[-1] >= _HISTORY_S:
                self._times.append(self.now_s)
                self._energies.append(self.energy_j)

    def _throttled_power(self, busy: float, bytes_per_s: float, step_s: float) -> float:
        physics, index = self.physics, self._index
        power = physics.power_at(self._levels[index], self.temperature_c, busy, bytes_per_s)
        if busy <= 0:
            return power
        wanted = self._wanted(busy)
        hot = self.temperature_c > physics.temperature_max_c
        if (power > physics.power_limit_w or hot) and index > 0:
            self._index = index - 1
        elif index < wanted:
            above_w = physics.power_at(self._levels[index + 1], self.temperature_c, busy, bytes_per_s)
            if above_w < physics.power_limit_w and not hot:
                self._index = index + 1
        if self._index < wanted:
            self.throttled_s += step_s
        if self._index == index:
            return power
        return physics.power_at(self._levels[self._index], self.temperature_c, busy, bytes_per_s)
