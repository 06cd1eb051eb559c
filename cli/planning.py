"""What `card plan` does."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path

from cardlab.card import load_scenario, solve
from cardlab.card.check import check_objective, check_scenario
from cardlab.card.from_db import DTYPE_BYTES, Request, gather
from cardlab.card.problem import Problem
from cardlab.card.scenario import CHANNELS, Constraints, LinkSpec, Objective, Scenario
from cardlab.card.simulate import on_channel
from cardlab.card.solving import plan_rounds, problems_of
from cardlab.card.tradeoffs import with_pareto, with_sensitivity
from cardlab.cli.console import print_json, print_line, print_table
from cardlab.cli.settings import database
from cardlab.db import open_store
from cardlab.db.times import utc_now
from cardlab.errors import UsageError
from cardlab.records.plan import Decision, DelayTerms, Plan
from cardlab.reports.svg import terms_chart
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
    channel: str | None
    link: str | None
    confidence: float | None
    pareto: bool
    sensitivity: bool
    plot: str | None
    db: str | None
    as_json: bool


def make_plan(options: PlanOptions) -> None:
    """Plan, store where a database is named, print."""
    _check(options)
    if options.scenario is not None:
        scenario = _changed(load_scenario(options.scenario), options)
        check_scenario(scenario)
        made = _extended(solve(scenario), problems_of(scenario)[0], options)
        if options.db or os.environ.get("CARD_DB"):
            with open_store(database(options.db)) as store:
                made = store.plans.add(made, utc_now())
    else:
        made = _from_database(options)
    if options.plot is not None:
        _plot(made, options.plot)
    print_plan(made, options.as_json)


def _extended(made: Plan, problem: Problem, options: PlanOptions) -> Plan:
    if options.pareto:
        made = with_pareto(made, problem)
    if options.sensitivity:
        made = with_sensitivity(made, problem)
    return made


_PLOT_STYLE = (
    "text{font:12px sans-serif}.term-device{fill:#4c78a8}.term-uplink{fill:#f58518}.term-server{fill:#54a24b}"
    ".term-downlink{fill:#e45756}.term-adapters{fill:#b279a2}.term-encode,.term-decode{fill:#9d755d}"
    ".term-switch{fill:#bab0ac}"
)


def _plot(made: Plan, file: str) -> None:
    rows = [
        (f"{d.device}, cut {d.cut}", [getattr(d.delay_terms, f.name) for f in fields(DelayTerms)])
        for d in made.rounds[0].devices
    ]
    chart = terms_chart(rows).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    chart = chart.replace("</svg>", f"<style>{_PLOT_STYLE}</style></svg>")
    try:
        Path(file).write_text(chart, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}", remedy="name another file") from error


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
    if options.channel is not None and options.channel not in CHANNELS:
        raise UsageError(f"there is no channel {options.channel!r}", remedy=f"choose one of: {', '.join(CHANNELS)}")
    if options.link is not None and (options.channel is not None or options.scenario is not None):
        raise UsageError("--link names a stored link", remedy="use it with --from-db and without --channel")
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


def _constraints(base: Constraints, options: PlanOptions) -> Constraints:
    given = {"deadline_s": options.deadline_s, "deadline_confidence": options.confidence}
    return replace(base, **{k: v for k, v in given.items() if v is not None})


def _changed(scenario: Scenario, options: PlanOptions) -> Scenario:
    """The scenario with what the command line overrides."""
    rates = {
        "uplink_bps": options.uplink_mbps and options.uplink_mbps * 1e6,
        "downlink_bps": options.downlink_mbps and options.downlink_mbps * 1e6,
    }
    given = {k: v for k, v in rates.items() if v}
    if options.channel is not None:
        scenario = replace(
            on_channel(scenario, options.channel), assumed=(*scenario.assumed, *_link_defaults(scenario))
        )
    return replace(
        scenario,
        rounds=options.rounds or scenario.rounds,
        objective=_objective(scenario.objective, options),
        constraints=_constraints(scenario.constraints, options),
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
        link=None if options.channel is None else LinkSpec(channel=options.channel),
        link_name=options.link,
        constraints=_constraints(Constraints(), options),
        assumed=_assumed(base, options),
    )
    with open_store(database(options.db), create=False) as store:
        found = gather(store, request, options.rounds or 1)
        made = plan_rounds(
            found.problems,
            doubts=found.doubts,
            assumptions=found.assumptions,
            notes=found.notes,
            fits=found.fits,
            runs=found.runs,
            links=found.links,
        )
        return store.plans.add(_extended(made, found.problem, options), utc_now())


def _assumed(base: Objective, options: PlanOptions) -> tuple[str, ...]:
    """Defaults that a reader of the plan must know, because nobody gave them."""
    shown = (
        ("weight", options.weight, f"{base.weight} on delay"),
        ("local_epochs", options.local_epochs, str(base.local_epochs)),
        ("compression", options.compression, f"{base.compression:g} (none)"),
    )
    words = [f"{name} = {text}" for name, given, text in shown if given is None]
    return (*words, *(_link_defaults(None) if options.channel is not None else ()))


def _link_defaults(scenario: Scenario | None) -> tuple[str, ...]:
    """What a channel named on the command line assumes where no [link] says it."""
    if scenario is not None and scenario.link is not None:
        return ()
    return tuple(f"link {f.name} = {f.default}" for f in fields(LinkSpec) if f.name != "channel")


def print_plan(made: Plan, as_json: bool) -> None:
    """A plan as JSON, or as one table with what was assumed."""
    if as_json:
        print_json(plan_document(made))
        return
    print_table(_title(made), _COLUMNS, [_row(d) for d in made.rounds[0].devices])
    if not _alike(made):
        print_line("rounds differ by their links; this is the first, --json has all")
    print_line()
    rows = [("this plan", si(made.outcome.delay_s, "s"), si(made.outcome.server_energy_j, "J"))]
    rows += [
        (name.replace("_", " "), si(o.delay_s, "s"), si(o.server_energy_j, "J"))
        for name, o in made.baselines.items()
    ]
    print_table("beside it, at equal conditions", ("plan", "delay", "server energy"), rows)
    _print_more(made)
    for note in made.notes:
        print_line(f"note: {note}")
    if made.assumptions:
        print_line(f"assumed: {'; '.join(made.assumptions)}")
    print_line(f"origins: {made.provenance}")


def _print_more(made: Plan) -> None:
    """What was asked for beside the plan, and whose doubt matters."""
    if made.pareto:
        rows = [
            (f"{p.weight:.3f}", si(p.delay_s, "s"), si(p.server_energy_j, "J"), " ".join(map(str, p.cuts)))
            for p in made.pareto
        ]
        print_line()
        print_table("Pareto front of the first round", ("weight", "delay", "server energy", "cuts"), rows)
    if made.sensitivity:
        rows = [
            (s.setting, f"x {s.factor:g}", si(s.delay_s, "s"), si(s.server_energy_j, "J"), " ".join(map(str, s.cuts)))
            for s in made.sensitivity
        ]
        print_line()
        print_table(
            "planned again with one setting changed", ("setting", "factor", "delay", "server energy", "cuts"), rows
        )
    if made.doubts:
        name, lost = next(iter(made.doubts.items()))
        print_line(f"the doubt that matters most: {name}, which costs {lost:.2g} of the objective on average")


_COLUMNS = ("device", "cut", "clock", "delay", "device s", "uplink s", "server s", "downlink s", "adapters s",
            "energy", "cost", "certainty", "runner-up", "margin", "binding")  # fmt: skip


def _title(made: Plan) -> str:
    rounds = len(made.rounds)
    more = ""
    if rounds > 1:
        more = f", the same in each of {rounds} rounds" if _alike(made) else f", round 1 of {rounds}"
    return f"plan {made.uid[:12]}, scheme {made.scheme}, energy counted as {made.energy or NOT_MEASURED}{more}"


def _alike(made: Plan) -> bool:
    return all(r.devices == made.rounds[0].devices for r in made.rounds)


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
