"""Random problems and a brute force over all cuts and clocks that shares no code with the solvers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from cardlab.card.problem.problem import PaperServer, Problem
from cardlab.card.problem.scenario import Constraints, Objective
from cardlab.core.quantity import Provenance

LIMITS = ("deadline", "memory", "server_memory", "power", "energy", "device_energy", "least_layers")


def random_problem(seed: int, *, kind: str, limits: tuple[str, ...] = (), devices: int = 3) -> Problem:
    """kind: "paper" (continuous), "smooth" or "noisy" tables; limits drawn so that most can just be kept."""
    rng = np.random.default_rng(seed)
    layers = int(rng.integers(3, 33))
    cuts = np.arange(1, layers)
    blocks = cuts.astype(np.float64)
    count = (devices, cuts.size)
    epochs = int(rng.integers(1, 6))
    energy = str(rng.choice(["busy", "above_idle", "round"]))
    objective = Objective(
        weight=float(rng.choice([0.0, 0.05, 0.2, 0.5, 0.8, 1.0])),
        weight_on=str(rng.choice(["delay", "energy"])),
        range=str(rng.choice(["box", "common"])),
        energy=energy,
        local_epochs=epochs,
        compression=1.0,
        device_energy_weight=float(rng.choice([0.0, 0.3])),
    )
    layer_s = rng.uniform(0.005, 0.08, devices)
    device_s = layer_s[:, None] * cuts * rng.uniform(0.95, 1.05, count) + rng.uniform(0, 0.05, (devices, 1))
    head = rng.uniform(0, 5)
    low, high = 0.2e9, rng.uniform(1.2e9, 2.6e9)
    common = partial(
        Problem,
        devices=tuple(f"d{m}" for m in range(devices)),
        cuts=cuts,
        device_s=device_s,
        encode_s=np.full(count, 0.001),
        decode_s=np.full(count, 0.002),
        up_bytes=np.full(cuts.size, rng.uniform(1e4, 2e6)),
        down_bytes=np.full(cuts.size, rng.uniform(1e4, 2e6)),
        adapter_bytes=blocks * rng.uniform(0, 3e5),
        uplink_bps=rng.uniform(5e6, 2e8, devices),
        downlink_bps=rng.uniform(5e6, 2e8, devices),
        # Each device needs its own: the same cut takes twice as much in float32.
        device_memory_bytes=(1e9 + blocks * 2e8)[None, :] * (1.0 + np.arange(devices) % 3 / 2.0)[:, None],
        device_memory_limit_bytes=np.full(devices, np.nan),
        server_memory_bytes=1e9 + (layers - blocks) * 2e8,
        device_power_w=rng.uniform(5, 30, devices),
        handling_s=cuts * rng.uniform(0, 2e-3, (devices, 1)),
        switch_s=0.01,
        latency_s=np.random.default_rng([seed, 1]).uniform(0, 0.02, devices),
        objective=objective,
        constraints=Constraints(),
        provenance=tuple(Provenance.of("assumed") for _ in range(devices)),
    )
    static = float(rng.choice([0.0, rng.uniform(10, 90)]))
    flop = (layers - blocks + head) * rng.uniform(2e10, 2e11)
    if kind == "paper":
        kappa, per_hz = float(rng.uniform(2e-27, 2e-26)), 2.0 * 3072
        clocks = np.array([low, high])
        problem = common(
            frequency_hz=clocks,
            server_s=flop[:, None] / (clocks * per_hz),
            power_w=static + kappa * clocks**3,
            wait_power_w=np.full(2, rng.uniform(1, 60)),
            idle_power_w=static,
            continuous=PaperServer(kappa_w_per_hz3=kappa, static_power_w=static, flop=flop, flop_per_hz=per_hz),
        )
    else:
        clocks = np.sort(rng.uniform(low, high, int(rng.choice([1, 2, 7, 40, 200]))))
        noise = 0.15 if kind == "noisy" else 0.0
        server_s = flop[:, None] / (clocks * 6144) + rng.uniform(0, 0.02)
        server_s = server_s * (1 + noise * rng.uniform(-1, 1, server_s.shape))
        power = (40 + 20 * (clocks / 1e9) ** rng.uniform(1, 3)) * (1 + noise * rng.uniform(-1, 1, clocks.size))
        wait = 25 + 8 * (clocks / 1e9) ** 2 * (1 + noise * rng.uniform(-1, 1, clocks.size))
        problem = common(
            frequency_hz=clocks,
            server_s=server_s,
            power_w=power,
            wait_power_w=wait,
            idle_power_w=15.0,
        )
    return _limited(problem, limits, rng)


def _limited(problem: Problem, names: tuple[str, ...], rng: np.random.Generator) -> Problem:
    limits = Constraints()
    table = _values(problem, 0, 41)
    if "deadline" in names:
        limits = replace(limits, deadline_s=float(table.delay.min() * rng.uniform(0.98, 1.8)))
    if "power" in names:
        limits = replace(limits, server_power_w=float(np.quantile(table.power, rng.uniform(0.1, 1.0))))
    if "energy" in names:
        limits = replace(limits, server_energy_j=float(np.quantile(table.energy, rng.uniform(0.05, 0.9))))
    if "device_energy" in names:
        limits = replace(limits, device_energy_j=float(np.quantile(table.own, rng.uniform(0.2, 1.0))))
    if "least_layers" in names:
        limits = replace(limits, min_device_layers=int(rng.integers(1, problem.cuts[-1] + 1)))
    problem = replace(problem, constraints=limits)
    if "memory" in names:
        room = rng.uniform(1.3e9, 1e9 + 2e8 * problem.cuts[-1], len(problem.devices))
        problem = replace(problem, device_memory_limit_bytes=room)
    if "server_memory" in names:
        problem = replace(problem, server_memory_limit_bytes=float(rng.uniform(2e9, 9e9)))
    return problem


@dataclass
class Values:
    clocks: np.ndarray
    delay: np.ndarray
    energy: np.ndarray
    power: np.ndarray
    own: np.ndarray


def _values(problem: Problem, m: int, grid: int, clocks: np.ndarray | None = None) -> Values:
    """Delay [C,F], energy [C,F], power [F], own energy [C] written out from the design's formulas."""
    epochs, kind = problem.objective.local_epochs, problem.objective.energy
    assert problem.power_w is not None and problem.wait_power_w is not None and problem.device_power_w is not None
    server, power, wait, paper = problem.server_s, problem.power_w, problem.wait_power_w, problem.continuous
    if paper is None:
        clocks = problem.frequency_hz
    else:
        if clocks is None:
            clocks = np.linspace(problem.frequency_hz[0], problem.frequency_hz[-1], grid)
        server = paper.flop[:, None] / paper.flop_per_hz / clocks
        power = paper.static_power_w + paper.kappa_w_per_hz3 * clocks**3
        wait = np.full(clocks.size, wait[0])
    up, down = problem.uplink_bps[m], problem.downlink_bps[m]
    away = epochs * (
        problem.device_s[m]
        + problem.encode_s[m]
        + problem.decode_s[m]
        + problem.up_bytes * 8 / up
        + problem.down_bytes * 8 / down
    )
    away = away + problem.adapter_bytes * 8 * (1 / up + 1 / down) + problem.handling_s[m] + problem.switch_s
    # Each of two messages a mini-batch, and adapters down and back.
    away = away + (2 * epochs + 2) * problem.latency_s[m]
    busy = epochs * server
    energy = power * busy
    if kind == "above_idle":
        energy = (power - problem.idle_power_w) * busy
    if kind == "round":
        energy = power * busy + wait * away[:, None]
    own = problem.device_power_w[m] * epochs * problem.device_s[m]
    return Values(clocks, away[:, None] + busy, energy, power, own)


