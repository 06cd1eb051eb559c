"""The planner's speed and the quality of its decisions, in one run.

    python benchmarks/planner.py [speed|quality] [--devices N]

speed: device decisions per second of the batch solvers (compiled before the clock starts, best of 5),
beside a vectorised numpy brute force over [devices, cuts, frequencies] in chunks, same process, same
problem; the rows "boards" choose the device's own frequency too: 32 cuts x 64 server x 16 device
frequencies. quality: a stated truth (below), a fleet whose constants are known to 5 %, a channel that is
drawn with fading each round and known when the round is planned, and a deadline 1.2 times the shortest
round that memory allows; how many planned rounds miss it, with and without the guard band, and by
datasheet constants.

The truth. Server: efficiency 0.42 of 2 cores f, per layer a + b/f, head of a 128k vocabulary (4.3 layers
of FLOPs) with a memory term, 81 clocks 0.21 to 1.41 GHz, P = 85 W + dynamic power above a voltage floor,
waiting power 60 to 80 W. Devices: efficiency 0.08 to 0.55 and 1 to 8 ms a layer on the five classes of
CARD's Table I, memory for 6 to 30 of the layers' sizes. Seed 20241200.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cardlab.card.link.channel import draw_rates
from cardlab.card.problem.objective import Range, Table, table
from cardlab.card.problem.offer import Offer
from cardlab.card.problem.problem import PaperServer, Problem
from cardlab.card.problem.scenario import Constraints, LinkSpec, Objective
from cardlab.card.solvers.batch import solve_batch
from cardlab.card.solvers.enumeration import Choice, best_choice, extents_of
from cardlab.card.uncertainty import relative_uncertainty, with_guard
from cardlab.core.errors import InfeasibleError
from cardlab.core.quantity import Provenance

SEED = 20241200
CONFIDENCE = 0.98
Array = np.ndarray


def fleet(devices: int, *, paper: bool, energy: str = "busy", seed: int = SEED) -> Problem:
    """A fleet of the paper's model (L = 32) or of measured tables (31 cuts and 200 clocks)."""
    rng = np.random.default_rng(seed)
    layers = 32 if paper else 33
    cuts = np.arange(1, layers)
    clocks = np.array([0.246e9, 2.46e9]) if paper else np.linspace(0.246e9, 2.46e9, 200)
    flop = (layers - cuts + 0.0) * 1.0e11
    server_s = flop[:, None] / (clocks * 6144)
    power = 0.0 + 6e-27 * clocks**3
    continuous = PaperServer(kappa_w_per_hz3=6e-27, static_power_w=0.0, flop=flop, flop_per_hz=6144.0)
    if not paper:
        continuous = None
        server_s = (layers - cuts)[:, None] * (0.002 + 1e11 / 6144 / clocks) + (0.03 + 4e11 / 6144 / clocks)
        server_s = server_s * (1 + 0.02 * rng.standard_normal(server_s.shape))
        power = (60 + 20 * (clocks / 1e9) * np.maximum(0.7, clocks / 2.46e9) ** 2) * (
            1 + 0.02 * rng.standard_normal(200)
        )
    zero = np.broadcast_to(0.0, (devices, cuts.size))
    return Problem(
        devices=("d",) * devices,
        cuts=cuts,
        frequency_hz=clocks,
        device_s=2e11 / rng.uniform(0.4e12, 5.4e12, devices)[:, None] * cuts,
        encode_s=zero,
        decode_s=zero,
        server_s=server_s,
        power_w=power,
        wait_power_w=0.4 * power,
        idle_power_w=12.0,
        up_bytes=np.full(cuts.size, 2e6),
        down_bytes=np.full(cuts.size, 2e6),
        adapter_bytes=cuts * 1e5,
        uplink_bps=rng.uniform(1e7, 1e8, devices),
        downlink_bps=rng.uniform(2e7, 3e8, devices),
        device_memory_bytes=np.broadcast_to(1e9 + cuts * 2e8, (devices, cuts.size)),
        device_memory_limit_bytes=np.full(devices, np.nan),
        server_memory_bytes=np.full(cuts.size, np.nan),
        device_power_w=rng.uniform(8, 40, devices),
        objective=Objective(weight=0.2, energy=energy, local_epochs=5),
        constraints=Constraints(),
        continuous=continuous,
        provenance=(Provenance.of("assumed"),) * devices,
    )


