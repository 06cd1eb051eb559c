"""What is published from stored fits: the constants of each power curve and the energy-optimal frequencies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from cardlab.calibrate.constants import delta_from_latency, power_constants
from cardlab.calibrate.optimum import step_optimum
from cardlab.core.records.constants import Constants, Delta, Optimum
from cardlab.core.records.fit import Fit
from cardlab.core.records.measurement import Profile
from cardlab.db.store import Store


def published_constants(store: Store, fits: Sequence[Fit]) -> tuple[Constants, ...]:
    """The constants users publish, one set for each power curve (total rail) among the fits."""
    found, profiles_of = [], _reader(store)
    for cubic in (f for f in fits if f.quantity == "power" and f.law == "cubic"):
        # Of the same curve only: another rail or power mode has another static power.
        static = next((f for f in fits if f.law == "static_cubic" and _same_curve(f, cubic)), None)
        profiles = profiles_of(cubic.device, cubic.task)
        cores = next((p.run.device.cores for p in reversed(profiles)), None)
        found.append(power_constants(static, cubic, cores=cores, delta=_deltas(profiles, cores)))
    return tuple(found)


def energy_optima(store: Store, fits: Sequence[Fit]) -> tuple[Optimum, ...]:
    """Of each chosen power curve whose latency was measured over the same frequencies."""
    found = []
    profiles_of = _reader(store)
    for power in (f for f in fits if f.quantity == "power" and f.selected and f.x.min != f.x.max):
        mine = [f for f in fits if f.quantity == "latency" and f.selected and _same_work(f, power)]
        parts = [(f, count) for f in mine if (count := _count(profiles_of(f.device, f.task), f)) > 0]
        # A constant has no optimum, and one of laws that do not describe the device would be a headline about nothing.
        if parts and power.x.min is not None and all(f.describes for f in (power, *(part for part, _ in parts))):
            found.append(
                Optimum(
                    device=power.device,
                    device_name=power.device_name,
                    task=power.task,
                    workload=power.workload,
                    rail=power.rail,
                    power_mode=power.power_mode,
                    memory_hz=power.memory_hz,
                    work=power.workload or "one training step",
                    law=power.law,
                    optimum=step_optimum(power, parts),
                )
            )
    return tuple(found)


def _reader(store: Store) -> Callable[[str, str | None], tuple[Profile, ...]]:
    """Runs of a device and task, read once however many curves ask for them."""
    return cache(lambda device, task: store.runs.select(device=device, task=task))


def _same_work(a: Fit, b: Fit) -> bool:
    keys = ("device", "task", "workload", "execution", "power_mode", "memory_hz")
    return all(getattr(a, key) == getattr(b, key) for key in keys)


def _count(profiles: Sequence[Profile], latency: Fit) -> float:
    """How often a segment occurs in one step; 1 for a load, 0 for what is no part of the step."""
    if latency.task is None:
        return 1.0
    # The newest analysis counts: an older one may count segments differently.
    for profile in reversed(profiles):
        if profile.run.analysis is not None:
            return float(sum(s.count for s in profile.run.analysis.segments if s.segment == latency.segment))
    return 0.0


def _same_curve(a: Fit, b: Fit) -> bool:
    keys = ("device", "task", "workload", "execution", "quantity", "rail", "power_mode", "memory_hz")
    return all(getattr(a, key) == getattr(b, key) for key in keys)


def _deltas(profiles: Sequence[Profile], cores: int | None) -> list[Delta]:
    """delta of each done point, segment and phase; empty where cores or frequency are unknown."""
    found = []
    for profile in profiles:
        for point in profile.points:
            clock = None if point.operating is None else point.operating.frequency_hz
            if point.operating is None or clock is None or not cores or profile.run.analysis is None:
                continue
            for cost in profile.run.analysis.segments:
                for phase in cost.phases:
                    measured = point.find("latency", cost.segment, phase)
                    flop = cost.forward_flop if phase == "forward" else cost.backward_flop
                    if measured is None or measured.estimate is None or flop <= 0:
                        continue
                    found.append(
                        Delta(
                            segment=cost.segment,
                            phase=phase,
                            dtype=profile.run.execution.dtype,
                            frequency_hz=clock,
                            memory_hz=point.operating.memory_hz,
                            delta=delta_from_latency(measured.estimate, flop, clock, cores),
                        )
                    )
    return found
