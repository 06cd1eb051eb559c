"""Devices that nobody has met: the simulator's physics with other constants, whose form no fitted law has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cardlab.profilers.devices.simulated.physics import Physics


def near(draw: np.random.Generator, value: float, spread: float) -> float:
    """Something like that value, log-normally."""
    return value * float(np.exp(draw.normal(0.0, spread)))


def stranger(draw: np.random.Generator, kind: Physics) -> Physics:
    """A device of that kind with voltages, losses and leakage of its own."""
    return replace(
        kind,
        knee=float(draw.uniform(0.3, 0.8)),
        voltage_max_v=kind.voltage_min_v * float(draw.uniform(1.15, 1.6)),
        board_w=near(draw, kind.board_w, 0.5),
        leak_w=near(draw, kind.leak_w, 0.5),
        dynamic_w=near(draw, kind.dynamic_w, 0.4),
    )


def warm_w(physics: Physics, hz: float, busy: float, bytes_per_s: float) -> float:
    """Its power at work once it is warm, W."""
    power = heat = 50.0
    for _ in range(60):
        power = physics.power_w(hz, heat, busy, bytes_per_s)
        heat = min(physics.ambient_c + power * physics.thermal_c_per_w, physics.temperature_max_c)
    return power
