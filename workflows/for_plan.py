"""Measuring a device for one plan: which frequency tells most of what the plan would decide.

A scenario names its server and its devices by label, as `card plan --from-db --scenario` takes it. One of them is being
measured; the numbers of all others, and of the link, are the database's or the scenario's. They are taken as they are:
what they lack in certainty no frequency of this device can add.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from cardlab.calibrate.best_frequency import check_choosable, kept, relative_error, step_time
from cardlab.calibrate.next_point import Seen, drawn_powers, drawn_seconds
from cardlab.calibrate.open_decisions import OpenDecisions
from cardlab.card.problem.arrays import Array
from cardlab.card.problem.being_measured import OpenPlan, PartyDraws, side_seconds, taking_part
from cardlab.card.problem.calibrated_file import CalibratedScenario, load_calibrated
from cardlab.card.problem.constraints import check_caps
from cardlab.card.problem.from_db import Request, gather_of
from cardlab.card.problem.objective import check_energy
from cardlab.card.problem.problem import Problem
from cardlab.card.problem.scenario_file import scenario_text
from cardlab.card.schemes.card.open_plan import OpenDecision, open_decisions
from cardlab.core.clocks import offered_as
from cardlab.core.errors import BadDataError, PlanError, ScenarioError, UsageError
from cardlab.core.records.device import Device
from cardlab.core.records.measurement import Point, Profile, Run
from cardlab.core.text import si
from cardlab.db.store import Store
from cardlab.db.store.meters import behind_sensors
from cardlab.workflows.options.card import PlanOptions
from cardlab.workflows.plan import calibrated_request

# Rounds with rates of their own that are decided on: each costs as much as one alone.
ROUNDS = 8
_SEED = 20241130
# Of two cards with 150 frequencies each a plan has a million choices, and 400 draws of it take minutes.
_MANY, _FEWER = 20_000, 4
# Of a scenario's name, where it is kept.
_LONGEST = 150
_OF_MEASURED = "leave it out: --for-plan takes a scenario that names devices of the database"
# What a plan's own options are called in a scenario.
_IN_FILE = (
    ("--uplink-mbps", "uplink_bps"),
    ("--downlink-mbps", "downlink_bps"),
    ("--channel good|normal|poor", "a [link]"),
    (", or import: card link", " in the scenario, or import: card link"),
    ("name one with --link NAME", "write uplink_bps and downlink_bps in [[devices]]"),
    (", or use --device-frequencies held", ""),
    ("--device-weight 0", "write device_energy_weight = 0 in [objective]"),
    ("--device-energy compute", 'device_energy = "compute" in [objective]'),
    ("use --weight 1 (delay only)", "write weight = 1 in [objective]"),
    ("use --energy busy or above_idle, or give wait_power_w", 'write energy = "busy" in [objective]'),
    ("use --energy busy or round", 'write energy = "busy" in [objective]'),
    ("--max-server-power", "server_power_w"),
    ("--max-server-energy", "server_energy_j"),
    ("--max-device-energy", "device_energy_j"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanAsked:
    """A scenario that a device is to be measured for, as it was read.

    `identity`: name and digest of its text, so that another one can be told from it.
    """

    name: str
    identity: str
    file: CalibratedScenario
    request: Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What the measured device is in a plan.

    Attributes:
        index: among the devices, None for the server.
        label: how the scenario calls it.
        allowed_hz: the frequencies it may take there, ascending.
        needs_power: whether the decision weighs or caps what it draws.
    """

    index: int | None
    label: str
    allowed_hz: tuple[float, ...]
    needs_power: bool

    @property
    def serves(self) -> bool:
        """Whether it is the server."""
        return self.index is None


