"""The simulated devices by name: two server cards and the five devices of CARD's Table I.

Cores and top frequencies are the paper's (arXiv 2412.00090, Table I); `rtx-4060-ti` has the 4352 cores of
the real card, `rtx-4060` the 3072 cores that the paper's table gives. Everything else is assumed.
"""

from __future__ import annotations

from cardlab.core.errors import UsageError
from cardlab.profilers.devices.simulated.physics import Physics

GIB = 2**30


def _steps(low_mhz: float, high_mhz: float, step_mhz: float) -> tuple[float, ...]:
    count = int((high_mhz - low_mhz) / step_mhz + 1e-9)
    frequencies = [low_mhz + i * step_mhz for i in range(count + 1)]
    if frequencies[-1] < high_mhz - 1e-6:
        frequencies.append(high_mhz)
    return tuple(frequency * 1e6 for frequency in frequencies)


def _server(*, cores: int, high_mhz: float, dynamic_w: float, limit_w: float, memory_gib: int) -> Physics:
    return Physics(
        frequencies_hz=_steps(210, high_mhz, 15),
        memory_frequencies_hz=(5001e6, 7001e6, 9001e6),
        cores=cores,
        flop_per_core_cycle=4.0,
        efficiency=0.62,
        head_efficiency=0.74,
        bandwidth_bytes_per_s=288e9,
        overhead_s=90e-6,
        voltage_min_v=0.70,
        voltage_max_v=1.075,
        knee=0.58,
        board_w=11.0,
        leak_w=5.0,
        leak_c=55.0,
        dynamic_w=dynamic_w,
        idle_activity=0.10,
        memory_j_per_byte=60e-12,
        power_limit_w=limit_w,
        ambient_c=28.0,
        thermal_c_per_w=0.27,
        thermal_tau_s=18.0,
        temperature_max_c=84.0,
        window_s=0.1,
        sensor_noise_w=0.25,
        sensor_step_w=0.01,
        time_noise=0.003,
        memory_bytes=memory_gib * GIB,
    )


def _board(*, cores: int, high_mhz: float, dynamic_w: float, memory_gib: int, bandwidth: float) -> Physics:
    return Physics(
        # From 306 MHz as on an Orin, and lower where too few steps would be left.
        frequencies_hz=_steps(min(306.0, high_mhz * 0.4), high_mhz, 102),
        memory_frequencies_hz=(2133e6, 3199e6),
        cores=cores,
        flop_per_core_cycle=5.0,
        efficiency=0.45,
        head_efficiency=0.60,
        bandwidth_bytes_per_s=bandwidth,
        overhead_s=350e-6,
        voltage_min_v=0.62,
        voltage_max_v=0.90,
        knee=0.50,
        board_w=3.2,
        leak_w=0.9,
        leak_c=50.0,
        dynamic_w=dynamic_w,
        idle_activity=0.12,
        memory_j_per_byte=45e-12,
        power_limit_w=60.0,
        ambient_c=28.0,
        thermal_c_per_w=0.9,
        thermal_tau_s=40.0,
        temperature_max_c=95.0,
        window_s=0.43,
        sensor_noise_w=0.08,
        sensor_step_w=0.04,
        time_noise=0.004,
        memory_bytes=memory_gib * GIB,
    )


DEVICES = {
    "rtx-4060-ti": _server(cores=4352, high_mhz=2535, dynamic_w=128.0, limit_w=160.0, memory_gib=16),
    "rtx-4060": _server(cores=3072, high_mhz=2460, dynamic_w=92.0, limit_w=115.0, memory_gib=8),
    "agx-orin-1": _board(cores=2048, high_mhz=1300, dynamic_w=27.0, memory_gib=32, bandwidth=204e9),
    "agx-orin-2": _board(cores=2048, high_mhz=1000, dynamic_w=17.0, memory_gib=32, bandwidth=204e9),
    "agx-orin-3": _board(cores=1792, high_mhz=700, dynamic_w=10.0, memory_gib=32, bandwidth=204e9),
    "orin-nx": _board(cores=1024, high_mhz=700, dynamic_w=6.5, memory_gib=16, bandwidth=102e9),
    "orin-nano": _board(cores=512, high_mhz=500, dynamic_w=3.2, memory_gib=8, bandwidth=68e9),
}


def physics_of(name: str) -> Physics:
    """The physics of a simulated device. Raises UsageError listing the names there are."""
    if name not in DEVICES:
        raise UsageError(f"there is no simulated device {name!r}", remedy=f"choose one of: {', '.join(DEVICES)}")
    return DEVICES[name]
