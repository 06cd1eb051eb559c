"""What is stored, newest first: plans, split runs, links and profiles, a line each."""

from __future__ import annotations

from dataclasses import dataclass

from cardlab.core.records.link import Link
from cardlab.core.records.measurement import RunKind
from cardlab.core.tables import Cell, Tabular
from cardlab.db.store import Store
from cardlab.db.store.runs import RunSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLine:
    """One stored plan.

    Attributes:
        plan_id: its identity.
        created_at: UTC.
        scheme: "card" or "sft".
        devices: their labels, in the order of the plan.
        rounds: planned.
        cuts: distinct cuts that it chose, ascending.
        delay_s, server_energy_j: of its summary; energy None where the power is not known.
        origins: where its numbers come from.
    """

    plan_id: str
    created_at: str | None
    scheme: str
    devices: tuple[str, ...]
    rounds: int
    cuts: tuple[int, ...]
    delay_s: float
    server_energy_j: float | None
    origins: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLine:
    """One split run.

    Attributes:
        run_id: its identity.
        started_at: UTC.
        server: label of its server.
        devices: labels of those that finished a round.
        task: model, batch and sequence.
        plan_id: plan that it followed; None for a given cut.
        rounds: finished.
        loss: mean over the devices of the last finished round, None before there is one.
        delay_s: mean over rounds of the slowest device, None likewise.
    """

    run_id: str
    started_at: str
    server: str
    devices: tuple[str, ...]
    task: str | None
    plan_id: str | None
    rounds: int
    loss: float | None
    delay_s: float | None


@dataclass(frozen=True, slots=True)
class Plans(Tabular):
    """Stored plans, newest first."""

    lines: tuple[PlanLine, ...]

    def rows(self) -> list[dict[str, Cell]]:
        """A row a plan; lists joined by commas."""
        return [
            {
                "plan_id": line.plan_id,
                "created_at": line.created_at,
                "scheme": line.scheme,
                "devices": ", ".join(line.devices),
                "rounds": line.rounds,
                "cuts": ", ".join(map(str, line.cuts)),
                "delay_s": line.delay_s,
                "server_energy_j": line.server_energy_j,
                "origins": ", ".join(line.origins),
            }
            for line in self.lines
        ]


@dataclass(frozen=True, slots=True)
class SplitRuns(Tabular):
    """Stored split runs, newest first."""

    lines: tuple[RunLine, ...]

    def rows(self) -> list[dict[str, Cell]]:
        """A row a run; devices joined by commas."""
        return [
            {
                "run_id": line.run_id,
                "started_at": line.started_at,
                "server": line.server,
                "devices": ", ".join(line.devices),
                "task": line.task,
                "plan_id": line.plan_id,
                "rounds": line.rounds,
                "loss": line.loss,
                "delay_s": line.delay_s,
            }
            for line in self.lines
        ]


def list_plans(store: Store) -> Plans:
    """Every stored plan, newest first."""
    found = []
    for plan in reversed(store.plans.all()):
        decisions = [decision for planned in plan.rounds for decision in planned.devices]
        line = PlanLine(
            plan_id=plan.uid,
            created_at=plan.created_at,
            scheme=plan.scheme,
            devices=tuple(dict.fromkeys(d.device for d in decisions)),
            rounds=len(plan.rounds),
            cuts=tuple(sorted({d.cut for d in decisions})),
            delay_s=plan.summary.delay_s,
            server_energy_j=plan.summary.server_energy_j,
            origins=tuple(sorted(origin.value for origin in plan.provenance.origins)),
        )
        found.append(line)
    return Plans(tuple(found))


def list_runs(store: Store) -> SplitRuns:
    """Every stored split run, newest first."""
    return SplitRuns(tuple(_line(store, r) for r in store.runs.summaries() if r.kind is RunKind.TRAIN))


def _line(store: Store, run: RunSummary) -> RunLine:
    rounds = store.rounds.of_run(run.uid)
    numbers = sorted({r.number for r in rounds})
    last = [r.loss for r in rounds if numbers and r.number == numbers[-1] and r.loss is not None]
    slowest = [
        max(known) for n in numbers if (known := [r.delay_s for r in rounds if r.number == n and r.delay_s is not None])
    ]
    return RunLine(
        run_id=run.uid,
        started_at=run.started_at,
        server=run.device_name,
        devices=tuple(dict.fromkeys(r.device.name for r in rounds)),
        task=run.task_label,
        plan_id=next((r.plan for r in rounds if r.plan is not None), None),
        rounds=len(numbers),
        loss=sum(last) / len(last) if last else None,
        delay_s=sum(slowest) / len(slowest) if slowest else None,
    )


def list_links(store: Store) -> tuple[Link, ...]:
    """Every stored link, newest first."""
    return tuple(sorted(store.links.all(), key=lambda link: link.measured_at, reverse=True))


def list_profiles(store: Store) -> tuple[RunSummary, ...]:
    """Every stored profile, finished or not, newest first."""
    return tuple(r for r in store.runs.summaries() if r.kind is RunKind.PROFILE)