def constrained(problem: Problem) -> Problem:
    """The same fleet with a memory limit, deadline, power, energy and device energy cap and least layers."""
    rng = np.random.default_rng(1)
    count = len(problem.uplink_bps)
    paper = problem.continuous is not None
    return replace(
        problem,
        device_memory_limit_bytes=rng.uniform(1.3e9, 7.2e9, count),
        constraints=Constraints(
            deadline_s=7.0,
            server_power_w=float(problem.power_w.max()) * 0.9,
            server_energy_j=40.0 if paper else 400.0 if problem.objective.energy == "busy" else 600.0,
            device_energy_j=60.0,
            min_device_layers=2,
        ),
    )


def numpy_brute_force(problem: Problem, clocks: Array, chunk: int = 64) -> Array:
    """Best cost of each device over every cut and clock, [chunk, C, F] at a time (in cache)."""
    epochs, limits, w = problem.objective.local_epochs, problem.constraints, problem.objective.weight
    if problem.continuous is not None:
        paper = problem.continuous
        busy = epochs * paper.flop[:, None] / paper.flop_per_hz / clocks
        power = paper.static_power_w + paper.kappa_w_per_hz3 * clocks**3
        wait = np.full(clocks.size, problem.wait_power_w[0])
    else:
        busy, power, wait = epochs * problem.server_s, problem.power_w, problem.wait_power_w
    counts_waiting = problem.objective.energy == "round"
    need, room = problem.device_memory_bytes, problem.device_memory_limit_bytes
    best = np.empty(len(problem.uplink_bps))
    shared = np.ones(busy.shape, bool)
    if limits.server_power_w is not None:
        shared &= (power <= limits.server_power_w)[None, :]
        shared &= (problem.cuts >= limits.min_device_layers)[:, None]
    for start in range(0, best.size, chunk):
        part = slice(start, start + chunk)
        up, down = 1 / problem.uplink_bps[part, None], 1 / problem.downlink_bps[part, None]
        fixed = epochs * (problem.device_s[part] + 8 * problem.up_bytes * up + 8 * problem.down_bytes * down)
        fixed = fixed + 8 * problem.adapter_bytes * (up + down)
        delay = fixed[:, :, None] + busy
        energy = np.broadcast_to(power * busy, delay.shape)
        if counts_waiting:
            energy = energy + wait * fixed[:, :, None]
        axes = (1, 2)
        d0, d1 = delay.min(axes, keepdims=True), delay.max(axes, keepdims=True)
        e0, e1 = energy.min(axes, keepdims=True), energy.max(axes, keepdims=True)
        cost = w * (delay - d0) / (d1 - d0) + (1 - w) * (energy - e0) / (e1 - e0)
        if limits.deadline_s is not None:
            own = problem.device_power_w[part, None] * epochs * problem.device_s[part]
            cuts = (own <= limits.device_energy_j) & (need[part] <= room[part, None])
            kept = shared & cuts[:, :, None] & (delay <= limits.deadline_s) & (energy <= limits.server_energy_j)
            cost = np.where(kept, cost, np.inf)
        best[part] = cost.min(axes)
    return best


