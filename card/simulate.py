"""A scenario simulated over rounds, channels and fleets: what the planner would do, and gain, on average.

One job is one (channel, fleet): all its rounds are drawn and planned, and the answer is a summary. Jobs
share nothing, so they go to worker processes, or to the workers of a Dask cluster by its address. A
fleet other than 0 has devices drawn from those of the scenario, each with a speed factor, log-normal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, cast

import numpy as np

from cardlab.card.budget import with_budget
from cardlab.card.problem.arrays import Array
from cardlab.card.problem.check import check_scenario
from cardlab.card.problem.problem import Problem
from cardlab.card.problem.scenario import CHANNELS, DeviceSpec, LinkSpec, Scenario
from cardlab.card.schemes.card.baselines import baselines, mean_baselines, mean_outcome
from cardlab.card.schemes.card.fleet import choose, is_fleet
from cardlab.card.schemes.card.planning import budgets_of, plan_rounds, problems_of, solve
from cardlab.core.errors import InfeasibleError, MissingDependencyError, PlanError
from cardlab.core.records.budget import Budgeted
from cardlab.core.records.plan import Outcome

SPREAD = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One channel and fleet of a simulation; budgets of its devices' energy are for all of its rounds."""

    scenario: Scenario
    channel: str | None
    fleet: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """Means over the rounds of one job.

    Attributes:
        channel, fleet: which job; channel None for rates as given.
        rounds, devices: how many.
        infeasible: why no plan exists, None if one does; the numbers are None then.
        delay_s, server_energy_j: means over rounds of sums over devices.
        baselines: (delay, energy) by name.
        least_cut_share: share of device-rounds at the least cut, by device.
        cuts: mean cut by device.
        budget: the same rounds with the devices' energy budgets; None where none was given or one cannot be kept.
        budget_refused: why it cannot be kept.
    """

    channel: str | None
    fleet: int
    rounds: int
    devices: tuple[str, ...]
    infeasible: str | None = None
    delay_s: float | None = None
    server_energy_j: float | None = None
    baselines: dict[str, tuple[float, float | None]]
    least_cut_share: tuple[float, ...] = ()
    cuts: tuple[float, ...] = ()
    budget: Budgeted | None = None
    budget_refused: str | None = None


def jobs(scenario: Scenario, channels: Sequence[str], fleets: int, devices: int | None = None) -> list[Job]:
    """The jobs of a simulation; without `channels` the scenario's own link is used.

    `fleets` counts draws of `devices` devices each (default: as many as the scenario has).
    """
    for name in channels:
        if name not in CHANNELS:
            raise PlanError(f"there is no channel {name!r}", remedy=f"choose among: {', '.join(CHANNELS)}")
    found = []
    wanted: Sequence[str | None] = channels or (None,)
    for channel in wanted:
        for fleet in range(fleets):
            drawn = draw_fleet(scenario, fleet, devices)
            found.append(Job(scenario=on_channel(drawn, channel, fleet), channel=channel, fleet=fleet))
    return found


def on_channel(scenario: Scenario, channel: str | None, offset: int = 0) -> Scenario:
    """The scenario with every rate drawn from that channel; None leaves it as it is."""
    if channel is None:
        return scenario
    link = scenario.link or LinkSpec()
    # Fleets far apart in the seed, so that no two of them share a channel.
    link = replace(link, channel=channel, seed=link.seed + 1000 * offset)
    devices = tuple(replace(d, uplink_bps=None, downlink_bps=None) for d in scenario.devices)
    return replace(scenario, link=link, devices=devices)


def draw_fleet(scenario: Scenario, fleet: int, devices: int | None = None) -> Scenario:
    """Fleet 0 of unchanged size is the scenario's own; others are drawn from its devices, by number."""
    size = devices or len(scenario.devices)
    # So that a simulation of one fleet is a plan of the scenario and can be compared with it.
    if fleet == 0 and size == len(scenario.devices):
        return scenario
    rng = np.random.default_rng([fleet, size])
    chosen = rng.integers(0, len(scenario.devices), size)
    speeds = rng.lognormal(0.0, SPREAD, size)
    drawn = tuple(
        _faster(scenario.devices[i], speed, n) for n, (i, speed) in enumerate(zip(chosen, speeds, strict=True))
    )
    return replace(scenario, devices=drawn)


def _faster(device: DeviceSpec, speed: float, number: int) -> DeviceSpec:
    name = f"{device.name}-{number}"
    if device.frequencies_hz or device.kappa_w_per_hz3 is not None:
        # Its frequencies and what they draw are the board's: a quicker one does more in each cycle.
        return replace(device, name=name, cores=device.cores * speed)
    return replace(device, name=name, frequency_hz=device.frequency_hz * speed)


