"""Small random problems whose devices choose their frequency, and an oracle in plain loops that shares no code.

The oracle reads the problem's numbers one at a time and writes out the design's formulas: no array is multiplied, and
nothing of `cardlab.card` is called.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cardlab.card.problem.offer import Offer
from cardlab.card.problem.problem import PaperServer, Problem
from cardlab.card.problem.scenario import Constraints, Objective
from cardlab.core.quantity import Provenance

LIMITS = (
    "deadline",
    "server_power",
    "server_energy",
    "device_energy",
    "fleet_energy",
    "least_layers",
    "device_memory",
    "server_memory",
)
RANGES = ("box", "common", "cut_only", "per_cut")


def random_problem(
    seed: int, limits: tuple[str, ...] = (), *, batch: bool = True, paper: bool = False, many: int | None = None
) -> Problem:
    """`batch`: only ranges that the batch solver knows; `paper`: the server takes any frequency; `many` devices."""
    rng = np.random.default_rng([22, seed])
    devices = 2 if "fleet_energy" in limits else many or int(rng.integers(1, 4))
    cuts = np.arange(1, int(rng.integers(3, 8)))
    count, offered, points = cuts.size, int(rng.integers(1, 6)), int(rng.integers(1, 9))
    shape = (devices, count)
    device_hz = np.sort(rng.uniform(2e8, 1.4e9, (devices, offered)), axis=1)
    # A part that the frequency does not change, and noise: times are measured, and no law.
    device_s = (rng.uniform(0.01, 0.2) + rng.uniform(2e7, 2e8, (devices, 1, 1)) / device_hz[:, None, :]) * cuts[:, None]
    device_s = device_s * rng.uniform(0.85, 1.15, device_s.shape)
    device_w = 4 + 20 * (device_hz / 1e9) ** rng.uniform(1, 3) * rng.uniform(0.9, 1.1, device_hz.shape)
    server_hz = np.sort(rng.uniform(2e8, 2.4e9, points))
    per_hz, kappa, static = 6144.0, float(rng.uniform(2e-27, 2e-26)), float(rng.choice([0.0, rng.uniform(5, 60)]))
    flop = (cuts[-1] + 1.0 - cuts + rng.uniform(0, 4)) * rng.uniform(2e10, 3e11)
    if paper:
        server_hz = np.array([3e8, 2.4e9])
    server_s = flop[:, None] / (per_hz * server_hz)
    power_w = static + kappa * server_hz**3
    wait_w = np.full(2, rng.uniform(1, 40))
    if not paper:
        server_s = server_s * rng.uniform(0.85, 1.15, server_s.shape)
        power_w = (35 + 25 * (server_hz / 1e9) ** rng.uniform(1, 3)) * rng.uniform(0.9, 1.1, points)
        wait_w = 10 + 20 * (server_hz / 2.4e9) * rng.uniform(0.5, 1.0, points)
    problem = Problem(
        devices=tuple(f"d{m}" for m in range(devices)),
        cuts=cuts,
        frequency_hz=server_hz,
        device_s=device_s[:, :, -1],
        encode_s=rng.uniform(0, 0.01, shape),
        decode_s=rng.uniform(0, 0.01, shape),
        handling_s=rng.uniform(0, 0.02, shape),
        server_s=server_s,
        power_w=power_w,
        wait_power_w=wait_w,
        idle_power_w=static if paper else 8.0,
        up_bytes=rng.uniform(1e4, 2e6, count),
        down_bytes=rng.uniform(1e4, 2e6, count),
        adapter_bytes=cuts.astype(np.float64) * rng.uniform(1e3, 3e5),
        uplink_bps=rng.uniform(5e6, 2e8, devices),
        downlink_bps=rng.uniform(5e6, 2e8, devices),
        latency_s=rng.uniform(0, 0.01, devices),
        device_memory_bytes=(1e9 + cuts * 2e8) * rng.uniform(1, 2, (devices, 1)),
        device_memory_limit_bytes=np.full(devices, np.nan),
        server_memory_bytes=1e9 + (cuts[-1] + 1.0 - cuts) * 2e8,
        device_power_w=device_w[:, -1],
        device_frequency_hz=device_hz[:, -1],
        device_wait_power_w=rng.uniform(1, 6, devices),
        device_idle_power_w=rng.uniform(1, 4, devices),
        transmit_power_w=rng.uniform(0.2, 3, devices),
        receive_power_w=rng.uniform(0.1, 1, devices),
        switch_s=0.01,
        objective=Objective(
            weight=float(rng.choice([0.0, 0.2, 0.5, 0.8, 1.0])),
            weight_on=str(rng.choice(["delay", "energy"])),
            range=str(rng.choice(RANGES[:2] if batch else RANGES)),
            energy=str(rng.choice(["busy", "above_idle", "round"])),
            device_energy=str(rng.choice(["compute", "round"])),
            device_energy_weight=float(rng.choice([0.0, 0.3, 1.0, 5.0])),
            local_epochs=int(rng.integers(1, 5)),
        ),
        constraints=Constraints(),
        continuous=PaperServer(kappa_w_per_hz3=kappa, static_power_w=static, flop=flop, flop_per_hz=per_hz)
        if paper
        else None,
        provenance=(Provenance.of("assumed"),) * devices,
    )
    if rng.random() < 0.85:
        offer = Offer(
            frequency_hz=device_hz,
            device_s=device_s,
            power_w=device_w,
            wait_power_w=rng.uniform(1, 3, (devices, 1)) + 3 * device_hz / 1e9,
        )
        problem = replace(problem, offer=offer)
    if rng.random() < 0.2:
        problem = replace(problem, device_price_per_j=rng.choice([0.0, 0.01, 0.1], devices))
    return _limited(problem, limits, rng)


def _limited(problem: Problem, names: tuple[str, ...], rng: np.random.Generator) -> Problem:
    """Limits at a drawn share of what the choices take, so that some choices keep them and some do not."""
    every = [choice for m in range(len(problem.devices)) for choice in choices_of(problem, m)]

    def some(values: list[float], least: float = 0.0) -> float:
        # Between two choices, not at one: which side of a tie rounding falls on says nothing.
        return float(np.quantile(values, rng.uniform(least, 1.0)) * rng.uniform(1.0, 1.02))

    drawn = Constraints(
        deadline_s=some([c.delay_s for c in every]) if "deadline" in names else None,
        server_power_w=some([c.power_w for c in every]) if "server_power" in names else None,
        server_energy_j=some([c.energy_j for c in every]) if "server_energy" in names else None,
        device_energy_j=some([c.own_j for c in every]) if "device_energy" in names else None,
        min_device_layers=int(rng.integers(1, problem.cuts[-1] + 1)) if "least_layers" in names else None,
        fleet_energy_j=len(problem.devices) * some([c.own_j for c in every]) if "fleet_energy" in names else None,
    )
    problem = replace(problem, constraints=drawn)
    if "device_memory" in names:
        problem = replace(problem, device_memory_limit_bytes=rng.uniform(1.2e9, 4e9, len(problem.devices)))
    if "server_memory" in names:
        problem = replace(problem, server_memory_limit_bytes=float(rng.uniform(1.3e9, 2.4e9)))
    return problem


@dataclass(frozen=True)
class One:
    """One choice of one device and all that it costs; indices, seconds, joules."""

    c: int
    f: int
    g: int
    delay_s: float
    energy_j: float
    own_j: float
    power_w: float
    busy_s: float


def choices_of(problem: Problem, m: int, server_hz: list[float] | None = None) -> list[One]:
    """Every choice of device m, limits left aside; `server_hz` for a server that takes any frequency."""
    T, kind = problem.objective.local_epochs, problem.objective.energy
    offer, paper, found = problem.offer, problem.continuous, []
    listed = [float(f) for f in problem.frequency_hz] if server_hz is None else server_hz
    for c in range(len(problem.cuts)):
        up_s = (T * problem.up_bytes[c] + problem.adapter_bytes[c]) * 8 / problem.uplink_bps[m]
        down_s = (T * problem.down_bytes[c] + problem.adapter_bytes[c]) * 8 / problem.downlink_bps[m]
        other_s = T * (problem.encode_s[m, c] + problem.decode_s[m, c]) + problem.handling_s[m, c] + problem.switch_s
        other_s += (2 * T + 2) * problem.latency_s[m]
        for f, hz in enumerate(listed):
            server_s, power_w, wait_w = 0.0, 0.0, float(problem.wait_power_w[0])
            if paper is None:
                server_s, power_w = float(problem.server_s[c, f]), float(problem.power_w[f])
                wait_w = float(problem.wait_power_w[f])
            else:
                server_s = paper.flop[c] / (hz * paper.flop_per_hz)
                power_w = paper.static_power_w + paper.kappa_w_per_hz3 * hz * hz * hz
            busy_s = T * server_s
            for g in range(1 if offer is None else offer.frequency_hz.shape[1]):
                own_s = T * float(problem.device_s[m, c] if offer is None else offer.device_s[m, c, g])
                own_w = float(problem.device_power_w[m] if offer is None else offer.power_w[m, g])
                held_w = float(problem.device_wait_power_w[m] if offer is None else offer.wait_power_w[m, g])
                delay_s = own_s + other_s + up_s + down_s + busy_s
                energy_j = power_w * busy_s
                if kind == "above_idle":
                    energy_j = (power_w - problem.idle_power_w) * busy_s
                if kind == "round":
                    energy_j += wait_w * (delay_s - busy_s)
                own_j = own_w * own_s
                if problem.objective.device_energy == "round":
                    own_j += problem.transmit_power_w[m] * up_s + problem.receive_power_w[m] * down_s
                    own_j += held_w * (delay_s - own_s)
                found.append(One(c, f, g, delay_s, float(energy_j), float(own_j), power_w, busy_s))
    return found


def kept(problem: Problem, m: int, one: One) -> bool:
    """Whether a choice keeps every limit that a device has by itself."""
    limits, slack = problem.constraints, 1 + 1e-12
    return (
        (limits.deadline_s is None or one.delay_s <= limits.deadline_s * slack)
        and (limits.server_power_w is None or one.power_w <= limits.server_power_w * slack)
        and (limits.server_energy_j is None or one.energy_j <= limits.server_energy_j * slack)
        and (limits.device_energy_j is None or one.own_j <= limits.device_energy_j * slack)
        and (limits.min_device_layers is None or problem.cuts[one.c] >= limits.min_device_layers)
        and not problem.device_memory_bytes[m, one.c] > problem.device_memory_limit_bytes[m]
        and not problem.server_memory_bytes[one.c] > problem.server_memory_limit_bytes
    )


def costs_of(problem: Problem, m: int, mine: list[One], server_hz: list[float] | None = None) -> list[float]:
    """Cost of each of these choices of device m; the ranges go over `server_hz` where the server takes any."""
    objective = problem.objective
    w = objective.weight if objective.weight_on == "delay" else 1 - objective.weight
    members = range(len(problem.devices)) if objective.range == "common" else [m]
    every = [one for k in members for one in choices_of(problem, k, server_hz)]
    if objective.range == "cut_only":
        top = max(one.f for one in every), max(one.g for one in every)
        every = [one for one in every if (one.f, one.g) == top]
    price = 0.0 if problem.device_price_per_j is None else float(problem.device_price_per_j[m])

    def scaled(value: float, over: list[float]) -> float:
        low, high = min(over), max(over)
        return (value - low) / (high - low) if high > low else 0.0

    delays, owns, energies = [o.delay_s for o in every], [o.own_j for o in every], [o.energy_j for o in every]
    at_cut = {c: [o.energy_j for o in every if o.c == c] for c in {o.c for o in every}}
    found = []
    for one in mine:
        over = at_cut[one.c] if objective.range == "per_cut" else energies
        total = w * scaled(one.delay_s, delays) + (1 - w) * scaled(one.energy_j, over)
        total += objective.device_energy_weight * scaled(one.own_j, owns) + price * one.own_j
        found.append(total)
    return found


def best_alone(problem: Problem, m: int) -> float | None:
    """Least cost of device m; None where no choice keeps its limits."""
    mine = choices_of(problem, m)
    costs = [cost for one, cost in zip(mine, costs_of(problem, m, mine), strict=True) if kept(problem, m, one)]
    return min(costs) if costs else None


def best_together(problem: Problem) -> float | None:
    """Least sum of the costs of two devices whose energies together keep the fleet's cap; None where none do."""
    sides = []
    for m in range(2):
        mine = choices_of(problem, m)
        rows = zip(mine, costs_of(problem, m, mine), strict=True)
        sides.append([(one.own_j, cost) for one, cost in rows if kept(problem, m, one)])
    best = None
    for own_a, cost_a in sides[0]:
        for own_b, cost_b in sides[1]:
            if own_a + own_b <= problem.constraints.fleet_energy_j * (1 + 1e-12):
                best = cost_a + cost_b if best is None else min(best, cost_a + cost_b)
    return best
