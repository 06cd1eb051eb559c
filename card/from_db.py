"""From a database to a Problem: who takes part, on which task, with which measured constants.

The task is the only one that all parties share, else the one that is named. A device brings the times
of its newest complete run at its highest clock that was not throttled; the server brings its fits:
latency of each segment and phase over the clocks it offers, power busy and waiting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cardlab.card.problem import Array, Problem
from cardlab.card.scenario import Constraints, Objective
from cardlab.db.store import Store
from cardlab.errors import NotFoundError, PlanError
from cardlab.quantity import Provenance, union_of
from cardlab.records.device import Device
from cardlab.records.fit import Fit
from cardlab.records.measurement import Point, Profile
from cardlab.records.task import Task
from cardlab.records.workload import Analysis

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
SERVER_PARTS = (("layer", "forward"), ("layer", "backward"), ("head", "forward"), ("head", "backward"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a plan from a database was asked for; None is to be found out.

    Attributes:
        server, devices: labels or keys; devices may be LABEL@MODE.
        model, batch, sequence: name the task if the parties share several.
        uplink_bps, downlink_bps: the link, bit/s; asked for by name if missing.
        wire_dtype: dtype of smashed data and gradients on the link; the server's by default.
        energy: how server energy is counted; None takes "round" where waiting power was measured.
    """

    server: str | None = None
    devices: tuple[str, ...] = ()
    model: str | None = None
    batch: int | None = None
    sequence: int | None = None
    uplink_bps: float | None = None
    downlink_bps: float | None = None
    wire_dtype: str | None = None
    energy: str | None = None
    objective: Objective = field(default_factory=Objective)
    constraints: Constraints = field(default_factory=Constraints)
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """A problem with what it was made of."""

    problem: Problem
    task: Task
    server: Device
    fits: tuple[str, ...]
    runs: tuple[str, ...]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]


def gather(store: Store, request: Request) -> Gathered:
    """The problem that the database and the request describe.

    Raises NotFoundError or PlanError naming what is missing and the option or command that gives it.
    """
    _check_link(request)
    server = _server(store, request)
    devices = _devices(store, request, server)
    task = _task(store, request, [server, *devices])
    profiles = [_newest(store, device, task) for device in devices]
    fits = _server_fits(store, server, task)
    server_profile = _newest(store, server, task)
    return _assemble(request, server, task, profiles, fits, server_profile)


def _check_link(request: Request) -> None:
    if request.uplink_bps is None or request.downlink_bps is None:
        missing = "--uplink-mbps" if request.uplink_bps is None else "--downlink-mbps"
        raise PlanError(
            "the link between devices and server is not known",
            remedy=f"give its rates with --uplink-mbps and --downlink-mbps ({missing} is missing)",
        )


