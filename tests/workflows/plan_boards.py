"""Boards and cards of unknown physics in a plan whose other parties are known: what a search for a plan is tried on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cardlab.calibrate.best_frequency import begin_search, following
from cardlab.card.problem.being_measured import PartyDraws, side_seconds
from cardlab.card.problem.objective import Range, table
from cardlab.card.problem.problem import Problem
from cardlab.card.solvers.enumeration import best_choice, extents_of
from cardlab.core.identity import new_uid
from cardlab.core.quantity import Estimate
from cardlab.core.records.device import Device
from cardlab.core.records.measurement import (
    Measurement,
    MeterReading,
    OperatingPoint,
    PlannedPoint,
    Point,
    Profile,
    Run,
)
from cardlab.core.records.task import Task
from cardlab.core.records.workload import Analysis, CutCost
from cardlab.db import open_store
from cardlab.db.store import Store
from cardlab.profilers.devices.simulated.catalogue import DEVICES
from cardlab.workflows.best_for_plan import BestForPlan, found_for_plan
from cardlab.workflows.for_plan import PlanSearch, plan_search, read_plan
from tests import records
from tests.calibrate.strangers import stranger, warm_w
from tests.card.database import add_device, add_server

LAYERS = 16
TASK: Task = replace(records.TASK, architecture=replace(records.ARCHITECTURE, layers=LAYERS))
ANALYSIS = Analysis(
    parameters=1000,
    trainable_parameters=10,
    segments=(
        records.segment("embedding", flop=0.0),
        records.segment("first_layer"),
        records.segment("layer", LAYERS - 1),
        records.segment("head"),
    ),
    cuts=tuple(
        CutCost(
            cut=c,
            device_flop=c * 2e9,
            server_flop=(LAYERS + 1 - c) * 2e9,
            activation_bytes=200_000,
            gradient_bytes=200_000,
            adapter_bytes=c * 20_000,
        )
        for c in range(1, LAYERS)
    ),
)
# Shares of a layer's work: the embedding is a lookup, and the first layer's backward pass has less to do.
PARTS = (
    ("embedding", "forward", 0.02),
    ("first_layer", "forward", 1.0),
    ("first_layer", "backward", 0.8),
    ("layer", "forward", 1.0),
    ("layer", "backward", 1.15),
    ("head", "forward", 2.5),
    ("head", "backward", 2.5),
)
SERVERS, BOARDS = ("rtx-4060-ti", "rtx-4060"), ("agx-orin-1", "agx-orin-2", "agx-orin-3", "orin-nx", "orin-nano")


@dataclass(frozen=True)
class Truth:
    """Of one device at one frequency, once it is warm."""

    seconds: Mapping[tuple[str, str], float]
    power_w: float
    wait_power_w: float


def device_of(draw: np.random.Generator, kinds: tuple[str, ...], layer_s: float) -> dict[float, Truth]:
    """A device that nobody has met, by the simulator's physics with other constants.

    A layer takes about `layer_s` at its highest frequency.
    """
    kind = DEVICES[str(draw.choice(kinds))]
    physics = stranger(draw, kind)
    physics = replace(physics, overhead_s=layer_s * float(draw.uniform(0.01, 0.1)))
    flop = layer_s * physics.frequency_max_hz * physics.cores * physics.flop_per_core_cycle * physics.efficiency
    traffic = layer_s * physics.bandwidth_bytes_per_s * float(draw.uniform(0.1, 1.6))
    found = {}
    for hz in physics.frequencies_hz:
        laps = {
            (segment, phase): physics.lap_seconds(hz, share * flop, share * traffic, segment, 1)
            for segment, phase, share in PARTS
        }
        _, busy = laps["layer", "forward"]
        bytes_per_s = traffic / laps["layer", "forward"][0]
        power = warm_w(physics, hz, busy, bytes_per_s)
        waiting = physics.power_w(hz, physics.ambient_c + 8.0, 0.0, 0.0)
        found[hz] = Truth({part: seconds for part, (seconds, _) in laps.items()}, power, waiting)
    return found


def run_of(device: Device, truth: Mapping[float, Truth]) -> Run:
    """The run in which it is measured."""
    planned = begin_search(tuple(truth))
    return records.run(
        device=device, task=TASK, analysis=ANALYSIS, planned=planned, offered_hz=tuple(sorted(truth)), options={}
    )


def visited(truth: Truth, planned: PlannedPoint, noise: np.random.Generator | None) -> Point:
    """A point as it is measured, times to .3 % and powers to .4 %; without noise as it is."""
    hz = planned.requested_hz

    def read(value: float, share: float) -> Estimate:
        off = 0.0 if noise is None else share * float(noise.standard_normal())
        return Estimate(value * (1.0 + off), share * value, None, 20)

    rows = [
        Measurement(uid=new_uid(), quantity="latency", unit="s", segment=s, phase=p, estimate=read(seconds, 0.003))
        for (s, p), seconds in truth.seconds.items()
    ]
    for quantity, value in (("power", truth.power_w), ("wait_power", truth.wait_power_w), ("idle_power", 3.0)):
        estimate, meter = read(value, 0.004), MeterReading(total=True)
        rows.append(
            Measurement(uid=new_uid(), quantity=quantity, unit="W", rail="board", estimate=estimate, meter=meter)
        )
    state = OperatingPoint(frequency_hz=hz, throttled=False)
    return Point(uid=new_uid(), index=planned.index, requested_hz=hz, operating=state, measurements=tuple(rows))


def searched(search: PlanSearch, run: Run, truth: Mapping[float, Truth], noise: np.random.Generator) -> Profile:
    """Measure as `profile-device` does, until the plan is decided."""
    assert run.offered_hz is not None
    points = [visited(truth[p.requested_hz or 0.0], p, noise) for p in run.planned]
    while True:
        profile = Profile(run=run, points=tuple(points))
        planned = following(profile, search.judge, search.part.allowed_hz)
        if planned is None:
            return profile
        points.append(visited(truth[planned.requested_hz or 0.0], planned, noise))


def whole_truth(search: PlanSearch, run: Run, truth: Mapping[float, Truth]) -> PartyDraws:
    """Everything of the device as it is: one draw."""
    whole = [
        visited(truth[hz], PlannedPoint(index=n, requested_hz=hz), None) for n, hz in enumerate(search.part.allowed_hz)
    ]
    cuts = search.open.problems[0].cuts.astype(float)
    seconds = np.array([side_seconds(run, point, cuts, serves=search.part.serves) for point in whole]).T
    hz = np.array(search.part.allowed_hz)
    power, wait = (np.array([[getattr(truth[f], name) for f in hz]]) for name in ("power_w", "wait_power_w"))
    return PartyDraws(frequency_hz=hz, seconds=seconds[None], power_w=power, wait_power_w=wait, idle_power_w=3.0)


def true_regret(search: PlanSearch, run: Run, truth: Mapping[float, Truth], found: BestForPlan) -> tuple[float, float]:
    """What the decisions lose against brute force with full knowledge: of the cost's span, and of what is paid.

    The second takes cost as prices: w D / (Dmax - Dmin) + ..., whose zero is no delay and no energy.
    """
    problem = search.open.with_party(search.open.problems[0], whole_truth(search, run, truth), 0)
    lost, paid = [], []
    for m, extent in enumerate(extents_of(problem)):
        decision = next((d for d in found.decisions if d.device == problem.devices[m]), None)
        if decision is None:
            continue
        best = best_choice(problem, m, extent)
        t = best.table
        row = int(np.flatnonzero(problem.cuts == decision.cut)[0])
        same = np.isclose(t.frequency_hz, decision.server_frequency_hz or np.nan)
        if decision.device_frequency_hz is not None:
            same &= np.isclose(t.device_frequency_hz, decision.device_frequency_hz)
        column = int(np.flatnonzero(same)[0])
        more = float(best.costs[row, column] - best.cost)
        lost.append(more / (1.0 + problem.objective.device_energy_weight))
        paid.append(more / price_of(problem, extent, best.cost))
    return float(np.mean(lost)), float(np.mean(paid))


def price_of(problem: Problem, extent: Range, least: float) -> float:
    """What the best choice pays where cost is prices of a second and of a joule: its zero is no delay and no energy."""
    w, own, (low, high) = problem.objective.weight, problem.objective.device_energy_weight, extent.delay_s
    price = least + w * low / (high - low)
    if extent.energy_j is not None:
        price += (1 - w) * float(extent.energy_j[0]) / float(extent.energy_j[1] - extent.energy_j[0])
    if own and extent.device_energy_j is not None:
        low, high = extent.device_energy_j
        price += own * low / (high - low) if high > low else 0.0
    return price


def world(folder: Path) -> Store:
    """A database with a server and two devices that are known."""
    store = open_store(folder / "world.db")
    add_server(store, task=TASK, analysis=ANALYSIS)
    for n, seconds in enumerate((0.02, 0.05)):
        device = Device(key=f"jetson:known-{n}", name=f"known-{n}", platform="jetson", memory_bytes=8 * 2**30)
        add_device(store, device, task=TASK, analysis=ANALYSIS, seconds=seconds)
    return store


def scenario(folder: Path, draw: np.random.Generator, *, serves: bool, limit: str = "") -> str:
    """A scenario in which the measured one serves two devices, or is the server's only device."""
    up, down = (float(v) * 1e6 for v in draw.uniform((20, 40), (200, 400)))
    names = ("known-0", "known-1") if serves else ("board",)
    parties = "".join(
        f'[[devices]]\nname = "{name}"\nuplink_bps = {up}\ndownlink_bps = {down}\n'
        f"transmit_power_w = 1.5\nreceive_power_w = 1.0\n"
        for name in names
    )
    own = f'device_energy_weight = {float(draw.uniform(0.02, 0.6)):.3f}\ndevice_frequencies = "all"\n'
    kind = f'device_energy = "{draw.choice(("compute", "round"))}"\n'
    objective = f"[objective]\nweight = {float(draw.uniform(0.1, 0.7)):.3f}\n" + ("" if serves else own + kind)
    path = folder / "asked.toml"
    constraints = f"[constraints]\n{limit}\n" if limit else ""
    path.write_text(f'[server]\nname = "{"card" if serves else "gpu"}"\n{parties}{objective}{constraints}')
    return str(path)


