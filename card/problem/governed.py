"""What each party of a plan does with its frequency left to the governor, and whether its highest is known.

The point is the newest one of the plan's task and execution at which nobody held a frequency (`profile-device
--readonly`), in the power mode of the plan: times and powers as they were measured there. It may have been throttled,
which is then what the governor's default is. Nothing stands in for a point that is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cardlab.card.problem.arrays import Array
from cardlab.card.problem.measured import best_point, device_seconds_at, power_at, server_seconds_at
from cardlab.card.problem.parties import profile_command
from cardlab.core.errors import PlanError
from cardlab.core.quantity import Provenance
from cardlab.core.records.measurement import OperatingPoint, Point, Profile
from cardlab.core.records.side_by_side import Lack
from cardlab.core.text import NOT_MEASURED, si
from cardlab.db.store import Store
from cardlab.db.store.meters import behind_sensors

SecondsAt = Callable[[Point, Profile, Array], Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Governed:
    """One party at the governor's default; NaN where nothing is known.

    Attributes:
        name: of the party.
        seconds: of its side of each cut, a mini-batch [C].
        frequency_hz: read back under load.
        power_w, wait_power_w: of the whole device, at work and waiting.
        said: where it was measured, for the plan's reader; None where it was not.
        lack: why `seconds` are not known.
        highest: why its highest kept frequency is not known.
        as_found: it offers no frequency to hold, so that every setting is the same.
        remeasure: the command that measures it in the same way.
        provenance: of what was measured; None without it.
    """

    name: str
    seconds: Array
    frequency_hz: float = np.nan
    power_w: float = np.nan
    wait_power_w: float = np.nan
    said: str | None = None
    lack: Lack | None = None
    highest: Lack | None = None
    as_found: bool = False
    remeasure: str
    provenance: Provenance | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Governors:
    """The server and each device of a plan [M]."""

    server: Governed
    devices: tuple[Governed, ...]


def governors_of(store: Store, server: Profile, labels: Sequence[str], devices: Sequence[Profile]) -> Governors:
    """What the governors of the parties with these profiles do, at every cut that the server's analysis counts."""
    cuts = np.array([] if server.run.analysis is None else [cut.cut for cut in server.run.analysis.cuts], dtype=float)
    return Governors(
        server=_governed(store, server, server.run.device.name, cuts, server_seconds_at),
        devices=tuple(
            _governed(store, profile, label, cuts, device_seconds_at)
            for label, profile in zip(labels, devices, strict=True)
        ),
    )


def _governed(store: Store, profile: Profile, name: str, cuts: Array, seconds_at: SecondsAt) -> Governed:
    nothing, command = np.full(cuts.size, np.nan), profile_command(profile)
    as_found = profile.run.offered_hz == ()
    highest = None if as_found else _highest_lack(profile, name, command)
    found = _newest(store, profile)
    lack = _lack(profile, found, name, command)
    seconds = nothing
    if found is not None and lack is None:
        try:
            seconds = seconds_at(found[1], found[0], cuts)
        except PlanError as error:
            lack = Lack(
                reason=f"{name}: left to its governor, {error.message}",
                remedy=f"on a quiet machine run: {command} --readonly --repeats 7",
            )
    if found is None or lack is not None:
        return Governed(name=name, seconds=nothing, lack=lack, highest=highest, as_found=as_found, remeasure=command)
    measured, point = found
    state = point.operating or OperatingPoint()
    return Governed(
        name=name,
        seconds=seconds,
        frequency_hz=np.nan if state.frequency_hz is None else state.frequency_hz,
        power_w=power_at(point),
        wait_power_w=power_at(point, "wait_power"),
        said=_said(name, measured, state),
        highest=highest,
        as_found=as_found,
        remeasure=command,
        provenance=measured.run.provenance,
    )


def _newest(store: Store, profile: Profile) -> tuple[Profile, Point] | None:
    """The newest point left to the governor and its profile; one with times in the plan's power mode first."""
    run, found = profile.run, []
    for uid in () if run.task is None else store.runs.governed(run.device.key, run.task.uid):
        other = store.runs.get(uid)
        if other.run.execution.uid == run.execution.uid:
            mine = Profile(run=other.run, points=tuple(p for p in other.points if _same_mode(profile, p)))
            point = mine.governed_point or other.governed_point
            found += [] if point is None else [(other, point)]
    if not found:
        return None
    # Of equals the newest: max takes the first, and runs come oldest first.
    measured, point = max(reversed(found), key=lambda f: (_same_mode(profile, f[1]), f[1].times_a_layer))
    behind = behind_sensors(store.runs, measured)
    return behind, next(p for p in behind.points if p.uid == point.uid)


def _same_mode(profile: Profile, point: Point) -> bool:
    # Another power mode is another machine; the memory's frequency is the governor's to choose as well.
    here, there = best_point(profile).operating, point.operating
    return here is not None and there is not None and here.power_mode == there.power_mode


def _lack(profile: Profile, found: tuple[Profile, Point] | None, name: str, command: str) -> Lack | None:
    if found is None:
        return Lack(
            reason=f"{name} was never measured with its frequency left to the governor",
            remedy=f"run: {command} --readonly",
        )
    if not _same_mode(profile, found[1]):
        here, there = (_mode(point) for point in (best_point(profile), found[1]))
        return Lack(
            reason=f"{name} was left to its governor in power mode {there} only, and the plan is for {here}",
            remedy=f"in power mode {here} run: {command} --readonly",
        )
    return None


def _mode(point: Point) -> str:
    mode = None if point.operating is None else point.operating.power_mode
    return NOT_MEASURED if mode is None else mode


def _highest_lack(profile: Profile, name: str, command: str) -> Lack | None:
    if not profile.holds:
        return Lack(
            reason=f"no frequency of {name} was held, so its highest is not known",
            remedy=f"run: {command}, then: calibrate fit --device {profile.run.device.name}",
        )
    state = best_point(profile).operating
    if state is None or state.frequency_hz is None:
        return Lack(
            reason=f"the frequency of {name} cannot be read, so which one is kept is not known",
            remedy="see what is lacking with: profile-device doctor",
        )
    return None


def _said(name: str, measured: Profile, state: OperatingPoint) -> str:
    words = [
        "its frequency could not be read" if state.frequency_hz is None else f"read {si(state.frequency_hz, 'Hz')}"
    ]
    words += [f"throttled ({'; '.join(state.reasons) or 'no reason given'})"] if state.throttled else []
    words += ["among other work"] if state.contended else []
    return f"governor's default of {name}: run {measured.run.uid[:12]}, {', '.join(words)}"