def read_plan(scenario: str) -> PlanAsked:
    """The scenario of that file. Raises ScenarioError for what no device can be measured for."""
    file = load_calibrated(scenario, instead=_OF_MEASURED)
    name = Path(scenario).name
    if (file.scheme or "card") != "card":
        raise ScenarioError(
            f"{name} is of scheme {file.scheme}, and --for-plan measures for scheme card",
            remedy='write scheme = "card", or leave --for-plan out',
        )
    lacking = "no server" if file.server is None else None if file.devices else "no device"
    if lacking is not None:
        table = "[server]" if file.server is None else "[[devices]]"
        raise ScenarioError(
            f"{name} names {lacking}, so nobody knows whom the plan is for", remedy=f'write {table} with name = "LABEL"'
        )
    for key, given in (
        ("fleet_energy_j", file.constraints.fleet_energy_j),
        ("deadline_confidence", file.constraints.deadline_confidence),
    ):
        if given is not None:
            raise ScenarioError(
                f"--for-plan decides each device by itself and on what it draws, without {key}",
                remedy=f"leave {key} out of the scenario that is measured for",
            )
    if any(device.energy_budget_j is not None for device in file.devices):
        raise ScenarioError(
            "--for-plan decides one round by itself, without the energy_budget_j of all rounds",
            remedy="leave energy_budget_j out of the scenario that is measured for",
        )
    request = calibrated_request(PlanOptions(from_db=True, scenario=scenario), file)
    digest = sha256(scenario_text(scenario)[0].encode()).hexdigest()[:12]
    return PlanAsked(name=name, identity=f"{name[-_LONGEST:]} ({digest})", file=file, request=request)


def part_of(asked: PlanAsked, device: Device, offered_hz: tuple[float, ...], *, metered: bool) -> Part:
    """What the device is in the plan. Raises UsageError or ScenarioError where it has no part, or nothing to choose."""
    request, name = asked.request, asked.name
    own = (device.name, device.key)
    serves, index = request.server in own, next((m for m, d in enumerate(request.devices) if d in own), None)
    if serves and index is not None:
        raise UsageError(
            f"{device.name!r} is the server of {name} and one of its devices",
            remedy="name another device in [[devices]]: one that is both is measured with --frequencies 8",
        )
    if not serves and index is None:
        moded = next((d for d in request.devices if d.rpartition("@")[0] in own), None)
        if moded is not None:
            raise UsageError(
                f"{name} asks for {moded!r}, and this device is measured in the power mode that it is in",
                remedy=f"write {moded.rpartition('@')[0]!r} in [[devices]]",
            )
        known = ", ".join(dict.fromkeys([str(request.server), *request.devices]))
        raise UsageError(
            f"{name} knows no {device.name!r}: its parties are {known}",
            remedy="say which of them this device is: --name LABEL",
        )
    check_choosable(offered_hz, device.name)
    objective, caps = request.objective, request.constraints
    if index is None:
        weight = objective.weight if objective.weight_on == "delay" else 1.0 - objective.weight
        weighed = weight < 1.0 or caps.server_power_w is not None or caps.server_energy_j is not None
        part = Part(index=None, label=device.name, allowed_hz=offered_hz, needs_power=weighed)
    else:
        _check_choice(asked, index)
        weighed = objective.device_energy_weight > 0.0 or caps.device_energy_j is not None
        allowed = _allowed(asked, index, offered_hz)
        part = Part(index=index, label=request.devices[index], allowed_hz=allowed, needs_power=weighed)
    if part.needs_power and not metered:
        raise BadDataError(
            f"{name} weighs or caps what {device.name} draws, which has no power meter",
            remedy="weigh delay alone in [objective], or see what is lacking: profile-device doctor",
        )
    return part


def _check_choice(asked: PlanAsked, index: int) -> None:
    """Raise ScenarioError where the plan leaves the device no frequency to choose."""
    given, label = asked.request.of_each(len(asked.request.devices))[index], asked.request.devices[index]
    if asked.request.objective.device_frequencies != "all":
        raise ScenarioError(
            f"{asked.name} leaves {label!r} at its highest frequency, so nothing hangs on the others",
            remedy='write device_frequencies = "all" in [objective], or measure with --frequencies max',
        )
    if given.power_w is not None:
        raise ScenarioError(
            f"{asked.name} gives power_w of {label!r}, which --for-plan measures", remedy="leave power_w out"
        )


