"""Constraints as masks over cut and frequencies, and in words when none is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cardlab.card.problem.arrays import Array, Mask
from cardlab.card.problem.objective import Table, device_power_remedy, unknown_device_power
from cardlab.card.problem.problem import Problem
from cardlab.core.errors import InfeasibleError, PlanError
from cardlab.core.text import data_size, si

# The one constraint that is a lower bound.
_LEAST = "least layers on the device"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """What limits look at, all of one shape: every choice of one device [C,F], or one choice of each device [M].

    `delay_s` holds the guard band where there is one. None where a value is not known; a NaN keeps every limit.
    """

    delay_s: Array
    server_power_w: Array | None
    server_energy_j: Array | None
    device_energy_j: Array | None
    layers: Array
    device_memory_bytes: Array
    device_memory_limit_bytes: float | Array
    server_memory_bytes: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One constraint: what it measures, its bound, and the unit for a person; arrays of one shape."""

    name: str
    remedy: str
    value: Array
    bound: float | Array
    unit: str
    at_least: bool = False

    @property
    def kept(self) -> Mask:
        """Where it is kept; an unknown value keeps it."""
        if self.at_least:
            return np.asarray(self.value >= self.bound)
        return np.asarray(~(self.value > self.bound))

    def row(self, m: int) -> Limit:
        """Of one device, where arrays are of all [M,...]."""
        bound = self.bound if np.ndim(self.bound) == 0 else np.asarray(self.bound)[m, 0]
        return replace(self, value=self.value[m], bound=float(bound))

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
        raise not_kept(problem.devices[m], self.limits)

    def binding(self, costs_without: Array, cut: int, frequency: int) -> tuple[str, ...]:
        """Names of constraints that forbid the choice which would win without them."""
        # What would win without limits is forbidden by some of them: those, and no others, changed the decision.
        row, column = np.unravel_index(int(np.argmin(costs_without)), costs_without.shape)
        best = (int(row), int(column))
        if best == (cut, frequency):
            return ()
        return tuple(limit.name for limit in self.limits if not limit.kept[best])


def not_kept(device: str, limits: Sequence[Limit]) -> InfeasibleError:
    """What is wrong where no choice of a device keeps all of its limits."""
    for limit in limits:
        if not limit.kept.any():
            # A limit that no choice keeps by itself is the clearest thing to say; else they only collide.
            best, bound = float(limit.value.max() if limit.at_least else limit.value.min()), float(limit.bound)
            return InfeasibleError(
                f"{device}: {limit.name} of {limit.shown(bound)} cannot be kept, "
                f"the best possible is {limit.shown(best)}",
                remedy=limit.remedy,
            )
    # One that every choice keeps has no part in it.
    colliding = [limit for limit in limits if not limit.kept.all()]
    names = ", ".join(limit.name for limit in colliding)
    return InfeasibleError(
        f"{device}: each of {names} can be kept, but not all together",
        remedy=", or ".join(dict.fromkeys(limit.remedy for limit in colliding)),
    )


def check_caps(problem: Problem) -> None:
    """Raise PlanError for a cap on something that is not known: it would be kept by every choice, and so dropped."""
    caps = problem.constraints
    for cap, words, option in (
        (caps.server_power_w, "power", "--max-server-power"),
        (caps.server_energy_j, "energy", "--max-server-energy"),
    ):
        if cap is not None and problem.power_w is None:
            raise PlanError(
                f"a cap on the server's {words} cannot be kept: its power is not known",
                remedy=f"measure it with a meter, or leave {option} out",
            )
    for cap, words, option in (
        (caps.device_energy_j, "a device's energy", "--max-device-energy"),
        (caps.fleet_energy_j, "the devices' energy", "--max-fleet-energy"),
    ):
        lacking = None if cap is None else unknown_device_power(problem)
        if lacking is not None:
            raise PlanError(
                f"a cap on {words} cannot be kept: {lacking}",
                remedy=device_power_remedy(problem, f"leave {option} out"),
            )


def limits_of(
    problem: Problem, m: int, t: Table, cuts: Array | None = None, frequencies: Array | None = None
) -> Limits:
    """The constraints of device m over its table; `cuts` [C] and server `frequencies` [F], bool, admit only some."""
    shape = t.delay_s.shape
    measures = Measures(
        delay_s=t.delay_s if problem.guard_s is None else t.delay_s + problem.guard_s[m],
        server_power_w=None if t.power_w is None else np.broadcast_to(t.power_w, shape),
        server_energy_j=t.energy_j,
        device_energy_j=t.device_energy_j,
        layers=_over(problem.cuts.astype(float), shape),
        device_memory_bytes=_over(problem.device_memory_bytes[m], shape),
        device_memory_limit_bytes=float(problem.device_memory_limit_bytes[m]),
        server_memory_bytes=_over(problem.server_memory_bytes, shape),
    )
    limits = limits_on(problem, measures)
    feasible = np.ones(shape, dtype=bool)
    for limit in limits:
        feasible &= limit.kept
    if cuts is not None:
        feasible &= np.asarray(cuts, dtype=bool)[:, None]
    if frequencies is not None:
        feasible &= np.repeat(np.asarray(frequencies, dtype=bool), t.offered)[None, :]
    return Limits((shape[0], shape[1]), limits, feasible)


def limits_on(problem: Problem, measures: Measures) -> tuple[Limit, ...]:
    """The constraints that the problem states, on these values."""
    wanted = problem.constraints
    guarded = "" if problem.guard_s is None else " with its guard band"
    memory = "use a smaller batch, sequence or model"
    stated = (
        (f"deadline{guarded}", "give a longer --deadline", measures.delay_s, wanted.deadline_s, "s"),
        ("server power cap", "raise --max-server-power", measures.server_power_w, wanted.server_power_w, "W"),
        ("server energy cap", "raise --max-server-energy", measures.server_energy_j, wanted.server_energy_j, "J"),
        ("device energy cap", "raise --max-device-energy", measures.device_energy_j, wanted.device_energy_j, "J"),
        (_LEAST, "lower --min-device-layers", measures.layers, wanted.min_device_layers, "layers"),
        ("device memory", memory, measures.device_memory_bytes, measures.device_memory_limit_bytes, "bytes"),
        ("server memory", memory, measures.server_memory_bytes, problem.server_memory_limit_bytes, "bytes"),
    )
    return tuple(
        Limit(name=name, remedy=remedy, value=value, bound=bound, unit=unit, at_least=name == _LEAST)
        for name, remedy, value, bound, unit in stated
        if value is not None and bound is not None and not np.isnan(bound).all()
    )


def _over(per_cut: Array, shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(per_cut[:, None], shape)
