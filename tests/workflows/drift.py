"""Worlds in which a device throttles, a link gets slower or the host gets busy, in virtual time; seeds are fixed first.

What is true is made here, by multiplying the problem's arrays, and what a plan costs in it is read by the plain loops
of tests/card/device_instances.py: nothing of what learns or decides is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from cardlab.card.adapting import places_of
from cardlab.card.problem.problem import Problem
from cardlab.card.schemes.card.planning import plan
from cardlab.core.records.device import Device
from cardlab.core.records.plan import TERMS, Decision
from cardlab.core.records.training import TrainPhase, TrainRound
from cardlab.workflows.adapting import Adaptation
from tests.card.device_instances import choices_of, costs_of, kept, random_problem

KINDS = ("throttling", "link", "host", "nothing")
ROUNDS = 24
# Rounds after a change in which nobody can know it yet.
GRACE = 5


@dataclass(frozen=True)
class World:
    """A plan's problem, and by round what is true: ratios of device and link [M], of the server."""

    base: Problem
    device: np.ndarray
    link: np.ndarray
    server: np.ndarray
    noise: float
    changed: int | None
    seed: int

    def truth(self, number: int) -> Problem:
        n, base = number - 1, self.base
        offer = base.offer
        assert base.latency_s is not None
        return replace(
            base,
            device_s=base.device_s * self.device[n][:, None],
            offer=None if offer is None else replace(offer, device_s=offer.device_s * self.device[n][:, None, None]),
            server_s=base.server_s * self.server[n],
            uplink_bps=base.uplink_bps / self.link[n],
            downlink_bps=base.downlink_bps / self.link[n],
            latency_s=base.latency_s * self.link[n],
        )


def world(seed: int, kind: str, limits: tuple[str, ...] = ()) -> World:
    rng = np.random.default_rng([31, seed, KINDS.index(kind)])
    drawn = seed * 1000
    base = random_problem(drawn, limits)
    while len(base.devices) < 2 or base.cuts.size < 4 or not _feasible(base):
        drawn += 1
        base = random_problem(drawn, limits)
    # A world of energy alone would not see a device throttle.
    objective = replace(base.objective, weight=float(rng.choice([0.2, 0.5, 0.8, 1.0])), weight_on="delay")
    base = replace(base, objective=objective, device_price_per_j=None)
    count = len(base.devices)
    # Runs of one device differ by 1 to 3 %.
    device, link = np.tile(rng.lognormal(0.0, 0.02, (2, 1, count)), (1, ROUNDS, 1))
    server = np.full(ROUNDS, rng.lognormal(0.0, 0.02))
    changed, m = (None if kind == "nothing" else int(rng.integers(6, 12))), int(rng.integers(count))
    if changed is not None:
        after = slice(changed - 1, None)
        if kind == "throttling":
            device[after, m] *= rng.uniform(1.5, 3.0)
        elif kind == "link":
            link[after, m] *= rng.choice([2.0, 4.0])
        else:
            server[after] *= rng.uniform(1.3, 2.0)
    return World(base, device, link, server, float(rng.uniform(0.01, 0.04)), changed, seed)


def mattering(kind: str, count: int, first: int = 1) -> list[World]:
    """The first worlds of a kind in which the plan from before the change costs at least 3 % more than the best one.

    In the others any plan that stays as it was would pass. Chosen by what is true alone, whatever adapts to it.
    """
    found: list[World] = []
    seed = first
    while len(found) < count:
        made = world(seed, kind)
        true = priced(made.truth(ROUNDS))
        static = places_of(made.base, plan(made.base).rounds[0].devices)
        if true.paid(static) / true.best - 1.0 >= 0.03:
            found.append(made)
        seed += 1
    return found


def _feasible(problem: Problem) -> bool:
    return all(any(kept(problem, m, one) for one in choices_of(problem, m)) for m in range(len(problem.devices)))


def observed(made: World, decision: Decision, m: int, number: int, ratios: dict[str, float]) -> TrainRound:
    """The round of a device as it really goes: the truth with noise, and now and then a hiccup."""
    rng = np.random.default_rng([32, made.seed, number, m])
    n = number - 1
    true = {
        "device": made.device[n, m],
        "server": made.server[n],
        "uplink": made.link[n, m],
        "downlink": made.link[n, m],
    }
    phases = []
    for term in TERMS:
        predicted = getattr(decision.delay_terms, term)
        ratio = ratios.get(term)
        seconds = predicted / (ratio or 1.0) * true.get(term, 1.0) * rng.lognormal(0.0, made.noise)
        if term in true and rng.random() < 0.03:
            seconds *= rng.uniform(1.3, 2.5)
        phases.append(TrainPhase(term=term, observed_s=seconds, predicted_s=predicted, predicted_ratio=ratio))
    return TrainRound(
        uid=f"{number}/{m}",
        run="run",
        plan="plan",
        device=Device(key=f"k{m}", name=decision.device, platform="simulated", model=""),
        number=number,
        cut=decision.cut,
        frequency_hz=None,
        loss=None,
        delay_s=None,
        energy_j=None,
        phases=tuple(phases),
    )