def simulate_job(job: Job) -> Simulated:
    """Plan all rounds of a job and sum up."""
    names = tuple(d.name for d in job.scenario.devices)
    budget, over = None, None
    try:
        found = _totals(job.scenario)
        asked = budgets_of(job.scenario)
        if asked is not None:
            try:
                budget = with_budget(problems_of(job.scenario), asked.budgets_j, asked.known)
            except InfeasibleError as error:
                # The plan without a budget is there all the same.
                over = error.message
    except InfeasibleError as error:
        return Simulated(
            channel=job.channel,
            fleet=job.fleet,
            rounds=job.scenario.rounds,
            devices=names,
            infeasible=error.message,
            baselines={},
        )
    return Simulated(
        channel=job.channel,
        fleet=job.fleet,
        rounds=job.scenario.rounds,
        devices=names,
        delay_s=found.outcome.delay_s,
        server_energy_j=found.outcome.server_energy_j,
        baselines={name: (o.delay_s, o.server_energy_j) for name, o in found.baselines.items()},
        # A model's least cut is one layer, in every scheme.
        least_cut_share=tuple((found.cuts == 1.0).mean(axis=0).tolist()),
        cuts=tuple(found.cuts.mean(axis=0).tolist()),
        budget=budget,
        budget_refused=over,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Totals:
    """All rounds of a job: means of plan and baselines, and cuts [rounds,M]."""

    outcome: Outcome
    baselines: Mapping[str, Outcome]
    cuts: Array


def _totals(scenario: Scenario) -> _Totals:
    if scenario.scheme == "card":
        check_scenario(scenario)
        problems = problems_of(scenario)
        if is_fleet(problems[0]):
            return _fleet_totals(problems)
        plan = plan_rounds(problems)
    else:
        plan = solve(scenario)
    cuts = np.array([[d.cut for d in r.devices] for r in plan.rounds], dtype=float)
    return _Totals(outcome=plan.outcome, baselines=plan.baselines, cuts=cuts)


def _fleet_totals(problems: Sequence[Problem]) -> _Totals:
    """The same without a record for each device and round, which would take longer than the decisions."""
    different = list({id(p): p for p in problems}.values())
    chosen = {id(p): choose(p) for p in different}
    return _Totals(
        outcome=mean_outcome([chosen[id(p)].outcome for p in problems]),
        baselines=mean_baselines([baselines(p, ()) for p in different]),
        cuts=np.array([p.cuts[chosen[id(p)].place] for p in problems], dtype=float),
    )


class Answer(Protocol):
    """The future of one job, of a process or of a Dask worker."""

    def result(self) -> Simulated:
        """Wait for it."""


Submit = Callable[[Callable[[Job], Simulated], Job], Answer]


def simulate(
    todo: Sequence[Job],
    *,
    workers: int = 1,
    scheduler: str | None = None,
    progress: Callable[[int, int], None] = lambda done, count: None,
) -> list[Simulated]:
    """Simulate all jobs, in the order given.

    Args:
        workers: processes; 1 works in this one.
        scheduler: address of a Dask scheduler, which then does the work.
        progress: told (done, all) whenever a job is done.
    """
    if scheduler is None and workers <= 1:
        found = []
        for job in todo:
            found.append(simulate_job(job))
            progress(len(found), len(todo))
        return found
    with _dask(scheduler) if scheduler else _processes(workers) as submit:
        futures = [submit(simulate_job, job) for job in todo]
        _watch(futures, progress)
        return [future.result() for future in futures]


def _watch(futures: Sequence[Answer], progress: Callable[[int, int], None]) -> None:
    if not all(isinstance(future, Future) for future in futures):
        # Dask's futures are none of this library and cannot be waited for with it: asked in their order instead.
        for done, future in enumerate(futures, start=1):
            future.result()
            progress(done, len(futures))
        return
    left = set(cast("Sequence[Future[Simulated]]", futures))
    while left:
        _, left = wait(left, return_when=FIRST_COMPLETED)
        progress(len(futures) - len(left), len(futures))


@contextmanager
def _processes(workers: int) -> Iterator[Submit]:
    with ProcessPoolExecutor(workers) as pool:
        yield pool.submit


@contextmanager
def _dask(address: str) -> Iterator[Submit]:
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingDependencyError(
            "a Dask scheduler needs the package distributed",
            remedy="install it: pip install 'cardlab[cluster]'",
        ) from error
    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise PlanError(f"no Dask scheduler answers at {address}", remedy="check --scheduler") from error
    with client:
        yield cast("Submit", client.submit)
