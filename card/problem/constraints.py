"""Constraints as masks over cut and clock, and in words when none is left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cardlab.card.problem.arrays import Array, Mask
from cardlab.card.problem.objective import Table
from cardlab.card.problem.problem import Problem
from cardlab.core.errors import InfeasibleError
from cardlab.core.text import data_size, si


@dataclass(frozen=True, slots=True)
class Limit:
    """One constraint: what it measures [C,F], its bound, and the unit for a person."""

    name: str
    remedy: str
    value: Array
    bound: float
    unit: str
    at_least: bool = False

    @property
    def kept(self) -> Mask:
        """Where it is kept; an unknown value keeps it."""
        if self.at_least:
            return np.asarray(self.value >= self.bound)
        return np.asarray(~(self.value > self.bound))

    def shown(self, value: float) -> str:
        """A value of this constraint for a person."""
        return data_size(value) if self.unit == "bytes" else si(value, self.unit)


@dataclass(frozen=True, slots=True)
class Limits:
    """All constraints of one device."""

    shape: tuple[int, int]
    limits: tuple[Limit, ...]
    feasible: Mask

    def refuse_if_none(self, problem: Problem, m: int) -> None:
        """Raise InfeasibleError if no choice keeps everything."""
        if self.feasible.any():
            return
        name = problem.devices[m]
        for limit in self.limits:
            if not limit.kept.any():
                best = float(limit.value.max() if limit.at_least else limit.value.min())
                raise InfeasibleError(
                    f"{name}: {limit.name} of {limit.shown(limit.bound)} cannot be kept, "
                    f"the best possible is {limit.shown(best)}",
                    remedy=limit.remedy,
                )
        names = ", ".join(limit.name for limit in self.limits)
        raise InfeasibleError(f"{name}: each of {names} can be kept, but not all together", remedy="relax one of them")

    def binding(self, costs_without: Array, cut: int, clock: int) -> tuple[str, ...]:
        """Names of constraints that forbid the choice which would win without them."""
        row, column = np.unravel_index(int(np.argmin(costs_without)), costs_without.shape)
        best = (int(row), int(column))
        if best == (cut, clock):
            return ()
        return tuple(limit.name for limit in self.limits if not limit.kept[best])


def limits_of(problem: Problem, m: int, t: Table, cuts: Array | None = None, clocks: Array | None = None) -> Limits:
    """The constraints of device m over its table; `cuts` [C] and `clocks` [F], bool, admit only some."""
    limits = tuple(_limits(problem, m, t))
    feasible = np.ones(t.delay_s.shape, dtype=bool)
    for limit in limits:
        feasible &= limit.kept
    if cuts is not None:
        feasible &= np.asarray(cuts, dtype=bool)[:, None]
    if clocks is not None:
        feasible &= np.asarray(clocks, dtype=bool)[None, :]
    return Limits(t.delay_s.shape, limits, feasible)


def _limits(problem: Problem, m: int, t: Table) -> list[Limit]:
    wanted, shape = problem.constraints, t.delay_s.shape
    found = []
    if wanted.deadline_s is not None:
        delay_s = t.delay_s if problem.guard_s is None else t.delay_s + problem.guard_s[m]
        name = "deadline" if problem.guard_s is None else "deadline with its guard band"
        found.append(Limit(name, "give a longer --deadline", delay_s, wanted.deadline_s, "s"))
    if wanted.server_power_w is not None and t.power_w is not None:
        power = np.broadcast_to(t.power_w, shape)
        found.append(Limit("server power cap", "raise --max-server-power", power, wanted.server_power_w, "W"))
    if wanted.server_energy_j is not None and t.energy_j is not None:
        found.append(Limit("server energy cap", "raise --max-server-energy", t.energy_j, wanted.server_energy_j, "J"))
    if wanted.device_energy_j is not None and t.device_energy_j is not None:
        own = _over(t.device_energy_j, shape)
        found.append(Limit("device energy cap", "raise --max-device-energy", own, wanted.device_energy_j, "J"))
    if wanted.min_device_layers is not None:
        layers = _over(problem.cuts.astype(float), shape)
        least = float(wanted.min_device_layers)
        found.append(
            Limit(
                "least layers on the device",
                "lower --min-device-layers",
                layers,
                least,
                "layers",
                at_least=True,
            )
        )
    found.append(
        Limit(
            "device memory",
            "use a smaller batch, sequence or model",
            _over(problem.device_memory_bytes, shape),
            problem.device_memory_limit_bytes[m],
            "bytes",
        )
    )
    found.append(
        Limit(
            "server memory",
            "use a smaller batch, sequence or model",
            _over(problem.server_memory_bytes, shape),
            problem.server_memory_limit_bytes,
            "bytes",
        )
    )
    return [limit for limit in found if not np.isnan(limit.bound)]


def _over(per_cut: Array, shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(per_cut[:, None], shape)