@dataclass(frozen=True)
class Priced:
    """Costs of every choice of every device in a true problem, and what the best ones pay."""

    rows: list[list[float]]
    keeps: list[list[bool]]
    columns: int

    def paid(self, places) -> float:
        return sum(row[cut * self.columns + column] for row, (cut, column) in zip(self.rows, places, strict=True))

    def keeps_all(self, places) -> bool:
        return all(row[cut * self.columns + column] for row, (cut, column) in zip(self.keeps, places, strict=True))

    @property
    def best(self) -> float:
        return sum(
            min(c for c, ok in zip(row, keep, strict=True) if ok)
            for row, keep in zip(self.rows, self.keeps, strict=True)
        )


def priced(problem: Problem) -> Priced:
    """What each choice really pays: the objective with its ranges as prices, nothing subtracted."""
    rows, keeps = [], []
    objective = problem.objective
    members = [choices_of(problem, m) for m in range(len(problem.devices))]
    for m, mine in enumerate(members):
        every = [one for each in members for one in each] if objective.range == "common" else mine
        least = 0.0
        for weight, values in (
            (objective.weight, [o.delay_s for o in every]),
            (1.0 - objective.weight, [o.energy_j for o in every]),
            (objective.device_energy_weight, [o.own_j for o in every]),
        ):
            low, high = min(values), max(values)
            least += weight * low / (high - low) if high > low else 0.0
        rows.append([least + found for found in costs_of(problem, m, mine)])
        keeps.append([kept(problem, m, one) for one in mine])
    offered = 1 if problem.offer is None else problem.offer.frequency_hz.shape[1]
    return Priced(rows, keeps, len(problem.frequency_hz) * offered)


@dataclass(frozen=True)
class Followed:
    """What a world cost by round: of the plan that adapts, of the plan as it was, of the one that knows all."""

    adapted: list[float]
    static: list[float]
    clairvoyant: list[float]
    moved: list[int]
    lines: list[str]
    kept: list[bool]
    world: World

    def excess(self, first: int = 1, *, static: bool = False) -> float:
        """Cost over the clairvoyant plan's from a round on, as a share."""
        paid = self.static if static else self.adapted
        return sum(paid[first - 1 :]) / sum(self.clairvoyant[first - 1 :]) - 1.0

    @property
    def settled(self) -> int:
        """The first round in which a change can be followed."""
        return 1 if self.world.changed is None else self.world.changed + GRACE


def followed(made: World, rounds: int = ROUNDS) -> Followed:
    """Run a world under a plan that adapts."""
    decided = plan(made.base).rounds[0].devices
    adaptation, static = Adaptation(made.base, decided), places_of(made.base, decided)
    decisions = decided
    ratios: Mapping[str, Mapping[str, float]] = {label: {} for label in made.base.devices}
    known: dict[object, Priced] = {}
    costs: tuple[list[float], list[float], list[float]] = ([], [], [])
    moved: list[int] = []
    lines: list[str] = []
    keeps: list[bool] = []
    for number in range(1, rounds + 1):
        n = number - 1
        key = (tuple(made.device[n]), tuple(made.link[n]), made.server[n])
        if key not in known:
            known[key] = priced(made.truth(number))
        true = known[key]
        places = places_of(made.base, decisions)
        for paid, value in zip(costs, (true.paid(places), true.paid(static), true.best), strict=True):
            paid.append(value)
        keeps.append(true.keeps_all(places))
        rows = {
            label: observed(made, decision, m, number, dict(ratios[label]))
            for m, (label, decision) in enumerate(zip(made.base.devices, decisions, strict=True))
        }
        adaptation.observe(number, rows)
        step = adaptation.decide(number + 1, rounds - number)
        decisions, ratios = step.decisions, step.ratios
        lines += step.lines
        moved += [number + 1] if step.moved else []
    return Followed(costs[0], costs[1], costs[2], moved, lines, keeps, made)
