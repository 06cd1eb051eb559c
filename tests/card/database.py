"""Databases for planning tests: a simulated GPU server with fits, and CPU devices, built row by row."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from cardlab.calibrate.service import fit_store
from cardlab.core.records.device import Device
from cardlab.core.records.measurement import OperatingPoint, PlannedPoint
from cardlab.core.records.task import Task
from cardlab.db import open_store
from cardlab.db.store import Store
from tests import records

CLOCKS = tuple(float(f) * 1e6 for f in range(600, 2401, 100))
MEASURED = CLOCKS[::3]
SERVER = Device(
    key="simulated:rtx-4060:gpu",
    name="gpu",
    platform="simulated",
    model="rtx-4060",
    cores=3072,
    frequency_min_hz=6e8,
    frequency_max_hz=2.4e9,
    memory_bytes=8 * 2**30,
)
BOARD = Device(key="jetson:0001", name="board", platform="jetson", memory_bytes=8 * 2**30)


def layer_s(f: float) -> float:
    return 0.0004 + 3.0e6 / f


def power_w(f: float) -> float:
    return 30.0 + 80.0 * (f / 2.4e9) ** 3


def add_server(
    store: Store,
    device: Device = SERVER,
    *,
    power: bool = True,
    task: Task = records.TASK,
    fit: bool = True,
    layer: float = 1.0,
    head: float = 3.0,
    clocks: tuple[float, ...] = MEASURED,
    load: float | None = None,
    **changes: object,
) -> None:
    """A complete sweep of the server, and its fits; `layer` and `head` are multiples of `layer_s`."""
    planned = tuple(PlannedPoint(index=i, requested_hz=f) for i, f in enumerate(clocks))
    run = records.run(device=device, planned=planned, offered_hz=tuple(CLOCKS), task=task, **changes)
    store.runs.begin(run)
    for point in planned:
        f = point.requested_hz or 0.0
        rows = [
            records.latency("layer", "forward", layer * layer_s(f)),
            records.latency("layer", "backward", layer * 1.1 * layer_s(f)),
            records.latency("head", "forward", head * layer_s(f)),
            records.latency("head", "backward", head * layer_s(f)),
            records.latency("embedding", "forward", 1e-5),
            records.latency("first_layer", "forward", layer_s(f)),
            records.latency("first_layer", "backward", layer_s(f)),
        ]
        rows += [] if load is None else [records.latency("layer_load", "load", load)]
        if power:
            rows += [
                records.power(power_w(f)),
                records.power(25 + 5 * f / 2.4e9, "wait_power"),
                records.power(12.0, "idle_power"),
                records.power(5.0, rail="memory", total=False),
            ]
        uid = store.runs.begin_point(run.uid, point)
        store.runs.finish_point(uid, OperatingPoint(frequency_hz=f, throttled=False), *rows)
    if fit:
        fit_store(store, device=device.key, created_at="2026-11-21T10:10:00.000000Z")


def add_device(
    store: Store,
    device: Device = BOARD,
    *,
    seconds: float = 0.02,
    power: float | None = 15.0,
    task: Task = records.TASK,
    mode: str | None = None,
    finish: bool = True,
    load: float | None = None,
    **changes: object,
) -> None:
    """One point of a device, its layer taking `seconds` forward."""
    run = records.run(device=device, task=task, options={}, **changes)
    store.runs.begin(run)
    rows = [
        records.latency(segment, phase, value)
        for segment, phase, value in (
            ("embedding", "forward", seconds / 10),
            ("first_layer", "forward", seconds),
            ("first_layer", "backward", seconds),
            ("layer", "forward", seconds),
            ("layer", "backward", 1.2 * seconds),
            ("head", "forward", seconds),
            ("head", "backward", seconds),
        )
    ]
    rows += [] if power is None else [records.power(power)]
    rows += [] if load is None else [records.latency("layer_load", "load", load)]
    uid = store.runs.begin_point(run.uid, run.planned[0])
    if finish:
        state = OperatingPoint(frequency_hz=1e9, throttled=False, power_mode=mode)
        store.runs.finish_point(uid, state, *rows)


def other_task(**changes: object) -> Task:
    return replace(records.TASK, **changes)  # type: ignore[arg-type]


@cache
def _template() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "template.db"
        with open_store(path) as store:
            add_server(store)
            add_device(store)
        return path.read_bytes()


def whole(path: Path) -> Store:
    """A server with fits and one board; fitted once, then copied."""
    path.write_bytes(_template())
    return open_store(path)