def _allowed(asked: PlanAsked, index: int, offered_hz: tuple[float, ...]) -> tuple[float, ...]:
    wanted = asked.request.of_each(len(asked.request.devices))[index].frequencies_hz
    if not wanted:
        return offered_hz
    found = set()
    for hz in wanted:
        nearest = offered_as(hz, offered_hz)
        if nearest is None:
            raise ScenarioError(
                f"{asked.name}: {asked.request.devices[index]!r} offers no {si(hz, 'Hz')}",
                remedy=f"name frequencies it offers: {', '.join(si(one, 'Hz') for one in offered_hz)}",
            )
        found.add(nearest)
    if len(found) < 2:
        raise ScenarioError(
            f"{asked.name} leaves {asked.request.devices[index]!r} one frequency, so nothing is to be chosen",
            remedy=f"measure it with --frequencies {found.pop() / 1e6:g}MHz",
        )
    return tuple(sorted(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSearch:
    """A plan with one party open, ready to be asked what another point of it would tell.

    `rounds`: the first round of each of its problems.
    """

    store: Store
    asked: PlanAsked
    part: Part
    open: OpenPlan
    rounds: tuple[int, ...]
    assumptions: tuple[str, ...]

    def judge(self, profile: Profile, offered_hz: tuple[float, ...]) -> OpenDecisions | None:
        """What the points of a stored run say of the plan; None where fewer than two frequencies say something."""
        found = self.decided(behind_sensors(self.store.runs, profile), offered_hz)
        return None if found is None else found[0]

    def decided(
        self, profile: Profile, offered_hz: tuple[float, ...]
    ) -> tuple[OpenDecisions, tuple[OpenDecision, ...]] | None:
        """The same of a profile whose powers are behind their sensors, with the decisions it is about."""
        draws = self._draws(profile, offered_hz)
        if draws is None:
            return None
        if self._choices(draws) > _MANY:
            draws = draws.every(_FEWER)
        decisions = open_decisions(self.open, draws)
        visited = [point.requested_hz or np.nan for point in self._points(profile, offered_hz)]
        readings = (draws.seconds.sum(axis=1), *(() if draws.power_w is None else (draws.power_w,)))
        belief = OpenDecisions(
            offered_hz=draws.frequency_hz,
            readings=readings,
            regrets=(*(one.regrets for one in decisions), *_whether_any(decisions)),
            measured=np.isin(draws.frequency_hz, visited),
        )
        return belief, decisions

    def _choices(self, draws: PartyDraws) -> int:
        problem = self.open.problems[0]
        servers = 1 if self.part.serves else problem.frequency_hz.size
        return problem.cuts.size * servers * draws.frequency_hz.size

    def _points(self, profile: Profile, offered_hz: tuple[float, ...]) -> list[Point]:
        """Points that say something of everything that the plan asks of the device."""
        found = [p for p in profile.points if kept(p) and p.requested_hz in offered_hz]
        found = [p for p in found if step_time(profile.run.analysis, p) is not None]
        for quantity in self._powers:
            found = [p for p in found if (m := p.total_power(quantity)) is not None and m.estimate is not None]
        return found

    @property
    def _powers(self) -> tuple[str, ...]:
        """Powers of the device that the decision hangs on."""
        if not self.part.needs_power:
            return ()
        objective = self.open.problems[0].objective
        waiting = objective.energy if self.part.serves else objective.device_energy
        return ("power", "wait_power") if waiting == "round" else ("power",)

    def _draws(self, profile: Profile, offered_hz: tuple[float, ...]) -> PartyDraws | None:
        points = self._points(profile, offered_hz)
        if len({point.requested_hz for point in points}) < 2:
            return None
        offered = np.asarray(sorted(offered_hz), dtype=float)
        draw = np.random.default_rng(_SEED)
        times, sides = [], []
        cuts: Array = self.open.problems[0].cuts.astype(np.float64)
        for point in points:
            seconds = step_time(profile.run.analysis, point)
            assert seconds is not None and point.requested_hz is not None
            times.append(Seen(point.requested_hz, seconds.value, relative_error(seconds)))
            sides.append(side_seconds(profile.run, point, cuts, serves=self.part.serves) / seconds.value)
        total_s = drawn_seconds(offered, times, draw)
        shares = _between(offered, np.array([one.frequency_hz for one in times]), np.array(sides))
        powers = {name: drawn_powers(offered, _seen(points, name), draw) for name in self._powers}
        idle = profile.idle_power
        return PartyDraws(
            frequency_hz=offered,
            seconds=total_s[:, None, :] * shares[None, :, :],
            power_w=powers.get("power"),
            wait_power_w=powers.get("wait_power"),
            idle_power_w=None if idle is None else idle.value,
        )


def _between(offered_hz: Array, at_hz: Array, shares: Array) -> Array:
    """Shares of a step's time [P,C] at every offered frequency [C,G], those of the nearest beyond the points."""
    order = np.argsort(at_hz, kind="stable")
    where, known = np.log(offered_hz), np.log(at_hz[order])
    return np.array([np.interp(where, known, column[order]) for column in shares.T])


def _whether_any(decisions: Sequence[OpenDecision]) -> list[Array]:
    """Where some draws have a plan and others have none: what saying either loses, all or nothing [N,2]."""
    open_yet = [one.kept for one in decisions if 0.0 < one.feasible < 1.0]
    return [np.stack([~kept, kept], axis=1).astype(float) for kept in open_yet]


def _seen(points: Sequence[Point], quantity: str) -> list[Seen]:
    found = []
    for point in points:
        reading = point.total_power(quantity)
        assert reading is not None and reading.estimate is not None and point.requested_hz is not None
        found.append(Seen(point.requested_hz, reading.estimate.value, relative_error(reading.estimate)))
    return found


def plan_search(store: Store, asked: PlanAsked, run: Run, *, metered: bool) -> PlanSearch:
    """The plan with the run's device open. Raises what says why it cannot be made yet, before anything is measured."""
    part = part_of(asked, run.device, run.offered_hz or (), metered=metered)
    if run.task is None:
        raise UsageError("--for-plan measures for a plan of a model", remedy="name one: --model, or leave it out")
    request = replace(asked.request, task=run.task.uid)
    _check_others(store, asked, run)
    try:
        who = taking_part(store, request, run, serves=part.serves, metered=metered)
        found = gather_of(store, request, who, asked.file.rounds or 1)
        # Rounds differ in their rates alone; those with the same are decided once.
        first: dict[tuple[bytes, bytes], tuple[int, Problem]] = {}
        for number, problem in enumerate(found.problems, start=1):
            first.setdefault((problem.uplink_bps.tobytes(), problem.downlink_bps.tobytes()), (number, problem))
        problems = tuple(problem for _, problem in first.values())
        search = PlanSearch(
            store=store,
            asked=asked,
            part=part,
            open=OpenPlan(problems=problems[:ROUNDS], device=part.index),
            rounds=tuple(number for number, _ in first.values()),
            assumptions=(*found.assumptions, *_assumed(problems)),
        )
        # With a party in it that takes a watt: what nobody knows of the others is said now.
        hz = np.asarray(part.allowed_hz, dtype=float)
        plain: Problem = search.open.with_party(problems[0], _ones(problems[0], hz, metered), 0)
        check_energy(plain)
        check_caps(plain)
    except PlanError as error:
        remedy = error.remedy
        for option, key in _IN_FILE:
            remedy = remedy.replace(option, key)
        raise ScenarioError(f"--for-plan {asked.name}: {error.message}", remedy=remedy) from error
    return search


def _ones(problem: Problem, hz: Array, metered: bool) -> PartyDraws:
    power = np.ones((1, hz.size)) if metered else None
    idle_w = 1.0 if metered else None
    return PartyDraws(
        frequency_hz=hz,
        seconds=np.ones((1, problem.cuts.size, hz.size)),
        power_w=power,
        wait_power_w=power,
        idle_power_w=idle_w,
    )


def _assumed(problems: Sequence[Problem]) -> tuple[str, ...]:
    words = [
        "the other parties and the link are as known: their uncertainty is not counted",
        "between its points a side of a cut has an interpolated share of a step's time",
    ]
    if len(problems) > ROUNDS:
        words.append(f"the first {ROUNDS} of {len(problems)} rounds stand for all")
    return tuple(words)


def _check_others(store: Store, asked: PlanAsked, run: Run) -> None:
    """Raise ScenarioError for a party that was not profiled for the task."""
    own, task = (run.device.name, run.device.key), run.task
    assert task is not None
    named = {str(asked.request.server), *asked.request.devices}
    other = next((d for d in store.devices.all() if d.name == own[0] and d.key != own[1]), None)
    if other is not None and own[0] in named:
        raise ScenarioError(
            f"--for-plan {asked.name}: {store.location} knows another {own[0]!r} ({other.key})",
            remedy="call this device otherwise with --name, and write that name in the scenario",
        )
    known = {name: d.key for d in store.devices.all() for name in (d.name, d.key)}
    for label in dict.fromkeys([str(asked.request.server), *asked.request.devices]):
        if label in own:
            continue
        key = known.get(label) or known.get(label.rpartition("@")[0])
        if key is None:
            names = ", ".join(d.name for d in store.devices.all()) or "none"
            raise ScenarioError(
                f"--for-plan {asked.name}: {store.location} knows no {label!r} (it knows {names})",
                remedy=f"profile it first: profile-device --name {label}, or correct the name in the scenario",
            )
        if not any(done is not None and done.uid == task.uid for _, done in store.runs.finished(key)):
            raise ScenarioError(
                f"--for-plan {asked.name}: {label!r} has no complete profile of this task",
                remedy=f"profile it with the same --model, --batch, --seq and LoRA: profile-device --name {label}",
            )
