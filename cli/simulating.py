"""What `card simulate` and `card reproduce` do."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from cardlab.card.check import check_scenario
from cardlab.card.reproduce import Reproduction, reproduce
from cardlab.card.scenario_file import load_scenario
from cardlab.card.simulate import Played, jobs, simulate
from cardlab.cli.console import note, print_json, print_line, print_table
from cardlab.cli.drawing import drawn, save_figure
from cardlab.core.plain import to_plain
from cardlab.core.text import NOT_MEASURED, percent, si
from cardlab.reports.views.schemes import paper_pictures, simulation_pictures


def run_simulation(
    scenario: str,
    *,
    rounds: int,
    channels: tuple[str, ...],
    fleets: int,
    devices: int | None,
    weight: float | None,
    scheme: str | None,
    workers: int,
    scheduler: str | None,
    plot: str | None,
    as_json: bool,
) -> None:
    """Play, showing progress on stderr, draw where asked, and print one line for each channel and fleet."""
    base = replace(load_scenario(scenario), rounds=rounds)
    if weight is not None:
        base = replace(base, objective=replace(base.objective, weight=weight))
    if scheme is not None:
        base = replace(base, scheme=scheme)
    check_scenario(base)
    todo = jobs(base, channels, fleets, devices)
    shown = None if as_json else _progress
    played = simulate(todo, workers=workers, scheduler=scheduler, progress=shown or (lambda _done, _count: None))
    charts = None
    if plot is not None:
        charts = simulation_pictures(_schemes(played), _cuts(played))
        save_figure(charts, plot)
    if as_json:
        found = {"scenario": scenario, "scheme": base.scheme, "rounds": rounds, "played": to_plain(played)}
        print_json({**found, **drawn(charts)})
        return
    if base.scheme == "sft":
        _print_shared(scenario, rounds, played)
        return
    print_table(
        f"{scenario}, {rounds} round(s) each, means over rounds of sums over devices",
        (
            "channel",
            "fleet",
            "delay",
            "server energy",
            "delay vs device only",
            "energy vs server only",
            "mean cuts",
        ),
        [_row(p) for p in played],
    )


def _print_shared(scenario: str, rounds: int, played: Sequence[Played]) -> None:
    names = list(dict.fromkeys(name for p in played for name in p.baselines))
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
        for p in played
    ]
    columns = ("channel", "fleet", "delay", *(f"vs {name.replace('_', ' ')}" for name in names), "mean cuts")
    print_table(f"{scenario}, {rounds} round(s) each, sft: means over rounds of the slowest device", columns, rows)


def _schemes(played: Sequence[Played]) -> dict[str, dict[str, tuple[float, float | None]]]:
    """(delay, energy) by scheme and job, of the jobs that have a plan."""
    found: dict[str, dict[str, tuple[float, float | None]]] = {}
    for p in played:
        if p.delay_s is not None:
            outcomes = {"this plan": (p.delay_s, p.server_energy_j), **p.baselines}
            for name, pair in outcomes.items():
                found.setdefault(name, {})[_job(p)] = pair
    return found


def _cuts(played: Sequence[Played]) -> dict[str, dict[str, float]]:
    """Mean cut by job and device."""
    return {_job(p): dict(zip(p.devices, p.cuts, strict=True)) for p in played if p.cuts}


def _job(p: Played) -> str:
    return f"{p.channel or 'as given'}, fleet {p.fleet}"


def _progress(done: int, count: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {count}", end="\n" if done == count else "", file=sys.stderr, flush=True)
    elif done == count or done % max(count // 10, 1) == 0:
        note(f"{done} of {count}")


def _row(p: Played) -> tuple[str, ...]:
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


def run_reproduction(rounds: int, plot: str | None, as_json: bool) -> None:
    """The claims of the paper and the series of its figures."""
    found = reproduce(rounds)
    charts = None
    if plot is not None:
        by_round = {name: [row[m] for row in found.cut_by_round] for m, name in enumerate(found.devices)}
        clocks = dict(zip(found.devices, found.clock_hz, strict=True))
        charts = paper_pictures(by_round, clocks, found.schemes)
        save_figure(charts, plot)
    if as_json:
        print_json(to_plain(found) | drawn(charts))
        return
    for number, claim in enumerate(found.claims, start=1):
        print_line(f"{number}. {claim.claim}: {claim.verdict}")
        print_line(f"   paper: {claim.paper}; here: {claim.here}")
        print_line(f"   open choice: {claim.open_choice}")
    print_line()
    _figures(found)


def _figures(found: Reproduction) -> None:
    print_table(
        "like Fig. 3: cuts in the first rounds of the Normal channel, mean clock",
        ("device", "cuts", "clock"),
        [
            (name, " ".join(str(row[m]) for row in found.cut_by_round), si(found.clock_hz[m], "Hz"))
            for m, name in enumerate(found.devices)
        ],
    )
    print_line()
    print_table(
        f"like Fig. 4: mean delay and server energy of {found.rounds} rounds",
        (
            "scheme",
            *(f"{channel} {what}" for channel in next(iter(found.schemes.values())) for what in ("s", "J")),
        ),
        [
            (name.replace("_", " "), *(f"{value:.4g}" for pair in by_channel.values() for value in pair))
            for name, by_channel in found.schemes.items()
        ],
    )