@dataclass(frozen=True)
class Outcome:
    """What a search came to: what its decisions lose (of the ranges, and of what is paid), points, and the bound."""

    lost: float
    paid: float
    measured: int
    offered: int
    regret95: float
    cuts: tuple[int, ...]


def search_board(store: Store, folder: Path, draw: np.random.Generator, *, serves: bool, limited: bool) -> Outcome:
    """One board or card that nobody has met, searched; with a limit that some choices break, where that is asked."""
    layer_s = float(draw.uniform(0.0008, 0.004 if serves else 0.006))
    truth = device_of(draw, SERVERS if serves else BOARDS, layer_s)
    kind, name = ("nvidia", "card") if serves else ("jetson", "board")
    run = run_of(Device(key=f"{kind}:new", name=name, platform=kind, memory_bytes=8 * 2**30), truth)
    state = draw.bit_generator.state
    search = plan_search(store, read_plan(scenario(folder, draw, serves=serves)), run, metered=True)
    if limited:
        limit = limit_of(search, run, truth, draw)
        draw.bit_generator.state = state
        search = plan_search(store, read_plan(scenario(folder, draw, serves=serves, limit=limit)), run, metered=True)
    found = found_for_plan(search, searched(search, run, truth, draw))
    lost, paid = true_regret(search, run, truth, found)
    cuts = tuple(d.cut for d in found.decisions)
    return Outcome(lost, paid, found.measured, found.offered, found.regret95, cuts)


def limit_of(search: PlanSearch, run: Run, truth: Mapping[float, Truth], draw: np.random.Generator) -> str:
    """A limit that some of the choices keep."""
    problem = search.open.with_party(search.open.problems[0], whole_truth(search, run, truth), 0)
    each = [table(problem, m) for m in search.open.deciding]
    # Of the slowest of them: the others keep it sooner.
    values = {
        "deadline_s": np.max([t.delay_s for t in each], axis=0),
        "server_energy_j": np.max([np.zeros(1) if t.energy_j is None else t.energy_j for t in each], axis=0),
        "device_energy_j": np.asarray(each[0].device_energy_j, dtype=float),
    }
    names = ("deadline_s", "server_energy_j") if search.part.serves else tuple(values)
    name = str(draw.choice(names))
    return f"{name} = {float(np.quantile(values[name], draw.uniform(0.1, 0.5))):.6f}"