def boards(devices: int, *, energy: str, device_energy: str, seed: int = SEED) -> Problem:
    """A fleet whose devices choose among 16 frequencies, beside a server of 64: 32 cuts."""
    rng = np.random.default_rng(seed)
    base, cuts = fleet(devices, paper=False, energy=energy, seed=seed), np.arange(1, 33)
    clocks, own_hz = np.linspace(0.246e9, 2.46e9, 64), np.linspace(0.306e9, 1.3e9, 16)
    server_s = (33 - cuts)[:, None] * (0.002 + 1e11 / 6144 / clocks) + (0.03 + 4e11 / 6144 / clocks)
    power = 60 + 20 * (clocks / 1e9) * np.maximum(0.7, clocks / 2.46e9) ** 2
    at_most = 2e11 / rng.uniform(0.4e12, 5.4e12, devices)
    layer_s = at_most[:, None] * (0.2 + 0.8 * own_hz[-1] / own_hz)
    draws = rng.uniform(6, 30, (devices, 1))
    zero = np.broadcast_to(0.0, (devices, cuts.size))
    offer = Offer(
        frequency_hz=np.broadcast_to(own_hz, (devices, 16)),
        device_s=np.ascontiguousarray(cuts[None, :, None] * layer_s[:, None, :]),
        power_w=3.0 + draws * (own_hz / 1.3e9) ** 2.2,
        wait_power_w=np.broadcast_to(2.0 + 1.5 * own_hz / 1.3e9, (devices, 16)),
    )
    return replace(
        base,
        cuts=cuts,
        frequency_hz=clocks,
        device_s=offer.device_s[:, :, -1],
        encode_s=zero,
        decode_s=zero,
        server_s=server_s * (1 + 0.02 * rng.standard_normal(server_s.shape)),
        power_w=power * (1 + 0.02 * rng.standard_normal(64)),
        wait_power_w=0.4 * power,
        up_bytes=np.full(cuts.size, 2e6),
        down_bytes=np.full(cuts.size, 2e6),
        adapter_bytes=cuts * 1e5,
        device_memory_bytes=np.broadcast_to(1e9 + cuts * 2e8, (devices, cuts.size)),
        server_memory_bytes=np.full(cuts.size, np.nan),
        transmit_power_w=rng.uniform(0.5, 2.0, devices),
        receive_power_w=rng.uniform(0.2, 1.0, devices),
        objective=replace(base.objective, device_energy=device_energy, device_energy_weight=0.5),
        offer=offer,
    )


def numpy_boards(problem: Problem, chunk: int = 4) -> Array:
    """Best cost of each device over every cut, server frequency and device frequency, [chunk, C, F, G] at a time."""
    epochs, limits, w = problem.objective.local_epochs, problem.constraints, problem.objective.weight
    offer, whole = problem.offer, problem.objective.device_energy == "round"
    busy = (epochs * problem.server_s)[None, :, :, None]
    power, wait = problem.power_w[None, None, :, None], problem.wait_power_w[None, None, :, None]
    best = np.empty(len(problem.uplink_bps))
    for start in range(0, best.size, chunk):
        part = slice(start, start + chunk)
        up, down = 1 / problem.uplink_bps[part, None], 1 / problem.downlink_bps[part, None]
        up_s = 8 * (epochs * problem.up_bytes + problem.adapter_bytes) * up
        down_s = 8 * (epochs * problem.down_bytes + problem.adapter_bytes) * down
        own_s = epochs * offer.device_s[part][:, :, None, :]
        delay = own_s + (up_s + down_s)[:, :, None, None] + busy
        energy = power * busy
        if problem.objective.energy == "round":
            energy = energy + wait * (delay - busy)
        own = offer.power_w[part][:, None, None, :] * own_s
        if whole:
            radio = problem.transmit_power_w[part, None] * up_s + problem.receive_power_w[part, None] * down_s
            own = own + offer.wait_power_w[part][:, None, None, :] * (delay - own_s) + radio[:, :, None, None]
        axes = (1, 2, 3)
        cost = 0.0
        for weight, value in ((w, delay), (1 - w, energy), (problem.objective.device_energy_weight, own)):
            low = value.min(axes, keepdims=True)
            cost = cost + weight * (value - low) / (value.max(axes, keepdims=True) - low)
        if limits.deadline_s is not None:
            kept = (delay <= limits.deadline_s) & (energy <= limits.server_energy_j) & (own <= limits.device_energy_j)
            fits = problem.device_memory_bytes[part] <= problem.device_memory_limit_bytes[part, None]
            kept = kept & (fits & (problem.cuts >= limits.min_device_layers))[:, :, None, None]
            cost = np.where(kept & (power <= limits.server_power_w), cost, np.inf)
        best[part] = cost.min(axes)
    return best


