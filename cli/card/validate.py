"""`card validate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cardlab.cli.calibrate.fit import WITH_PLOT
from cardlab.cli.card.app import app
from cardlab.cli.console import print_json, print_line, print_table
from cardlab.cli.parameters import Shared, command
from cardlab.cli.stores import open_shared
from cardlab.core.plain import to_plain
from cardlab.core.text import milliseconds, percent, si
from cardlab.workflows.options.card import ValidateOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cardlab.core.records.checks import EnergyCheck, TermCheck
    from cardlab.core.records.coverage import TermCoverage
    from cardlab.workflows.report_data import SplitRun


@command(app, ValidateOptions, name="validate", shared=WITH_PLOT)
def validate(options: ValidateOptions, shared: Shared) -> None:
    """Hold a run against its prediction, term by term, and name the term that is off."""
    from cardlab.cli.drawing import drawn, drawn_or_none
    from cardlab.reports.views.coverage import coverage_section
    from cardlab.reports.views.parts import pictures
    from cardlab.reports.views.run import run_sections
    from cardlab.workflows.validate import validate as hold

    with open_shared(shared) as store:
        found = hold(store, options.run)
    charts = drawn_or_none(
        shared.plot,
        lambda: pictures(
            (
                *run_sections(found.run, found.rounds, found.checks),
                *coverage_section(found.coverage, found.coverage_here, found.calibration_here),
            )
        ),
    )
    if shared.json:
        print_json(
            {
                "run_id": found.run.uid,
                "plan_id": found.plan,
                "rounds": len({r.number for r in found.rounds}),
                "terms": [{**to_plain(check), "inside": check.inside} for check in found.checks],
                "off": to_plain(found.off),
                "energies": to_plain(found.energies),
                "coverage": [_covered(one) for one in found.coverage],
                "coverage_here": [_covered(one) for one in found.coverage_here],
                "calibration_here": to_plain(found.calibration_here),
                "notes": list(found.notes),
                "expected_notes": list(found.expected_notes),
            }
            | drawn(charts)
        )
        return
    source = "a given cut, predicted by the fits" if found.off else "a given cut"
    source = source if found.plan is None else f"plan {found.plan[:12]}"
    print_table(
        f"run {found.run.uid[:12]}, {source}: medians over rounds, in ms",
        ("device", "term", "observed", "smallest", "largest", "predicted", "95 % interval", "error", "rounds"),
        [_row(check) for check in found.checks],
        left=2,
    )
    made_of = {str(c.predicted_provenance) for c in found.checks if c.predicted_provenance is not None}
    if made_of:
        print_line(f"observed: {found.run.provenance}; predicted: {'; '.join(sorted(made_of))}")
    for line in coverage_lines(found):
        print_line(line)
    for energy in found.energies:
        if energy.observed_j is not None or energy.predicted_j is not None:
            print_line(_energy(energy))
    for line in found.notes:
        print_line(f"note: {line}")
    for line in found.expected_notes:
        print_line(f"of the prediction: {line}")
    for term in found.off:
        print_line(
            f"most off at {term.device}: {term.term}, predicted {'more' if term.difference_s > 0 else 'less'} than"
            f" observed by {si(abs(term.difference_s), 's')} ({percent(abs(term.share))} of the delay)"
        )
    if not found.off:
        print_line("nothing was predicted: run with --plan ID, or profile and fit the same task first")


def coverage_lines(found: SplitRun) -> list[str]:
    """How many rounds lie in their intervals, here and in all runs, and why where they do not."""
    lines = []
    for name in dict.fromkeys(one.device for one in found.coverage):
        mine = [one for one in found.coverage if one.device == name]
        lines.append(f"inside the 95 % intervals at {name}: {_counts(mine)}")
        lines += [f"outside at {name}: {one.term}: {one.reason}" for one in mine if one.reason is not None]
    if found.coverage_here:
        lines.append(f"inside in all runs here: {_counts(found.coverage_here)}")
    return lines


def _counts(found: Sequence[TermCoverage]) -> str:
    return ", ".join(f"{one.term} {one.inside} of {one.rounds}" for one in found)


def _covered(one: TermCoverage) -> dict[str, object]:
    return {**to_plain(one), "share": one.share}


def _energy(check: EnergyCheck) -> str:
    # Records are more than a line of help can wait for.
    from cardlab.core.records.checks import SERVER

    sides = f"observed {si(check.observed_j, 'J')}, predicted {si(check.predicted_j, 'J')}"
    why = "" if check.reason is None else f" ({check.reason})"
    whose = "server's energy in a round of" if check.party == SERVER else "own energy in a round of"
    state = [] if check.frequency_hz is None else [f"read at {si(check.frequency_hz, 'Hz')}"]
    state += [] if check.planned_hz is None else [f"planned {si(check.planned_hz, 'Hz')}"]
    state += [] if check.temperature_c is None else [f"{check.temperature_c:.0f} C"]
    held = f"; {', '.join(state)}" if state else ""
    return f"{whose} {check.device}: {sides}, error {percent(check.error)}{why}{held}"


def _row(check: TermCheck) -> tuple[str, ...]:
    low, high = check.observed_range_s or (None, None)
    interval = "N/A"
    if check.ci95 is not None:
        inside = "" if check.inside else " (outside)"
        interval = f"{milliseconds(check.ci95[0])} .. {milliseconds(check.ci95[1])}{inside}"
    return (
        check.device,
        check.term if check.term != "delay" else "total delay",
        milliseconds(check.observed_s),
        milliseconds(low),
        milliseconds(high),
        milliseconds(check.predicted_s),
        interval,
        percent(check.error),
        str(check.rounds),
    )
