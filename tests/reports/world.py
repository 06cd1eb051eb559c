"""A database for reports: two fitted devices with hostile names, a board without a meter, a plan and a split run.

Built row by row, so that it needs no torch. Values are chosen so that a test can know them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cardlab.calibrate.service import fit_store
from cardlab.card.problem.from_db import Request, gather
from cardlab.card.problem.scenario import Objective
from cardlab.card.schemes.card.planning import plan
from cardlab.card.schemes.card.tradeoffs import with_pareto, with_sensitivity
from cardlab.core.identity import content_hash
from cardlab.core.quantity import Provenance
from cardlab.core.records.device import Device
from cardlab.core.records.measurement import OperatingPoint, PlannedPoint, Run, RunKind
from cardlab.core.records.plan import TERMS, Plan
from cardlab.core.records.training import TrainPhase, TrainRound
from cardlab.db import open_store
from cardlab.db.store import Store
from tests import records
from tests.card import database

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>&'
FORMULA = '=HYPERLINK("http://evil.example","$x_1$")'
SERVER = replace(database.SERVER, name=HOSTILE)
BOARD = Device(key="jetson:0001", name=FORMULA, platform="jetson", cores=1024, memory_bytes=8 * 2**30)
METERLESS = Device(key="cpu:0002", name="bench", platform="cpu", cores=4, memory_bytes=16 * 2**30)
SIMULATED = Provenance.of("simulated")
TRAFFIC = {"embedding": 1_000_000, "first_layer": 50_000_000, "layer": 50_000_000, "head": 10_000_000}
ANALYSIS = replace(
    records.ANALYSIS,
    segments=tuple(replace(s, traffic_bytes=TRAFFIC[s.segment]) for s in records.ANALYSIS.segments),
)
SEGMENTS = (
    ("embedding", "forward", 0.05),
    ("first_layer", "forward", 1.0),
    ("first_layer", "backward", 0.9),
    ("layer", "forward", 1.0),
    ("layer", "backward", 1.1),
    ("head", "forward", 3.0),
    ("head", "backward", 3.0),
)
RUN_UID = "f00d" * 8
ROUNDS = 12


def noise(i: int, size: float = 0.004) -> float:
    """A fixed factor near 1 that differs from point to point."""
    return 1.0 + size * (((i * 7919) % 13) / 6.0 - 1.0)


def add_sweep(store: Store, device: Device, *, scale: float, throttled: bool = False) -> Run:
    """A sweep whose last point, if wanted, was throttled and slow."""
    clocks = database.MEASURED
    planned = tuple(PlannedPoint(index=i, requested_hz=f) for i, f in enumerate(clocks))
    run = records.run(
        device=device,
        planned=planned,
        offered_hz=tuple(database.CLOCKS),
        analysis=ANALYSIS,
        provenance=SIMULATED if device.platform == "simulated" else records.MEASURED,
    )
    store.runs.begin(run)
    for i, point in enumerate(planned):
        f = clocks[i]
        slow = throttled and i == len(clocks) - 1
        rows = [
            records.latency(s, phase, factor * scale * database.layer_s(f) * noise(3 * i + n) * (1.3 if slow else 1.0))
            for n, (s, phase, factor) in enumerate(SEGMENTS)
        ]
        rows += [
            records.power(database.power_w(f) * noise(5 * i + 1) * (0.8 if slow else 1.0)),
            records.power(25 + 5 * f / 2.4e9, "wait_power"),
            records.power(12.0, "idle_power"),
        ]
        uid = store.runs.begin_point(run.uid, point)
        reasons = ("power limit reached",) if slow else ()
        state = OperatingPoint(frequency_hz=f, temperature_c=55.0 + i, throttled=slow, reasons=reasons)
        store.runs.finish_point(uid, state, *rows)
    return run


def make(path: Path) -> Path:
    """The whole world in one database."""
    with open_store(path) as store:
        add_sweep(store, SERVER, scale=1.0, throttled=True)
        add_sweep(store, BOARD, scale=9.0)
        database.add_device(store, METERLESS, seconds=0.03, power=None)
        fit_store(store, created_at="2026-11-21T10:10:00.000000Z")
        made = store.plans.add(make_plan(store), "2026-11-21T11:00:00.000000Z")
        add_split_run(store, made)
    return path


def make_plan(store: Store) -> Plan:
    request = Request(
        server=SERVER.key,
        devices=(BOARD.key, METERLESS.key),
        uplink_bps=5e7,
        downlink_bps=1e8,
        objective=Objective(weight=0.3, local_epochs=5),
    )
    found = gather(store, request, 2)
    made = plan(found.problem, uncertainty=found.uncertainty)
    made = replace(made, fits=found.fits, runs=found.runs, notes=found.notes, assumptions=found.assumptions)
    return with_sensitivity(with_pareto(made, found.problem), found.problem)


def add_split_run(store: Store, followed: Plan) -> None:
    """Twelve rounds of both devices, each term off by a known amount."""
    began = {"uid": RUN_UID, "kind": RunKind.TRAIN, "started_at": "2026-11-21T12:00:00.000000Z"}
    store.runs.begin(records.run(**began, device=SERVER, planned=(), analysis=None))
    decisions = {d.device: d for d in followed.rounds[0].devices}
    for number in range(1, ROUNDS + 1):
        for device in (BOARD, METERLESS):
            d = decisions[device.name]
            phases = tuple(
                TrainPhase(
                    term=t,
                    observed_s=getattr(d.delay_terms, t) * 1.1 * noise(number, 0.03),
                    predicted_s=getattr(d.delay_terms, t),
                    predicted_ci95=(getattr(d.delay_terms, t) * 0.95, getattr(d.delay_terms, t) * 1.05),
                    predicted_provenance=d.provenance,
                )
                for t in TERMS
            )
            store.rounds.add(
                TrainRound(
                    uid=content_hash({"run": RUN_UID, "round": number, "device": device.name}),
                    run=RUN_UID,
                    plan=followed.uid,
                    device=device,
                    number=number,
                    cut=d.cut,
                    frequency_hz=d.frequency_hz,
                    loss=6.0 / number**0.3,
                    delay_s=sum(p.observed_s or 0.0 for p in phases),
                    energy_j=None,
                    phases=(*phases, TrainPhase(term="waiting", observed_s=0.01)),
                    predicted_delay_ci95=d.delay_ci95 or (d.delay_s * 0.95, d.delay_s * 1.05),
                )
            )