@dataclass(frozen=True)
class Truth:
    """One fleet as it really is, and the same fleet by datasheet constants."""

    problem: Problem
    datasheet: Problem


def truth(devices: int, weight: float, rng: np.random.Generator) -> Truth:
    """The truth of the module docstring: Llama-3.2-1B (16 layers and head), batch 1, 512 tokens."""
    layers, flop, head = 16, 2 * 6.08e7 * 512 * 2.0, 4.3 * 2 * 6.08e7 * 512 * 2.0
    cuts = np.arange(1, layers)
    clocks = np.linspace(0.21e9, 1.41e9, 81)
    rate = 2.0 * 6912 * clocks
    layer_s = 0.0006 + flop / (0.42 * rate)
    head_s = 0.004 + head / (0.42 * rate)
    server_s = (layers - cuts)[:, None] * layer_s + head_s
    voltage = np.maximum(0.7, 0.7 + 0.45 * (clocks - 0.8e9) / 0.61e9)
    power = 85.0 + 190.0 * clocks / 1.41e9 * (voltage / 1.15) ** 2
    peak = rng.choice([5.325e12, 4.096e12, 2.509e12, 1.434e12, 0.512e12], devices)
    efficiency, overhead_s = rng.uniform(0.08, 0.55, devices), rng.uniform(0.001, 0.008, devices)
    device_s = (overhead_s + flop / (peak * efficiency))[:, None] * cuts + 0.001
    zero = np.zeros((devices, cuts.size))
    real = Problem(
        devices=tuple(f"d{m}" for m in range(devices)),
        cuts=cuts,
        frequency_hz=clocks,
        device_s=device_s,
        encode_s=zero,
        decode_s=zero,
        server_s=server_s,
        power_w=power,
        wait_power_w=60 + 20 * clocks / 1.41e9,
        idle_power_w=30.0,
        up_bytes=np.full(cuts.size, 0.1 * 512 * 2048 * 2),
        down_bytes=np.full(cuts.size, 0.1 * 2097152),
        adapter_bytes=cuts * 212992.0,
        uplink_bps=np.ones(devices),
        downlink_bps=np.ones(devices),
        device_memory_bytes=np.broadcast_to(0.53e9 + cuts * 0.22e9, (devices, cuts.size)),
        device_memory_limit_bytes=rng.uniform(1.9e9, 7.1e9, devices),
        server_memory_bytes=np.full(cuts.size, np.nan),
        device_power_w=np.full(devices, np.nan),
        objective=Objective(weight=weight, energy="round", local_epochs=5),
        constraints=Constraints(),
        provenance=(Provenance.of("assumed"),) * devices,
    )
    paper = replace(
        real,
        device_s=flop / peak[:, None] * cuts,
        server_s=(layers - cuts)[:, None] * flop / rate,
        power_w=275.0 / 1.41e9**3 * clocks**3,
        wait_power_w=None,
        objective=replace(real.objective, energy="busy"),
    )
    return Truth(real, paper)


def calibrated(real: Problem, error: float, rng: np.random.Generator) -> Problem:
    """What a calibration with that relative error makes of the truth: one factor a device, one each for
    the server's layers and head, one for its power."""
    devices = rng.lognormal(0, error, (len(real.devices), 1))
    head = real.server_s[-1] - (real.server_s[0] - real.server_s[-1]) / (len(real.cuts) - 1)
    parts = (real.server_s - head) * rng.lognormal(0, error) + head * rng.lognormal(0, error)
    gain = rng.lognormal(0, error)
    return replace(
        real,
        device_s=real.device_s * devices,
        server_s=parts,
        power_w=real.power_w * gain,
        wait_power_w=real.wait_power_w * gain,
    )


