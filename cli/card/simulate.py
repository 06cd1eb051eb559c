"""`card simulate`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cardlab.cli.card.app import app
from cardlab.cli.card.budget_table import BESIDE, SPENT, beside_row, spent_rows
from cardlab.cli.console import note, print_json, print_line, print_table
from cardlab.cli.parameters import Shared, command
from cardlab.core.plain import to_plain
from cardlab.core.text import NOT_MEASURED, percent, si
from cardlab.workflows.options.card import SimulateOptions

if TYPE_CHECKING:
    from cardlab.card.simulate import Simulated


@command(app, SimulateOptions, name="simulate", shared=("plot", "json"))
def simulate(options: SimulateOptions, shared: Shared) -> None:
    """Simulate a scenario over rounds, channels and fleets."""
    from cardlab.cli.drawing import drawn, drawn_or_none
    from cardlab.workflows.simulate import simulate as simulate_scenario

    found = simulate_scenario(options, None if shared.json else _progress)
    charts = drawn_or_none(shared.plot, found.charts)
    if shared.json:
        document = {
            "scenario": found.scenario,
            "scheme": found.scheme,
            "rounds": found.rounds,
            "notes": list(found.notes),
        }
        print_json({**document, "jobs": to_plain(found.jobs), **drawn(charts)})
        return
    if found.scheme == "sft":
        _print_shared(found.scenario, found.rounds, found.jobs)
        return
    print_table(
        f"{found.scenario}, {found.rounds} round(s) each, means over rounds of sums over devices",
        ("channel", "fleet", "delay", "server energy", "delay vs device only", "energy vs server only", "mean cuts"),
        [_row(p) for p in found.jobs],
    )
    for line in found.notes:
        print_line(f"note: {line}")
    _print_budgets(found.jobs)


def _print_budgets(jobs: Sequence[Simulated]) -> None:
    """The rounds with a budget beside those without, device by device."""
    rows = []
    for p in jobs:
        if p.budget_refused is not None:
            note(f"warning: no budget for {p.channel or 'the rates as given'}, fleet {p.fleet}: {p.budget_refused}")
        if p.budget is not None:
            rows += [(p.channel or "as given", str(p.fleet), *row) for row in spent_rows(p.budget)]
    if not rows:
        return
    print_table("with a budget of energy for all rounds", ("channel", "fleet", *SPENT), rows)
    totals = [
        (p.channel or "as given", str(p.fleet), "kept" if p.budget.kept else "not kept", *beside_row(p.budget))
        for p in jobs
        if p.budget is not None
    ]
    print_table(
        "means over rounds of sums over devices, with the budgets and without",
        ("channel", "fleet", "budgets", *BESIDE),
        totals,
    )


def _print_shared(scenario: str, rounds: int, jobs: Sequence[Simulated]) -> None:
    names = list(dict.fromkeys(name for p in jobs for name in p.baselines))
    rows = [
        (
            p.channel or "as given",
            str(p.fleet),
            si(p.delay_s, "s"),
            *(
                percent(None if p.delay_s is None or name not in p.baselines else p.delay_s / p.baselines[name][0] - 1)
                for name in names
            ),
            p.infeasible or " ".join(f"{c:.1f}" for c in p.cuts[:8]),
        )
        for p in jobs
    ]
    columns = ("channel", "fleet", "delay", *(f"vs {name.replace('_', ' ')}" for name in names), "mean cuts")
    print_table(f"{scenario}, {rounds} round(s) each, sft: means over rounds of the slowest device", columns, rows)


def _progress(done: int, count: int) -> None:
    # A line that overwrites itself is for a terminal; a log gets about ten lines.
    if sys.stderr.isatty():
        print(f"\r{done} of {count}", end="\n" if done == count else "", file=sys.stderr, flush=True)
    elif done == count or done % max(count // 10, 1) == 0:
        note(f"{done} of {count}")


def _row(p: Simulated) -> tuple[str, ...]:
    channel = p.channel or "as given"
    if p.delay_s is None:
        return (
            channel,
            str(p.fleet),
            NOT_MEASURED,
            NOT_MEASURED,
            NOT_MEASURED,
            NOT_MEASURED,
            p.infeasible or "",
        )
    device, server = p.baselines.get("device_only"), p.baselines.get("server_only")
    energy = None
    if p.server_energy_j is not None and server is not None and server[1]:
        energy = p.server_energy_j / server[1] - 1.0
    # Eight cuts fill the line, and a fleet may have hundreds.
    shown = " ".join(f"{c:.1f}" for c in p.cuts[:8]) + (" ..." if len(p.cuts) > 8 else "")
    return (
        channel,
        str(p.fleet),
        si(p.delay_s, "s"),
        si(p.server_energy_j, "J"),
        percent(None if device is None else p.delay_s / device[0] - 1.0),
        percent(energy),
        shown,
    )
