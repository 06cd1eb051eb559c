"""A plan of which one party is only being measured: its numbers are put in from outside, again and again.

Everything else comes from the database as for any plan. What stands in for the party takes a second and a watt for
everything, so that the problem has its form; `OpenPlan.with_party` then puts in what is believed of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cardlab.card.problem.arrays import Array
from cardlab.card.problem.check import check_constraints
from cardlab.card.problem.device_offers import DeviceChoices, DeviceCurves, curves_of
from cardlab.card.problem.from_db import Request, TakingPart, check_powers, device_choices
from cardlab.card.problem.measured import (
    Fits,
    device_parts,
    device_seconds_at,
    server_fits,
    server_parts,
    server_seconds_at,
)
from cardlab.card.problem.offer import OneDevice, offer_of
from cardlab.card.problem.parties import Party, find_party, newest_profile
from cardlab.card.problem.problem import Problem
from cardlab.core.errors import PlanError
from cardlab.core.identity import new_uid
from cardlab.core.quantity import Estimate
from cardlab.core.records.fit import UNITS, Axis, Fit, ParameterEstimate
from cardlab.core.records.measurement import Measurement, OperatingPoint, Point, Profile, Run
from cardlab.core.records.workload import HEAD, PHASES
from cardlab.db.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class PartyDraws:
    """What is believed of the party at the frequencies it may take, Hz [G]: N draws of it.

    Attributes:
        seconds: of its side of each cut, per mini-batch [N,C,G].
        power_w, wait_power_w: of the whole device [N,G]; None where the plan asks for none, or nothing read it.
        idle_power_w: with nothing to do; None unknown.
    """

    frequency_hz: Array
    seconds: Array
    power_w: Array | None = None
    wait_power_w: Array | None = None
    idle_power_w: float | None = None

    @property
    def count(self) -> int:
        """N."""
        return len(self.seconds)

    def every(self, step: int) -> PartyDraws:
        """One in so many of the draws."""
        power_w, wait_w = (None if p is None else p[::step] for p in (self.power_w, self.wait_power_w))
        return replace(self, seconds=self.seconds[::step], power_w=power_w, wait_power_w=wait_w)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPlan:
    """The problems of a plan, one for each round that differs, and who in them is being measured.

    `device`: its index, None for the server.
    """

    problems: tuple[Problem, ...]
    device: int | None

    @property
    def deciding(self) -> tuple[int, ...]:
        """Devices whose decisions depend on the party."""
        return (self.device,) if self.device is not None else tuple(range(len(self.problems[0].devices)))

    def with_party(self, problem: Problem, draws: PartyDraws, n: int) -> Problem:
        """The problem with the party as draw n has it."""
        power_w, wait_w = (None if p is None else p[n] for p in (draws.power_w, draws.wait_power_w))
        if self.device is None:
            return replace(
                problem,
                frequency_hz=draws.frequency_hz,
                server_s=draws.seconds[n],
                power_w=power_w,
                wait_power_w=wait_w,
                idle_power_w=draws.idle_power_w,
            )
        offer = problem.offer
        assert offer is not None
        each = [
            OneDevice(
                frequency_hz=offer.frequency_hz[m],
                device_s=offer.device_s[m],
                power_w=offer.power_w[m],
                wait_power_w=offer.wait_power_w[m],
            )
            for m in range(len(problem.devices))
        ]
        unknown = np.full(draws.frequency_hz.size, np.nan)
        each[self.device] = OneDevice(
            frequency_hz=draws.frequency_hz,
            device_s=draws.seconds[n],
            power_w=unknown if power_w is None else power_w,
            wait_power_w=unknown if wait_w is None else wait_w,
        )
        return replace(problem, offer=offer_of(each))


def taking_part(store: Store, request: Request, run: Run, *, serves: bool, metered: bool) -> TakingPart:
    """Who takes part in a plan that names its server and its devices, the run's device as a stand-in.

    Args:
        serves: it is the server, else one of the devices.
        metered: its power is being read.

    Raises:
        NotFoundError, PlanError: what is missing of the others.
    """
    task = run.task
    if task is None or request.server is None or not request.devices:
        raise PlanError("a plan needs a model, a server and devices", remedy="name all of them")
    check_constraints(request.constraints, task.architecture.layers)
    own = _profile(run, metered)

    def party(label: str) -> Party:
        return Party(device=run.device) if label in (run.device.name, run.device.key) else find_party(store, label)

    def profile(one: Party) -> Profile:
        return own if one.device.key == run.device.key else newest_profile(store, one, task)

    server = party(request.server)
    parties = [party(label) for label in request.devices]
    profiles = [profile(one) for one in parties]
    server_profile = profile(server)
    if serves:
        fits, choices = _fits(run, metered), device_choices(store, request, parties, profiles)
    else:
        fits = server_fits(store, server.device, task, server_profile)
        given = request.of_each(len(parties))
        rows = zip(parties, profiles, given, strict=True)
        choices = DeviceChoices(
            tuple(
                DeviceCurves(label=p.label, profile=own, frequency_hz=np.array([np.nan]), fits={})
                if found is own
                else curves_of(store, p.label, found, g)
                for p, found, g in rows
            )
        )
        check_powers(choices, given)
    return TakingPart(
        task=task,
        server=server.device,
        server_profile=server_profile,
        server_fits=fits,
        parties=parties,
        profiles=profiles,
        choices=choices,
    )


def _profile(run: Run, metered: bool) -> Profile:
    """The run with one point, at which everything takes a second and a watt."""
    assert run.task is not None
    one = Estimate(1.0, provenance=run.provenance)
    parts = [*device_parts(run.task.architecture), *((HEAD, phase) for phase in PHASES)]
    rows = [
        Measurement(uid=new_uid(), quantity="latency", unit="s", segment=segment, phase=phase, estimate=one)
        for segment, phase in parts
    ]
    top_hz = max(run.offered_hz or (), default=None)
    state = OperatingPoint(frequency_hz=top_hz, throttled=False)
    point = Point(uid=new_uid(), index=0, requested_hz=top_hz, operating=state, measurements=tuple(rows))
    return Profile(run=run, points=(point,))


def _fits(run: Run, metered: bool) -> Fits:
    """Fits of a server that takes a second for everything, and a watt where its power is read."""
    assert run.task is not None
    parts: list[tuple[str, str | None, str | None]] = [
        ("latency", *part) for part in server_parts(run.task.architecture)
    ]
    parts += [(quantity, None, None) for quantity in ("power", "wait_power")] if metered else []
    return {part: _fit(run, *part) for part in parts}


def _fit(run: Run, quantity: str, segment: str | None, phase: str | None) -> Fit:
    offered = run.offered_hz or ()
    name = "stall" if quantity == "latency" else "static_power"
    return Fit(
        device=run.device.key,
        device_name=run.device.name,
        quantity=quantity,
        segment=segment,
        phase=phase,
        fit_id="",
        law="constant",
        n_points=1,
        x=Axis(min=min(offered, default=None), max=max(offered, default=None)),
        parameters={name: ParameterEstimate(value=1.0, stderr=None, ci95=None, unit=UNITS[quantity])},
        degrees_of_freedom=0,
        mape=0.0,
        data_hash="",
        provenance=run.provenance,
    )


def side_seconds(run: Run, point: Point, cuts: Array, *, serves: bool) -> Array:
    """Seconds per mini-batch of one side of each cut at a point [C]. Raises PlanError where a part was not timed."""
    seconds_at = server_seconds_at if serves else device_seconds_at
    return seconds_at(point, Profile(run=run, points=(point,)), cuts)