def quality(devices: int, calibrations: int, error: float = 0.05, weight: float = 0.2) -> dict[str, dict[str, float]]:
    """By planner: share of devices whose planned round misses its deadline, or is refused though feasible."""
    rng = np.random.default_rng(SEED)
    link = LinkSpec(channel="normal", bandwidth_hz=2e7)
    counts = {name: Counter() for name in ("guarded", "unguarded", "datasheet")}
    for _ in range(calibrations):
        fleet_now = truth(devices, weight, rng)
        up, down = draw_rates(link, fleet_now.problem.devices, rng)
        real = replace(fleet_now.problem, uplink_bps=up, downlink_bps=down)
        believed = calibrated(real, error, rng)
        uncertainty = relative_uncertainty(believed, device=error, server=error, power=error, seed=1)
        paper = replace(fleet_now.datasheet, uplink_bps=up, downlink_bps=down)
        guard = with_guard(
            replace(believed, constraints=Constraints(deadline_s=1.0, deadline_confidence=CONFIDENCE)), uncertainty
        )
        planners = {"guarded": guard, "unguarded": believed, "datasheet": paper}
        extents = {name: extents_of(p) for name, p in planners.items()}
        real_extents = extents_of(real)
        for m in range(devices):
            t = table(real, m)
            room = real.device_memory_bytes[m] <= real.device_memory_limit_bytes[m]
            deadline = 1.2 * float(t.delay_s[room].min())
            best = best_choice(_with_deadline(real, deadline), m, real_extents[m])
            for name, believed_problem in planners.items():
                counts[name].update(_outcome(believed_problem, extents[name][m], m, deadline, t, best))
    return {name: _shares(c) for name, c in counts.items()}


def _with_deadline(problem: Problem, deadline_s: float) -> Problem:
    return replace(problem, constraints=replace(problem.constraints, deadline_s=deadline_s))


def _outcome(problem: Problem, extent: Range, m: int, deadline_s: float, real: Table, best: Choice) -> dict[str, float]:
    try:
        choice = best_choice(_with_deadline(problem, deadline_s), m, extent)
    except InfeasibleError:
        return {"devices": 1, "refused": 1}
    place = (choice.cut, choice.frequency)
    least = float(best.table.energy_j[best.cut, best.frequency])
    believed = float(choice.table.energy_j[place])
    energy = float(real.energy_j[place])
    return {
        "devices": 1,
        "planned": 1,
        "missed": float(real.delay_s[place] > deadline_s),
        "energy_ratio": energy / least,
        "energy_error": abs(believed / energy - 1),
    }


def _shares(c: Counter[str]) -> dict[str, float]:
    return {
        "devices": c["devices"],
        "missed": c["missed"] / c["devices"],
        "refused": c["refused"] / c["devices"],
        "energy_vs_optimum": c["energy_ratio"] / c["planned"],
        "energy_prediction_error": c["energy_error"] / c["planned"],
    }