def _server(store: Store, request: Request) -> Device:
    if request.server is not None:
        return store.devices.resolve(request.server)
    found = [d for d in store.devices.all() if _can_serve(d)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(d.name for d in store.devices.all()) or "none"
    raise PlanError(
        f"{len(found) or 'no'} device in {store.location} {'are GPU servers' if found else 'is a GPU server'}",
        remedy=f"name the server with --server LABEL; known devices: {known}",
    )


def _can_serve(device: Device) -> bool:
    return device.platform == "nvidia" or (
        device.platform == "simulated" and str(device.model).startswith("rtx-")
    )


def _devices(store: Store, request: Request, server: Device) -> list[Device]:
    if request.devices:
        return [store.devices.resolve(label.split("@")[0]) for label in request.devices]
    found = [d for d in store.devices.all() if d.key != server.key and d.platform != "imported"]
    if not found:
        raise PlanError(
            f"{store.location} holds no device beside the server {server.name!r}",
            remedy="profile a device, or name one with --device LABEL (the server may be one)",
        )
    return found


def _tasks_of(store: Store, device: Device) -> dict[str, Task]:
    profiles = store.runs.select(device=device.key)
    return {p.run.task.uid: p.run.task for p in profiles if p.run.task is not None and p.complete}


def _task(store: Store, request: Request, parties: Sequence[Device]) -> Task:
    per_party = [{u: t for u, t in _tasks_of(store, d).items() if _wanted(t, request)} for d in parties]
    for device, tasks in zip(parties, per_party, strict=True):
        if not tasks:
            raise NotFoundError(
                f"{device.name!r} has no complete profile{_asked(request)}",
                remedy="measure it with profile-device, or go on with an unfinished one by --resume",
            )
    shared = set.intersection(*(set(tasks) for tasks in per_party))
    if len(shared) == 1:
        return per_party[0][shared.pop()]
    if not shared:
        each = "; ".join(
            f"{d.name}: {', '.join(sorted(map(_task_name, tasks.values())))}"
            for d, tasks in zip(parties, per_party, strict=True)
        )
        raise PlanError(f"the parties share no task ({each})", remedy="profile all of them with the same task")
    names = ", ".join(sorted(_task_name(per_party[0][uid]) for uid in shared))
    raise PlanError(f"the parties share several tasks ({names})", remedy="name one by --model, --batch and --seq")


def _wanted(task: Task, request: Request) -> bool:
    asked = ((request.model, task.model), (request.batch, task.batch), (request.sequence, task.sequence))
    return all(want is None or want == have for want, have in asked)


def _asked(request: Request) -> str:
    parts = (("--model", request.model), ("--batch", request.batch), ("--seq", request.sequence))
    words = " ".join(f"{option} {value}" for option, value in parts if value is not None)
    return f" of {words}" if words else ""


def _task_name(task: Task) -> str:
    lora = task.lora
    return (
        f"{task.model} {task.batch}x{task.sequence} r={lora.rank} on {'+'.join(lora.targets)} {task.optimizer}"
    )


def _newest(store: Store, device: Device, task: Task) -> Profile:
    """The newest complete run of the task; _task has made sure that there is one."""
    return [p for p in store.runs.select(device=device.key, task=task.uid) if p.complete][-1]


def best_point(profile: Profile) -> Point:
    """The point at the highest clock that was neither throttled nor contended.

    Raises PlanError if there is none.
    """
    good = [
        p
        for p in profile.points
        if p.operating is not None and not p.operating.throttled and _times(p, "layer") is not None
    ]
    if not good:
        raise PlanError(
            f"{profile.run.device.name!r} has no point with trustworthy times",
            remedy="profile it again on a quiet machine, or with --repeats",
        )
    return max(good, key=lambda p: (p.operating.frequency_hz or 0.0) if p.operating else 0.0)


def _times(point: Point, segment: str, phases: tuple[str, ...] = ("forward", "backward")) -> float | None:
    total = 0.0
    for phase in phases:
        measurement = point.find("latency", segment, phase)
        if measurement is None or measurement.estimate is None:
            return None
        total += measurement.estimate.value
    return total


def device_seconds(profile: Profile, cuts: Array) -> Array:
    """Seconds per mini-batch of the device's side at each cut [C]."""
    point = best_point(profile)
    embedding = _times(point, "embedding", ("forward",))
    first, layer = _times(point, "first_layer"), _times(point, "layer")
    if embedding is None or first is None or layer is None:
        raise PlanError(
            f"{profile.run.device.name!r} lacks the time of a segment", remedy="go on with profile-device --resume"
        )
    return np.asarray(embedding + first + (cuts - 1) * layer)


def _server_fits(store: Store, server: Device, task: Task) -> dict[tuple[str, str | None, str | None], Fit]:
    """The selected fits of the server by (quantity, segment, phase); total rail for powers."""
    found: dict[tuple[str, str | None, str | None], Fit] = {}
    for stored in store.fits.newest(device=server.key, task=task.uid, selected_only=True):
        fit = stored.fit
        found[(fit.quantity, fit.segment, fit.phase)] = fit
    for segment, phase in SERVER_PARTS:
        if ("latency", segment, phase) not in found:
            raise PlanError(
                f"the server {server.name!r} has no fit of {segment} {phase}", remedy="run: calibrate fit"
            )
    return found


def _assemble(
    request: Request,
    server: Device,
    task: Task,
    profiles: Sequence[Profile],
    fits: Mapping[tuple[str, str | None, str | None], Fit],
    server_profile: Profile,
) -> Gathered:
    analysis = _analysis(server_profile)
    cuts = np.array([cut.cut for cut in analysis.cuts])
    clocks = _clocks(server_profile, fits)
    power = fits.get(("power", None, None))
    waiting = fits.get(("wait_power", None, None))
    objective, assumed = _energy_account(request, waiting is not None, power is not None)
    wire, wire_note = _wire(request, server_profile)
    scale = objective.compression * DTYPE_BYTES[wire] / DTYPE_BYTES[server_profile.run.execution.dtype]
    optimizer = _optimizer_bytes(task)
    used = [fits[("latency", *part)] for part in SERVER_PARTS] + [f for f in (power, waiting) if f]
    server_origin = union_of(f.provenance for f in used)
    count = (len(profiles), cuts.size)
    problem = Problem(
        devices=tuple(p.run.device.name for p in profiles),
        cuts=cuts,
        frequency_hz=clocks,
        device_s=np.array([device_seconds(p, cuts) for p in profiles]),
        encode_s=np.zeros(count),
        decode_s=np.zeros(count),
        server_s=_server_seconds(fits, task.architecture.layers - cuts, clocks),
        power_w=_curve(power, clocks),
        wait_power_w=_curve(waiting, clocks),
        idle_power_w=_idle(server_profile),
        up_bytes=np.array([c.activation_bytes for c in analysis.cuts]) * scale,
        down_bytes=np.array([c.gradient_bytes for c in analysis.cuts]) * scale,
        adapter_bytes=np.array([c.adapter_bytes for c in analysis.cuts]) * (1.0 + optimizer),
        uplink_bps=np.full(len(profiles), request.uplink_bps),
        downlink_bps=np.full(len(profiles), request.downlink_bps),
        device_memory_bytes=np.array([_or_nan(c.device_memory_bytes) for c in analysis.cuts]),
        device_memory_limit_bytes=np.array([_or_nan(p.run.device.memory_bytes) for p in profiles]),
        server_memory_bytes=np.array([_or_nan(c.server_memory_bytes) for c in analysis.cuts]),
        server_memory_limit_bytes=_or_nan(server.memory_bytes),
        device_power_w=np.array([_device_power(p) for p in profiles]),
        objective=objective,
        constraints=request.constraints,
        provenance=tuple(
            Provenance(p.run.provenance.origins).joined([server_origin]) for p in profiles
        ),
    )
    return Gathered(
        problem=problem,
        task=task,
        server=server,
        fits=tuple(f.fit_id for f in used),
        runs=tuple(dict.fromkeys([*(p.run.uid for p in profiles), server_profile.run.uid])),
        assumptions=(*request.assumed, *assumed, *wire_note),
        notes=_notes(server, profiles, power),
    )


def _analysis(profile: Profile) -> Analysis:
    if profile.run.analysis is None:
        raise PlanError(f"run {profile.run.uid[:12]} has no analysis", remedy="profile the device again")
    return profile.run.analysis


def _clocks(profile: Profile, fits: Mapping[tuple[str, str | None, str | None], Fit]) -> Array:
    """The clocks the server offers within the range its fits cover; [NaN] where it has none."""
    offered = profile.run.options.get("offered_hz")
    axis = fits[("latency", "layer", "forward")].x
    if not isinstance(offered, list) or not offered or axis.min is None or axis.max is None:
        return np.array([np.nan])
    clocks = np.array(offered, dtype=float)
    inside = clocks[(clocks >= axis.min * 0.995) & (clocks <= axis.max * 1.005)]
    return inside if inside.size else np.array([axis.max])


def _server_seconds(
    fits: Mapping[tuple[str, str | None, str | None], Fit], layers: Array, clocks: Array
) -> Array:
    """Seconds per mini-batch of the server's side [C,F]: its layers and the head."""

    def both(segment: str) -> Array:
        parts = [_curve(fits[("latency", segment, phase)], clocks) for phase in ("forward", "backward")]
        return np.asarray(sum(p for p in parts if p is not None))

    return np.asarray(layers[:, None] * both("layer")[None, :] + both("head")[None, :])


def _curve(fit: Fit | None, clocks: Array) -> Array | None:
    """A fit over clocks [F]; a constant one also where the clock is not known."""
    if fit is None:
        return None
    at = np.where(np.isnan(clocks), 1.0, clocks)
    return np.asarray(fit.curve.evaluate(at, fit.values))


def _energy_account(request: Request, has_waiting: bool, has_power: bool) -> tuple[Objective, tuple[str, ...]]:
    if request.energy is not None:
        return replace(request.objective, energy=request.energy), ()
    kind = "round" if has_waiting else "busy"
    reason = "waiting power was measured" if has_waiting else "waiting power was not measured"
    assumed = (f"energy = {kind} ({reason})",) if has_power else ()
    return replace(request.objective, energy=kind), assumed


def _wire(request: Request, server: Profile) -> tuple[str, tuple[str, ...]]:
    if request.wire_dtype is not None:
        return request.wire_dtype, ()
    dtype = server.run.execution.dtype
    return dtype, (f"wire dtype = {dtype} (the server's)",)


def _optimizer_bytes(task: Task) -> float:
    """Optimizer state that travels with the adapters, as a multiple of their bytes."""
    element = DTYPE_BYTES[task.lora.dtype]
    return 2.0 * 4.0 / element if task.optimizer == "adamw" else 0.0


def _idle(profile: Profile) -> float | None:
    for point in profile.points:
        for m in point.measurements:
            if m.quantity == "idle_power" and m.details.get("total") and m.estimate is not None:
                return m.estimate.value
    return None


def _device_power(profile: Profile) -> float:
    for m in best_point(profile).measurements:
        if m.quantity == "power" and m.details.get("total") and m.estimate is not None:
            return m.estimate.value
    return float("nan")


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _notes(server: Device, profiles: Sequence[Profile], power: Fit | None) -> tuple[str, ...]:
    notes = []
    if power is None:
        notes.append(f"{server.name} has no power data: energy is N/A and only delay is weighed")
    simulated = [p.run.device.name for p in profiles if p.run.device.platform == "simulated"]
    if server.platform == "simulated":
        simulated.append(server.name)
    if simulated:
        notes.append(f"simulated, no number of these is real: {', '.join(dict.fromkeys(simulated))}")
    return tuple(notes)