@dataclass
class Best:
    feasible: bool
    cost: float
    costs: np.ndarray
    kept: np.ndarray


def brute_force(problem: Problem, m: int, grid: int = 2001) -> Best:
    """The cheapest choice of device m over all cuts and clocks (a grid for a continuous server)."""
    mine = _values(problem, m, grid)
    # Where a continuous energy has its least between grid points, the range must know.
    members = range(len(problem.devices)) if problem.objective.range == "common" else [m]
    delays, energies, owns = [], [], []
    for k in members:
        v = _values(problem, k, grid, _with_extreme(problem, grid))
        delays.append(v.delay)
        energies.append(v.energy)
        owns.append(v.own)
    weight = problem.objective.weight if problem.objective.weight_on == "delay" else 1 - problem.objective.weight
    costs = (
        weight * _scaled(mine.delay, delays)
        + (1 - weight) * _scaled(mine.energy, energies)
        + problem.objective.device_energy_weight * _scaled(mine.own, owns)[:, None]
    )
    kept = keeps(problem, m, mine)
    return Best(bool(kept.any()), float(costs[kept].min()) if kept.any() else np.nan, costs, kept)


def _with_extreme(problem: Problem, grid: int) -> np.ndarray | None:
    paper = problem.continuous
    if paper is None:
        return None
    low, high = problem.frequency_hz[0], problem.frequency_hz[-1]
    clocks = np.linspace(low, high, grid)
    if problem.objective.energy == "above_idle":
        return clocks
    return np.append(clocks, np.clip(np.cbrt(paper.static_power_w / 2 / paper.kappa_w_per_hz3), low, high))