def seconds(action: Callable[[], object], repeats: int = 5) -> float:
    """Least wall time of some repeats."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def speed(devices: int) -> list[dict[str, object]]:
    """Decisions per second of each batch solver and of numpy's brute force on the same fleet."""
    rows = []
    for name, paper, energy, limited in (
        ("paper, L=32", True, "busy", False),
        ("paper, L=32, all limits", True, "busy", True),
        ("tables 32x200, busy", False, "busy", False),
        ("tables 32x200, busy, all limits", False, "busy", True),
        ("tables 32x200, round", False, "round", False),
        ("tables 32x200, round, all limits", False, "round", True),
    ):
        problem = fleet(devices, paper=paper, energy=energy)
        problem = constrained(problem) if limited else problem
        solve_batch(problem)
        took = seconds(lambda p=problem: solve_batch(p))
        few = fleet(1024, paper=paper, energy=energy)
        few = constrained(few) if limited else few
        # For the continuous model brute force gets 200 clocks, a tenth of what its accuracy would need.
        clocks = np.linspace(0.246e9, 2.46e9, 200)
        chunks = {c: seconds(lambda p=few, k=clocks, c=c: numpy_brute_force(p, k, c), 2) for c in (4, 16, 64)}
        chunk, brute = min(chunks.items(), key=lambda item: item[1])
        answer, reference = solve_batch(few), numpy_brute_force(few, clocks, chunk)
        gap = float(np.nanmax(np.where(np.isfinite(reference), answer.cost - reference, -np.inf)))
        rows.append(
            {
                "case": name,
                "million_per_s": devices / took / 1e6,
                "numpy_million_per_s": 1024 / brute / 1e6,
                "times_faster": (devices / took) / (1024 / brute),
                "numpy_chunk": chunk,
                "feasible": float(solve_batch(problem).feasible.mean()),
                "worst_regret": gap,
            }
        )
        print(
            "{case:34s} {million_per_s:7.2f} M/s  numpy {numpy_million_per_s:.4f} M/s {times_faster:4.0f} x "
            "feasible {feasible:.0%}   regret {worst_regret:.1e}".format(**rows[-1])
        )
    return rows


def speed_of_boards(devices: int) -> list[dict[str, object]]:
    """The same where devices choose their own frequency."""
    rows = []
    for energy, device_energy, limited in (
        ("busy", "compute", False),
        ("busy", "compute", True),
        ("round", "compute", False),
        ("round", "compute", True),
        ("round", "round", False),
        ("round", "round", True),
    ):
        problem = boards(devices, energy=energy, device_energy=device_energy)
        few = boards(256, energy=energy, device_energy=device_energy)
        if limited:
            problem, few = constrained_boards(problem), constrained_boards(few)
        answer = solve_batch(problem)
        took = seconds(lambda p=problem: solve_batch(p))
        brute = min(seconds(lambda p=few, c=c: numpy_boards(p, c), 2) for c in (1, 2, 4))
        found, reference = solve_batch(few), numpy_boards(few)
        gap = float(np.nanmax(np.where(np.isfinite(reference), found.cost - reference, -np.inf)))
        agree = bool((found.feasible == np.isfinite(reference)).all())
        rows.append(
            {
                "case": f"boards, {energy}, device {device_energy}{', all limits' if limited else ''}",
                "million_per_s": devices / took / 1e6,
                "numpy_million_per_s": few.offer.device_s.shape[0] / brute / 1e6,
                "times_faster": (devices / took) / (few.offer.device_s.shape[0] / brute),
                "feasible": float(answer.feasible.mean()),
                "worst_regret": gap,
                "same_feasible": agree,
            }
        )
        print(
            "{case:40s} {million_per_s:6.3f} M/s  numpy {numpy_million_per_s:.5f} M/s {times_faster:4.0f} x "
            "feasible {feasible:.0%}   regret {worst_regret:.1e}".format(**rows[-1])
        )
    return rows


def constrained_boards(problem: Problem) -> Problem:
    """The same fleet with a memory limit, deadline, power, energy and device energy cap and least layers."""
    whole = problem.objective.device_energy == "round"
    limits = replace(constrained(problem).constraints, device_energy_j=60.0 if whole else 40.0)
    return replace(constrained(problem), constraints=limits)


def main() -> None:
    """Run what is asked for and print it; --json gives one document."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="?", choices=("speed", "quality", "all"), default="all")
    parser.add_argument("--devices", type=int, default=200_000)
    parser.add_argument("--calibrations", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, dict] = {}
    if options.what in ("speed", "all"):
        found["speed"] = [*speed(options.devices), *speed_of_boards(min(options.devices, 20_000))]
    if options.what in ("quality", "all"):
        found["quality"] = {}
        for weight in (0.2, 0.5, 0.8):
            found["quality"][str(weight)] = shares = quality(400, options.calibrations, weight=weight)
            for name, row in shares.items():
                print(f"w={weight} {name:10s} " + "  ".join(f"{k} {v:.4g}" for k, v in row.items()))
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
