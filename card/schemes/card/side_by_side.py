"""The first round of a plan at the governor's default, at the highest frequencies, and as planned.

Cuts, links and everything else are the plan's: each setting is the plan's own problem with other times and powers of
the parties, and `fleet.choice_at` says what the planned cuts cost in it, as it does for the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cardlab.card.problem.arrays import Array, Index
from cardlab.card.problem.governed import Governed, Governors
from cardlab.card.problem.problem import Problem
from cardlab.card.schemes.card.fleet import Places, choice_at
from cardlab.core.clocks import SAME_CLOCK_SHARE
from cardlab.core.quantity import Provenance, union_of
from cardlab.core.records.plan import Decision, PlannedRound
from cardlab.core.records.side_by_side import GOVERNOR, HIGHEST, PLANNED, Lack, Setting, SideBySide, together
from cardlab.core.records.task import Task
from cardlab.core.text import si

_RADIO = "give transmit_power_w and receive_power_w in [[devices]], or use --device-energy compute"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Alternative:
    """Every party at one setting: devices hold one frequency each, the server that at `place`.

    `server_lack` and `device_lacks` [M] say why a party's times are not known.
    """

    setting: str
    problem: Problem
    place: int = 0
    server_lack: Lack | None
    device_lacks: tuple[Lack | None, ...]


def side_by_side(problem: Problem, first: PlannedRound, governors: Governors, task: Task) -> SideBySide:
    """What the cuts of a plan's first round cost at each setting; `problem` is that of the round."""
    cuts = np.searchsorted(problem.cuts, [d.cut for d in first.devices])
    tokens = task.batch * task.sequence * problem.objective.local_epochs
    asked = [
        _evaluated(alternative, cuts, tokens, governors)
        for alternative in (_governor(problem, governors), _highest(problem, governors))
    ]
    by_setting = [*asked, _planned(problem, first.devices, tokens, governors)]
    settings = [s for of_device in zip(*by_setting, strict=True) for s in of_device]
    if len(first.devices) > 1:
        settings += [together(each, union_of(s.provenance for s in each)) for each in by_setting]
    notes = (*_notes(problem, governors, task), *_warnings(*by_setting))
    return SideBySide(settings=tuple(settings), notes=notes)


def _warnings(governed: Sequence[Setting], highest: Sequence[Setting], planned: Sequence[Setting]) -> list[str]:
    """What a reader of the table must not miss: a governor above the highest, or better than the plan in everything."""
    found = []
    for left, top, asked in zip(governed, highest, planned, strict=True):
        for who in ("server", "device"):
            read_hz, kept_hz = (getattr(each, f"{who}_frequency_hz") for each in (left, top))
            if read_hz is not None and kept_hz is not None and read_hz > (1.0 + SAME_CLOCK_SHARE) * kept_hz:
                name = "the server" if who == "server" else left.device
                found.append(
                    f"{name} was read at {si(read_hz, 'Hz')} by its governor, above its {HIGHEST}, {si(kept_hz, 'Hz')}:"
                    " what was throttled is no frequency to hold"
                )
        pairs = [(getattr(left, key), getattr(asked, key)) for key in ("delay_s", "server_energy_j", "device_energy_j")]
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        # What is not known on either side may be what the plan saves.
        better = len(known) == len(pairs) and all(a <= b for a, b in known)
        if better and any(a < b * (1.0 - 1e-6) for a, b in known):
            found.append(
                f"{left.device}: left to the governors its round takes no more time or energy than as planned;"
                " a plan chooses among frequencies that are held"
            )
    return list(dict.fromkeys(found))


def _governor(problem: Problem, governors: Governors) -> _Alternative:
    server, devices = governors.server, governors.devices

    def of_each(pick: Callable[[Governed], float]) -> Array:
        return np.array([pick(d) for d in devices])

    return _Alternative(
        setting=GOVERNOR,
        problem=replace(
            problem,
            offer=None,
            frequency_hz=np.array([server.frequency_hz]),
            server_s=server.seconds[:, None],
            power_w=np.array([server.power_w]),
            wait_power_w=np.array([server.wait_power_w]),
            device_s=np.array([d.seconds for d in devices]),
            device_frequency_hz=of_each(lambda d: d.frequency_hz),
            device_power_w=of_each(lambda d: d.power_w),
            device_wait_power_w=of_each(lambda d: d.wait_power_w),
        ),
        server_lack=server.lack,
        device_lacks=tuple(d.lack for d in devices),
    )


