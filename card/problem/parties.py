"""Who takes part in a plan from a database, and on which task.

The task is the only one that all parties share, else the one that is named. Of each device its newest
complete run of that task counts, one that held a frequency first; LABEL@MODE asks for the power mode MODE.
The server is the only GPU server of the database, unless one is named; one device may be both (a local run).
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cardlab.card.problem.scenario import Constraints, LinkSpec, Objective
from cardlab.core.errors import NotFoundError, PlanError
from cardlab.core.records.device import Device
from cardlab.core.records.measurement import Point, Profile
from cardlab.core.records.task import Task
from cardlab.db.store import Store
from cardlab.db.store.meters import behind_sensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a file gives of one device; None is what was measured, or what holds for all.

    Attributes:
        uplink_bps, downlink_bps: its link, bit/s.
        memory_bytes: limit in place of what its profile found.
        power_w: of the whole device at work, in place of what its meter read.
        frequencies_hz: the only ones it may choose among, where devices choose; empty leaves all.
        transmit_power_w, receive_power_w: what its radio draws while it sends and receives, which nothing measures.
    """

    uplink_bps: float | None = None
    downlink_bps: float | None = None
    memory_bytes: float | None = None
    power_w: float | None = None
    frequencies_hz: tuple[float, ...] = ()
    transmit_power_w: float | None = None
    receive_power_w: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a plan from a database was asked for; None is to be found out.

    Attributes:
        server, devices: labels or keys; devices may be LABEL@MODE.
        model, batch, sequence: name the task if the parties share several.
        task: the first digits of its uid, which tells apart what those do not (LoRA, optimizer).
        uplink_bps, downlink_bps: the link, bit/s.
        given: what a file gives of each of `devices`, in their order; empty gives nothing.
        server_memory_bytes: limit in place of what the server's profile found.
        rtt_s: round trip of the link, seconds; that of the stored link by default.
        link: a radio channel to draw rates from, for a direction without a rate.
        link_name: a stored link whose rates to take.
        wire_dtype: dtype of smashed data and gradients on the link; the server's by default.
        energy: how server energy is counted; None takes "round" where waiting power was measured.
        learnt: multiply by what runs taught (calibrate learn).
    """

    server: str | None = None
    devices: tuple[str, ...] = ()
    model: str | None = None
    batch: int | None = None
    sequence: int | None = None
    task: str | None = None
    uplink_bps: float | None = None
    downlink_bps: float | None = None
    given: tuple[Given, ...] = ()
    server_memory_bytes: float | None = None
    rtt_s: float | None = None
    link: LinkSpec | None = None
    link_name: str | None = None
    wire_dtype: str | None = None
    energy: str | None = None
    objective: Objective = field(default_factory=Objective)
    constraints: Constraints = field(default_factory=Constraints)
    assumed: tuple[str, ...] = ()
    learnt: bool = False

    def of_each(self, count: int) -> tuple[Given, ...]:
        """What is given of each of `count` devices; a rate for all of them wins over that of one."""
        given = self.given or (Given(),) * count
        return tuple(
            replace(g, uplink_bps=self.uplink_bps or g.uplink_bps, downlink_bps=self.downlink_bps or g.downlink_bps)
            for g in given
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """A device that takes part, with the power mode that was asked for (None: any)."""

    device: Device
    mode: str | None = None

    @property
    def label(self) -> str:
        """How the plan calls it."""
        return self.device.name if self.mode is None else f"{self.device.name}@{self.mode}"


def find_server(store: Store, request: Request) -> Device:
    """The named server, else the only GPU server. Raises PlanError or NotFoundError naming --server."""
    if request.server is not None:
        return store.devices.resolve(request.server)
    every = store.devices.all()
    # Simulated boards and simulated servers share a platform, so the model's name has to tell them apart.
    found = [d for d in every if _can_serve(d)]
    if len(found) == 1:
        return found[0]
    what = "no device in it is a GPU server" if not found else f"{len(found)} devices in it are GPU servers"
    known = ", ".join(d.name for d in every) or "none"
    raise PlanError(f"{store.location}: {what}", remedy=f"name the server with --server LABEL; known devices: {known}")


def _can_serve(device: Device) -> bool:
    return device.platform == "nvidia" or (device.platform == "simulated" and str(device.model).startswith("rtx-"))


def find_devices(store: Store, request: Request, server: Device) -> list[Party]:
    """The named devices, else all but the server and imports. Raises PlanError naming --device."""
    if request.devices:
        parties = [find_party(store, label) for label in request.devices]
        for party in parties:
            if parties.count(party) > 1:
                raise PlanError(f"device {party.label!r} is named twice", remedy="name each --device once")
        return _told_apart(parties)
    # An imported curve is a device in the database but nothing that could take part in a run.
    found = [d for d in store.devices.all() if d.key != server.key and d.platform != "imported"]
    if not found:
        raise PlanError(
            f"{store.location} holds no device beside the server {server.name!r}",
            remedy="profile a device, or name one with --device LABEL (the server may be one)",
        )
    return _told_apart([Party(device=device) for device in found])


def _told_apart(parties: list[Party]) -> list[Party]:
    """The parties; PlanError where two have one label, by which a plan's decisions are found."""
    known: dict[str, Device] = {}
    for party in parties:
        other = known.setdefault(party.label, party.device)
        if other.key != party.device.key:
            raise PlanError(
                f"two devices are called {party.label!r} ({other.key} and {party.device.key})",
                remedy="profile one again under another --name, or plan with one of them: --device KEY",
            )
    return parties


