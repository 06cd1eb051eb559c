"""The physics of a simulated device. It shares no form and no code with the laws that are fitted.

Voltage      V(f): a table of steps; flat up to the knee, then rising with the square of the distance
             above it, rounded up to the regulator's step.
Power        P = P_board + P_leak + P_dynamic + P_memory
             P_leak    = leak_w (V / V_min)^3 exp((T - 25 C) / leak_c)
             P_dynamic = activity C V^2 f;  activity = idle_activity + (1 - idle_activity) x busy
             P_memory  = bytes per second x energy per byte
Time         compute = flop / (f cores flop_per_core_cycle efficiency)
             memory  = bytes / bandwidth
             lap     = overhead + (compute^4 + memory^4)^(1/4);  busy = compute / lap
Heat         dT/dt = (T_ambient + P R_th - T) / tau
Throttling   the frequency steps down one entry while P > limit or T > T_max, and back up below them
Sensor       mean power over windows of window_s, times a fixed gain, plus noise, rounded to a step

The values below are chosen to look like cards of their class; none of them was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

# 6.25 mV, as common voltage regulators have it.
REGULATOR_STEP_V = 0.00625
# Of what a board draws beside its chip, what the memory's clock takes at its highest.
_MEMORY_SHARE = 0.3


class Level(NamedTuple):
    """One entry of the frequency table: its share V^2 f of the highest one's, and its leakage at 25 C."""

    scale: float
    leak_w: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Physics:
    """Constants of one simulated device; units in the names.

    `flop_per_core_cycle` is what dense matrix work reaches at best, `efficiency` the share a layer
    reaches, `head_efficiency` the share that one large matrix reaches.
    """

    frequencies_hz: tuple[float, ...]
    memory_frequencies_hz: tuple[float, ...]
    cores: int
    flop_per_core_cycle: float
    efficiency: float
    head_efficiency: float
    bandwidth_bytes_per_s: float
    overhead_s: float
    voltage_min_v: float
    voltage_max_v: float
    knee: float
    board_w: float
    leak_w: float
    leak_c: float
    dynamic_w: float
    idle_activity: float
    memory_j_per_byte: float
    power_limit_w: float
    ambient_c: float
    thermal_c_per_w: float
    thermal_tau_s: float
    temperature_max_c: float
    window_s: float
    sensor_noise_w: float
    sensor_step_w: float
    time_noise: float
    memory_bytes: int

    @property
    def frequency_max_hz(self) -> float:
        """Highest frequency."""
        return self.frequencies_hz[-1]

    def at_memory(self, memory_hz: float) -> Physics:
        """The same device with its memory at another frequency: bandwidth follows, and some of the board's power."""
        share = memory_hz / self.memory_frequencies_hz[-1]
        return replace(
            self,
            bandwidth_bytes_per_s=self.bandwidth_bytes_per_s * share,
            board_w=self.board_w * (1.0 - _MEMORY_SHARE * (1.0 - share)),
        )

    def voltage_v(self, frequency_hz: float) -> float:
        """Supply voltage at a frequency, a multiple of the regulator's step above the minimum."""
        x = frequency_hz / self.frequency_max_hz
        above = max(0.0, (x - self.knee) / (1.0 - self.knee))
        wanted = (self.voltage_max_v - self.voltage_min_v) * above**2
        return self.voltage_min_v + math.ceil(wanted / REGULATOR_STEP_V - 1e-9) * REGULATOR_STEP_V

    def lap_seconds(
        self, frequency_hz: float, flop: float, traffic_bytes: float, segment: str, repeats: int
    ) -> tuple[float, float]:
        """Duration of a lap and the share of it that the cores compute."""
        share = self.head_efficiency if segment == "head" else self.efficiency
        compute_s = flop / (frequency_hz * self.cores * self.flop_per_core_cycle * share)
        memory_s = traffic_bytes / self.bandwidth_bytes_per_s
        # A smooth maximum: near the ridge a device is slowed by both limits.
        lap_s = repeats * self.overhead_s + (compute_s**4 + memory_s**4) ** 0.25
        return lap_s, min(1.0, compute_s / lap_s)

    def level(self, frequency_hz: float) -> Level:
        """What power at a frequency depends on, whatever runs and however hot it is."""
        voltage = self.voltage_v(frequency_hz)
        scale = (voltage / self.voltage_max_v) ** 2 * frequency_hz / self.frequency_max_hz
        return Level(scale, self.leak_w * (voltage / self.voltage_min_v) ** 3)

    def power_w(self, frequency_hz: float, temperature_c: float, busy: float, bytes_per_s: float) -> float:
        """True power of the whole device in a steady state."""
        return self.power_at(self.level(frequency_hz), temperature_c, busy, bytes_per_s)

    def power_at(self, level: Level, temperature_c: float, busy: float, bytes_per_s: float) -> float:
        """The same at a level that is kept: a sweep asks millions of times."""
        activity = self.idle_activity + (1.0 - self.idle_activity) * busy
        leak = level.leak_w * math.exp((temperature_c - 25.0) / self.leak_c)
        return self.board_w + leak + self.dynamic_w * activity * level.scale + self.memory_j_per_byte * bytes_per_s

    def temperature_after(self, temperature_c: float, power_w: float, seconds: float) -> float:
        """Temperature after `seconds` at constant power."""
        target = self.ambient_c + power_w * self.thermal_c_per_w
        return target + (temperature_c - target) * math.exp(-seconds / self.thermal_tau_s)
