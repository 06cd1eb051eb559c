"""What the views of devices are made from: records of one device, gathered by whoever has a store.

Constants and energy-optimal clocks are results of the calibration, which this room does not import, so they
come as records of their own here.
"""

from __future__ import annotations

from dataclasses import dataclass

from cardlab.core.quantity import Estimate
from cardlab.core.records.device import Device
from cardlab.core.records.fit import Fit
from cardlab.core.records.measurement import Profile
from cardlab.reports.views.fit import Curve


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A published constant of one power curve.

    Attributes:
        name, unit: of the number.
        about: rail and task or load it holds for.
        low_hz, high_hz: clocks it was fitted over.
        error: mean relative error of its law there, fraction.
    """

    name: str
    about: str
    value: Estimate
    unit: str
    low_hz: float
    high_hz: float
    error: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BestClock:
    """The clock of least energy for some work.

    Attributes:
        task, workload, rail, power_mode, memory_hz: subject of the power fit it was found with.
        law: of that power.
        ci95_hz: 95 % range of the clock.
        energy_j: of the work at that clock.
        saving: fraction saved against the highest clock.
        curve: (Hz, J).
    """

    work: str
    task: str | None
    workload: str | None
    rail: str | None
    power_mode: str | None
    memory_hz: float | None
    law: str
    frequency_hz: float
    ci95_hz: tuple[float, float]
    energy_j: Estimate
    saving: float
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One term of one device of a split run, medians over its rounds, seconds; term "delay" is their sum.

    Attributes:
        low_s, high_s: smallest and largest that was observed.
        ci95: interval of the prediction.
        error: (predicted - observed) / observed.
        rounds: how many were observed.
    """

    device: str
    term: str
    observed_s: float | None
    low_s: float | None
    high_s: float | None
    predicted_s: float | None
    ci95: tuple[float, float] | None
    error: float | None
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceData:
    """One device with what is known of it.

    Attributes:
        profiles: the newest run of each task or load.
        fits: newest fits, those only compared included.
        curves: measured points with their law, powers first.
    """

    device: Device
    profiles: tuple[Profile, ...] = ()
    fits: tuple[Fit, ...] = ()
    curves: tuple[Curve, ...] = ()
    constants: tuple[Constant, ...] = ()
    best_clocks: tuple[BestClock, ...] = ()