def find_party(store: Store, label: str) -> Party:
    """The device of that label or key, or of LABEL@MODE. Raises NotFoundError."""
    try:
        return Party(device=store.devices.resolve(label))
    except NotFoundError:
        # Tried as a whole label first: a label may hold an @ of its own.
        name, at, mode = label.rpartition("@")
        if not at or not mode:
            raise
    return Party(device=store.devices.resolve(name), mode=mode)


def find_task(store: Store, request: Request, parties: Sequence[Party]) -> Task:
    """The task all parties share. Raises NotFoundError or PlanError naming the options."""
    per_party = [{u: t for u, t in _tasks_of(store, p).items() if _wanted(t, request)} for p in parties]
    for party, tasks in zip(parties, per_party, strict=True):
        if not tasks:
            raise NotFoundError(
                f"{party.label!r} has no complete profile{_asked(request)}",
                remedy="measure it with profile-device (--resume goes on), or name who takes part with --device",
            )
    shared = set.intersection(*(set(tasks) for tasks in per_party))
    if len(shared) == 1:
        return per_party[0][shared.pop()]
    if not shared:
        each = "; ".join(
            f"{p.label}: {', '.join(sorted(map(task_name, tasks.values())))}"
            for p, tasks in zip(parties, per_party, strict=True)
        )
        raise PlanError(f"the parties share no task ({each})", remedy="profile all of them with the same task")
    names = ", ".join(sorted(f"{task_name(per_party[0][uid])}: {uid[:8]}" for uid in shared))
    raise PlanError(
        f"the parties share several tasks ({names})", remedy="name one by --model, --batch and --seq, or --task ID"
    )


def _tasks_of(store: Store, party: Party) -> dict[str, Task]:
    if party.mode is None:
        return {task.uid: task for _, task in store.runs.finished(party.device.key) if task is not None}
    return {p.run.task.uid: p.run.task for p in _in_modes(store, party, None) if p.run.task is not None}


def _in_modes(store: Store, party: Party, task: Task | None) -> list[Profile]:
    """Complete profiles with points in the power mode that was asked for, in the order of `Runs.finished`."""
    uid = None if task is None else task.uid
    profiles = [p for p in store.runs.select(device=party.device.key, task=uid) if p.complete]
    found = [p for p in profiles if any(_in_mode(point, party.mode) for point in p.points)]
    return sorted(found, key=lambda p: p.holds)


def _in_mode(point: Point, mode: str | None) -> bool:
    return point.operating is not None and point.operating.power_mode == mode


def newest_profile(store: Store, party: Party, task: Task) -> Profile:
    """The newest complete run of the task, with only the points of the power mode that was asked for.

    Its powers are those behind a sensor that was calibrated.

    `find_task` has made sure that there is one.
    """
    if party.mode is None:
        uids = [uid for uid, done in store.runs.finished(party.device.key) if done is not None and done.uid == task.uid]
        profile = store.runs.get(uids[-1])
    else:
        found = _in_modes(store, party, task)[-1]
        profile = Profile(run=found.run, points=tuple(p for p in found.points if _in_mode(p, party.mode)))
    return behind_sensors(store.runs, profile)


def _wanted(task: Task, request: Request) -> bool:
    asked = ((request.model, task.model), (request.batch, task.batch), (request.sequence, task.sequence))
    return task.uid.startswith(request.task or "") and all(want is None or want == have for want, have in asked)


def _asked(request: Request) -> str:
    parts = (
        ("--model", request.model),
        ("--batch", request.batch),
        ("--seq", request.sequence),
        ("--task", request.task),
    )
    words = " ".join(f"{option} {value}" for option, value in parts if value is not None)
    return f" of {words}" if words else ""


def task_name(task: Task) -> str:
    """What tells tasks apart, in one short line."""
    lora = task.lora
    shape = f"{task.batch}x{task.sequence}"
    variants = lora.words.removeprefix(f"LoRA rank {lora.rank}")
    return f"{task.model} {shape} r={lora.rank}{variants} on {'+'.join(lora.targets)} {task.optimizer}"


def profile_command(like: Profile, batch: int | None = None) -> str:
    """The command that measures the machine of a profile in the same way, at another batch where one is given."""
    run = like.run
    task, execution, device = run.task, run.execution, run.device
    assert task is not None
    named = {
        "--model": task.model,
        "--batch": batch or task.batch,
        "--seq": task.sequence,
        "--dtype": execution.dtype,
        "--quantization": execution.quantization,
        "--attention": execution.attention if execution.attention != "sdpa" else None,
        "--threads": execution.threads if execution.threads != 1 else None,
        "--lora-rank": task.lora.rank,
        "--lora-alpha": f"{task.lora.alpha:g}",
        "--lora-targets": ",".join(task.lora.targets),
        "--adapter-dtype": task.lora.dtype if task.lora.dtype != "float32" else None,
        "--lora-rank-pattern": ",".join(f"{name}={rank}" for name, rank in (task.lora.rank_pattern or {}).items())
        or None,
        "--lora-dropout": f"{task.lora.dropout:g}" if task.lora.dropout else None,
        "--optimizer": task.optimizer,
        "--platform": f"simulated:{device.model}" if device.platform == "simulated" else None,
        "--name": device.name,
    }
    switches = [
        flag
        for flag, on in (
            ("--checkpointing", task.gradient_checkpointing),
            ("--rslora", task.lora.rslora),
            ("--dora", task.lora.dora),
        )
        if on
    ]
    # A label may have spaces, and a path anything.
    words = [f"{option} {shlex.quote(str(value))}" for option, value in named.items() if value is not None]
    return " ".join(["profile-device", *words, *switches])
