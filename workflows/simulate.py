"""A scenario over rounds, channels and fleets; and the paper's claims held against this model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from cardlab.card.problem.check import check_scenario
from cardlab.card.problem.scenario_file import load_scenario
from cardlab.card.reproduce import Reproduction
from cardlab.card.reproduce import reproduce as reproduce_paper
from cardlab.card.simulate import Simulated
from cardlab.card.simulate import jobs as jobs_of
from cardlab.card.simulate import simulate as simulate_jobs
from cardlab.core.errors import UsageError
from cardlab.core.tables import Cell, Tabular
from cardlab.reports.views.parts import Bars, Chart
from cardlab.reports.views.schemes import paper_pictures, simulation_pictures
from cardlab.workflows.options.card import ReproduceOptions, SimulateOptions
from cardlab.workflows.plan import budget_replaced, check_device_budget

Count = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation(Tabular):
    """Every channel and fleet of a simulated scenario; `notes` are what a reader must know."""

    scenario: str
    scheme: str
    rounds: int
    jobs: tuple[Simulated, ...]
    notes: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Cell]]:
        """A row a channel and fleet: means over rounds."""
        return [
            {
                "channel": p.channel,
                "fleet": p.fleet,
                "delay_s": p.delay_s,
                "server_energy_j": p.server_energy_j,
                "infeasible": p.infeasible,
            }
            for p in self.jobs
        ]

    def charts(self) -> tuple[Chart | Bars, ...]:
        """Delay and energy of each scheme, and cuts."""
        schemes: dict[str, dict[str, tuple[float, float | None]]] = {}
        for p in self.jobs:
            if p.delay_s is not None:
                outcomes = {"this plan": (p.delay_s, p.server_energy_j), **p.baselines}
                for name, pair in outcomes.items():
                    schemes.setdefault(name, {})[_job(p)] = pair
        cuts = {_job(p): dict(zip(p.devices, p.cuts, strict=True)) for p in self.jobs if p.cuts}
        return tuple(simulation_pictures(schemes, cuts))


def simulate(options: SimulateOptions | None = None, progress: Count | None = None) -> Simulation:
    """Simulate a scenario; `progress` is told how many jobs of how many are done.

    Raises ScenarioError or UsageError for a scenario or option that makes no sense.
    """
    asked = options or SimulateOptions()
    base = replace(load_scenario(asked.scenario), rounds=asked.rounds)
    if asked.weight is not None:
        base = replace(base, objective=replace(base.objective, weight=asked.weight))
    if asked.scheme is not None:
        base = replace(base, scheme=asked.scheme)
    if base.scheme == "sft" and asked.weight is not None:
        raise UsageError("--weight has no effect on scheme sft, which has no weight", remedy="leave --weight out")
    check_device_budget(asked.device_budget_j, base.scheme)
    of_file = [d.energy_budget_j for d in base.devices]
    if asked.device_budget_j is not None:
        base = replace(base, devices=tuple(replace(d, energy_budget_j=asked.device_budget_j) for d in base.devices))
    check_scenario(base)
    todo = jobs_of(base, asked.channels, asked.fleets, asked.devices)
    simulated = simulate_jobs(
        todo, workers=asked.workers, scheduler=asked.scheduler, progress=progress or (lambda _done, _count: None)
    )
    return Simulation(
        scenario=asked.scenario,
        scheme=base.scheme,
        rounds=asked.rounds,
        jobs=tuple(simulated),
        notes=budget_replaced([d.name for d in base.devices], of_file, asked.device_budget_j),
    )


def _job(p: Simulated) -> str:
    return f"{p.channel or 'as given'}, fleet {p.fleet}"


def reproduce(options: ReproduceOptions | None = None) -> Reproduction:
    """The claims of the paper, one by one, and the series of its figures."""
    return reproduce_paper((options or ReproduceOptions()).rounds)


def reproduction_charts(found: Reproduction) -> tuple[Chart | Bars, ...]:
    """The paper's figures with this model's numbers."""
    by_round = {name: [row[m] for row in found.cut_by_round] for m, name in enumerate(found.devices)}
    frequencies = dict(zip(found.devices, found.frequency_hz, strict=True))
    return tuple(paper_pictures(by_round, frequencies, found.schemes))