def _highest(problem: Problem, governors: Governors) -> _Alternative:
    """The highest frequency that each party keeps, NaN throughout for one of which that is not known."""
    top = _top_of_devices(problem)
    unknown = np.array([d.highest is not None for d in governors.devices])
    top = replace(
        top,
        device_s=np.where(unknown[:, None], np.nan, top.device_s),
        device_frequency_hz=_without(top.device_frequency_hz, unknown),
        device_power_w=_without(top.device_power_w, unknown),
        device_wait_power_w=_without(top.device_wait_power_w, unknown),
    )
    lack = governors.server.highest
    if lack is not None:
        count = problem.frequency_hz.size
        top = replace(
            top,
            frequency_hz=np.full(count, np.nan),
            server_s=np.full(problem.server_s.shape, np.nan),
            power_w=np.full(count, np.nan),
            wait_power_w=np.full(count, np.nan),
        )
    return _Alternative(
        setting=HIGHEST,
        problem=top,
        place=0 if np.isnan(top.frequency_hz).all() else int(np.nanargmax(top.frequency_hz)),
        server_lack=lack,
        device_lacks=tuple(d.highest for d in governors.devices),
    )


def _top_of_devices(problem: Problem) -> Problem:
    """Devices at their highest: by the fits where they choose, as the plan has it; else at their best point."""
    held = replace(problem, offer=None)
    if problem.offer is None or held.device_frequency_hz is None:
        return held
    last = problem.at_offered(problem.offered - 1)
    assert last.device_frequency_hz is not None
    # A file may leave a device only lower frequencies; its highest is then what was measured at its best point.
    fits = last.device_frequency_hz >= (1.0 - SAME_CLOCK_SHARE) * held.device_frequency_hz
    waiting = held.device_wait_power_w if held.device_wait_power_w is not None else np.full(fits.size, np.nan)
    offered = last.device_wait_power_w if last.device_wait_power_w is not None else waiting
    return replace(
        held,
        device_s=np.where(fits[:, None], last.device_s, held.device_s),
        device_frequency_hz=np.where(fits, last.device_frequency_hz, held.device_frequency_hz),
        device_power_w=np.where(fits, last.device_power_w, held.device_power_w),
        device_wait_power_w=np.where(fits, offered, waiting),
    )


def _without(values: Array | None, unknown: Array) -> Array:
    known = np.full(unknown.size, np.nan) if values is None else values
    return np.where(unknown, np.nan, known)


def _evaluated(alternative: _Alternative, cuts: Index, tokens: int, governors: Governors) -> list[Setting]:
    problem, count = alternative.problem, cuts.size
    at = Places(place=cuts, listed=np.full(count, alternative.place), offered=np.zeros(count, dtype=np.intp))
    hz = float(problem.frequency_hz[alternative.place])
    found = choice_at(problem, at, np.full(count, hz), np.full(count, np.nan))
    server_j = np.full(count, np.nan) if found.server_energy_j is None else found.server_energy_j
    settings = []
    for m, name in enumerate(problem.devices):
        device = governors.devices[m]
        measured = [p for p in (governors.server.provenance, device.provenance) if p is not None]
        setting = Setting(
            setting=alternative.setting,
            device=name,
            server_frequency_hz=_known(hz),
            device_frequency_hz=_known(found.device_frequency_hz[m]),
            tokens=tokens,
            delay_s=_known(found.delay_s[m]),
            server_energy_j=_known(server_j[m]),
            device_energy_j=_known(found.device_energy_j[m]),
            lacks=tuple(lack for lack in (alternative.server_lack, alternative.device_lacks[m]) if lack is not None),
            provenance=_origin(problem.provenance[m], measured if alternative.setting == GOVERNOR else ()),
        )
        settings.append(_explained(setting, problem, m, alternative.place, governors))
    return settings


def _origin(planned: Provenance, measured: Sequence[Provenance]) -> Provenance:
    return union_of([planned, *measured])


