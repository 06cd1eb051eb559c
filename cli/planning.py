"""What `card plan` does."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from cardlab.card import load_scenario, solve
from cardlab.card.check import check_objective
from cardlab.card.from_db import DTYPE_BYTES, Request, gather
from cardlab.card.scenario import Constraints, Objective, Scenario
from cardlab.card.solving import plan
from cardlab.cli.console import print_json, print_line, print_table
from cardlab.cli.settings import database
from cardlab.db import open_store
from cardlab.db.times import utc_now
from cardlab.errors import UsageError
from cardlab.records.plan import Decision, Plan
from cardlab.reports.views.plan import plan_document
from cardlab.text import NOT_MEASURED, percent, si


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """The options of `card plan`; None was not given."""

    scenario: str | None
    server: str | None
    devices: tuple[str, ...]
    scheme: str | None
    weight: float | None
    deadline_s: float | None
    rounds: int | None
    model: str | None
    batch: int | None
    sequence: int | None
    wire_dtype: str | None
    uplink_mbps: float | None
    downlink_mbps: float | None
    local_epochs: int | None
    compression: float | None
    energy: str | None
    db: str | None
    as_json: bool


def make_plan(options: PlanOptions) -> None:
    """Plan, store where a database is named, print."""
    _check(options)
    if options.scenario is not None:
        made = solve(_changed(load_scenario(options.scenario), options))
        if options.db or os.environ.get("CARD_DB"):
            with open_store(database(options.db)) as store:
                made = store.plans.add(made, utc_now())
    else:
        made = _from_database(options)
    print_plan(made, options.as_json)


def _check(options: PlanOptions) -> None:
    if options.scheme not in (None, "card"):
        raise UsageError(f"there is no scheme {options.scheme!r}", remedy="use --scheme card")
    if options.wire_dtype is not None and options.wire_dtype not in DTYPE_BYTES:
        raise UsageError(
            f"{options.wire_dtype!r} is no wire dtype", remedy=f"choose one of: {', '.join(DTYPE_BYTES)}"
        )
    for name, value in (("--uplink-mbps", options.uplink_mbps), ("--downlink-mbps", options.downlink_mbps),
                        ("--deadline", options.deadline_s)):  # fmt: skip
        if value is not None and not value > 0:
            raise UsageError(f"{name} is {value:g}", remedy="give a number above 0")
    if options.rounds is not None and options.rounds < 1:
        raise UsageError(f"--rounds is {options.rounds}", remedy="give 1 or more")


def _objective(base: Objective, options: PlanOptions) -> Objective:
    given = {
        "weight": options.weight,
        "local_epochs": options.local_epochs,
        "compression": options.compression,
        "energy": options.energy,
    }
    objective = replace(base, **{k: v for k, v in given.items() if v is not None})
    check_objective(objective)
    return objective


def _changed(scenario: Scenario, options: PlanOptions) -> Scenario:
    """The scenario with what the command line overrides."""
    rates = {
        "uplink_bps": options.uplink_mbps and options.uplink_mbps * 1e6,
        "downlink_bps": options.downlink_mbps and options.downlink_mbps * 1e6,
    }
    given = {k: v for k, v in rates.items() if v}
    deadline = scenario.constraints.deadline_s if options.deadline_s is None else options.deadline_s
    return replace(
        scenario,
        rounds=options.rounds or scenario.rounds,
        objective=_objective(scenario.objective, options),
        constraints=replace(scenario.constraints, deadline_s=deadline),
        devices=tuple(replace(d, **given) for d in scenario.devices),
    )


def _from_database(options: PlanOptions) -> Plan:
    base = Objective()
    request = Request(
        server=options.server,
        devices=options.devices,
        model=options.model,
        batch=options.batch,
        sequence=options.sequence,
        uplink_bps=None if options.uplink_mbps is None else options.uplink_mbps * 1e6,
        downlink_bps=None if options.downlink_mbps is None else options.downlink_mbps * 1e6,
        wire_dtype=options.wire_dtype,
        energy=options.energy,
        objective=_objective(base, options),
        constraints=Constraints(deadline_s=options.deadline_s),
        assumed=_assumed(base, options),
    )
    with open_store(database(options.db), create=False) as store:
        found = gather(store, request)
        made = plan(
            found.problem,
            rounds=options.rounds or 1,
            assumptions=found.assumptions,
            notes=found.notes,
            fits=found.fits,
            runs=found.runs,
        )
        return store.plans.add(made, utc_now())


def _assumed(base: Objective, options: PlanOptions) -> tuple[str, ...]:
    """Defaults that a reader of the plan must know, because nobody gave them."""
    shown = (
        ("weight", options.weight, f"{base.weight} on delay"),
        ("local_epochs", options.local_epochs, str(base.local_epochs)),
        ("compression", options.compression, f"{base.compression:g} (none)"),
    )
    return tuple(f"{name} = {text}" for name, given, text in shown if given is None)


def print_plan(made: Plan, as_json: bool) -> None:
    """A plan as JSON, or as one table with what was assumed."""
    if as_json:
        print_json(plan_document(made))
        return
    for planned in made.rounds[:1]:
        print_table(_title(made), _COLUMNS, [_row(d) for d in planned.devices])
    print_line()
    rows = [("this plan", si(made.outcome.delay_s, "s"), si(made.outcome.server_energy_j, "J"))]
    rows += [
        (name.replace("_", " "), si(o.delay_s, "s"), si(o.server_energy_j, "J"))
        for name, o in made.baselines.items()
    ]
    print_table("beside it, at equal conditions", ("plan", "delay", "server energy"), rows)
    for note in made.notes:
        print_line(f"note: {note}")
    if made.assumptions:
        print_line(f"assumed: {'; '.join(made.assumptions)}")
    print_line(f"origins: {made.provenance}")


_COLUMNS = ("device", "cut", "clock", "delay", "device s", "uplink s", "server s", "downlink s", "adapters s",
            "energy", "cost", "certainty", "runner-up", "margin", "binding")  # fmt: skip


def _title(made: Plan) -> str:
    rounds = len(made.rounds)
    more = f", the same in each of {rounds} rounds" if rounds > 1 else ""
    return f"plan {made.uid[:12]}, scheme {made.scheme}, energy counted as {made.energy or NOT_MEASURED}{more}"


def _row(d: Decision) -> tuple[str, ...]:
    terms = d.delay_terms
    return (
        d.device,
        str(d.cut),
        si(d.frequency_hz, "Hz"),
        si(d.delay_s, "s"),
        f"{terms.device:.4g}",
        f"{terms.uplink:.4g}",
        f"{terms.server:.4g}",
        f"{terms.downlink:.4g}",
        f"{terms.adapters:.4g}",
        si(d.server_energy_j, "J"),
        f"{d.cost:.4f}",
        percent(d.cut_probability, 0),
        "none" if d.runner_up is None else f"cut {d.runner_up.cut}",
        NOT_MEASURED if d.runner_up is None or d.runner_up.margin is None else f"{d.runner_up.margin:.4f}",
        ", ".join(d.binding),
    )