def cost_at(problem: Problem, m: int, cut: int, clock_hz: float) -> tuple[float, bool]:
    """Cost of a choice (layers, Hz) and whether it keeps every limit to 1e-9."""
    at = np.array([clock_hz]) if problem.continuous is not None else None
    mine = _values(problem, m, 0, at)
    c = int(np.searchsorted(problem.cuts, cut))
    f = int(np.argmin(np.abs(mine.clocks - clock_hz)))
    members = range(len(problem.devices)) if problem.objective.range == "common" else [m]
    every = [_values(problem, k, 2001, _with_extreme(problem, 2001)) for k in members]
    weight = problem.objective.weight if problem.objective.weight_on == "delay" else 1 - problem.objective.weight
    cost = (
        weight * _scaled(mine.delay, [v.delay for v in every])[c, f]
        + (1 - weight) * _scaled(mine.energy, [v.energy for v in every])[c, f]
        + problem.objective.device_energy_weight * _scaled(mine.own, [v.own for v in every])[c]
    )
    return float(cost), bool(keeps(problem, m, mine, 1e-9)[c, f])


def _scaled(values: np.ndarray, over: list[np.ndarray]) -> np.ndarray:
    low, high = min(v.min() for v in over), max(v.max() for v in over)
    return np.zeros_like(values) if high <= low else (values - low) / (high - low)


def keeps(problem: Problem, m: int, v: Values, slack: float = 0.0) -> np.ndarray:
    limits, more = problem.constraints, 1 + slack
    kept = np.ones(v.delay.shape, dtype=bool)
    if limits.deadline_s is not None:
        kept &= v.delay <= limits.deadline_s * more
    if limits.server_power_w is not None:
        kept &= (v.power <= limits.server_power_w * more)[None, :]
    if limits.server_energy_j is not None:
        kept &= v.energy <= limits.server_energy_j * more
    if limits.device_energy_j is not None:
        kept &= (v.own <= limits.device_energy_j * more)[:, None]
    if limits.min_device_layers is not None:
        kept &= (problem.cuts >= limits.min_device_layers)[:, None]
    if not np.isnan(problem.device_memory_limit_bytes[m]):
        kept &= (problem.device_memory_bytes[m] <= problem.device_memory_limit_bytes[m])[:, None]
    if not np.isnan(problem.server_memory_limit_bytes):
        kept &= (problem.server_memory_bytes <= problem.server_memory_limit_bytes)[:, None]
    return kept