def _planned(problem: Problem, decisions: Sequence[Decision], tokens: int, governors: Governors) -> list[Setting]:
    """What the plan says of itself."""
    settings = []
    for m, d in enumerate(decisions):
        setting = Setting(
            setting=PLANNED,
            device=d.device,
            server_frequency_hz=d.frequency_hz,
            device_frequency_hz=d.device_frequency_hz,
            tokens=tokens,
            delay_s=d.delay_s,
            server_energy_j=d.server_energy_j,
            device_energy_j=d.device_energy_j,
            provenance=d.provenance,
        )
        place = _nearest(problem.frequency_hz, d.frequency_hz)
        offered = 0 if problem.offer is None else _nearest(problem.offer.frequency_hz[m], d.device_frequency_hz)
        settings.append(_explained(setting, problem.at_offered(offered), m, place, governors))
    return settings


def _nearest(frequencies_hz: Array, hz: float | None) -> int:
    if hz is None or np.isnan(frequencies_hz).all():
        return 0
    return int(np.nanargmin(np.abs(frequencies_hz - hz)))


def _explained(setting: Setting, problem: Problem, m: int, place: int, governors: Governors) -> Setting:
    """The setting with a reason for each energy that is unknown although the times are known."""
    lacks = list(setting.lacks)
    server, device = governors.server, governors.devices[m]
    governed = setting.setting == GOVERNOR
    if setting.server_energy_j is None and not lacks:
        words = _unknown_server_powers(problem, place)
        how = f"{server.remeasure} --readonly" if governed else f"{server.remeasure}, then: calibrate fit"
        lacks += [_no_power(f"{word} of {server.name}", setting.setting, how) for word in words]
    if setting.device_energy_j is None and not setting.lacks:
        how = f"{device.remeasure} --readonly" if governed else device.remeasure
        for word in _unknown_device_powers(problem, m):
            if word in ("transmit power", "receive power"):
                lacks.append(Lack(reason=f"the {word} of {device.name} is not known", remedy=_RADIO))
            else:
                lacks.append(_no_power(f"{word} of {device.name}", setting.setting, how))
    return replace(setting, lacks=tuple(dict.fromkeys(lacks)))


def _no_power(what: str, setting: str, how: str) -> Lack:
    return Lack(
        reason=f"the {what} was not measured ({setting})",
        remedy=f"where a power meter can be read (profile-device doctor) run: {how}",
    )


def _unknown_server_powers(problem: Problem, place: int) -> list[str]:
    """Powers that the server's energy needs, counted as the objective says, and that are not known."""
    needed = {"power": _at(problem.power_w, place)}
    if problem.objective.energy == "round":
        needed["waiting power"] = _at(problem.wait_power_w, place)
    if problem.objective.energy == "above_idle":
        needed["idle power"] = np.nan if problem.idle_power_w is None else problem.idle_power_w
    return [word for word, watts in needed.items() if np.isnan(watts)]


def _unknown_device_powers(problem: Problem, m: int) -> list[str]:
    needed = {"power": _at(problem.device_power_w, m)}
    if problem.objective.device_energy == "round":
        needed["waiting power"] = _at(problem.device_wait_power_w, m)
        needed["transmit power"] = _at(problem.transmit_power_w, m)
        needed["receive power"] = _at(problem.receive_power_w, m)
    return [word for word, watts in needed.items() if np.isnan(watts)]


def _at(power_w: Array | None, place: int) -> float:
    return float("nan") if power_w is None else float(power_w[place])


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _notes(problem: Problem, governors: Governors, task: Task) -> tuple[str, ...]:
    parties = list({g.name: g for g in (governors.server, *governors.devices)}.values())
    measured = [g.said for g in parties if g.said is not None]
    as_found = [g.name for g in parties if g.as_found]
    epochs = problem.objective.local_epochs
    notes = [
        "the cuts of round 1 as planned in every row: only frequencies differ",
        f"tokens of a round of one device = {task.batch} x {task.sequence} x {epochs} (batch, sequence, local epochs)",
        *measured,
    ]
    if measured:
        notes.append(f"{GOVERNOR} is as measured there, which assumes that nothing else held a frequency then")
    if as_found:
        notes.append(f"{', '.join(as_found)}: no frequency can be held there, so {HIGHEST} and {PLANNED} are as found")
    return tuple(notes)
