"""What `card validate` does."""

from __future__ import annotations

from cardlab.cli.console import print_json, print_line, print_table
from cardlab.cli.drawing import drawn, save_figure
from cardlab.cli.gathering import split_run
from cardlab.cli.settings import database
from cardlab.core.errors import NotFoundError
from cardlab.core.plain import to_plain
from cardlab.core.records.measurement import Profile, RunKind
from cardlab.core.text import milliseconds, percent, si
from cardlab.db import open_store
from cardlab.db.store import Store
from cardlab.reports.views.parts import pictures
from cardlab.reports.views.run import run_sections
from cardlab.split.validate import TOTAL, TermCheck, check_rounds, terms_off


def validate_run(run: str | None, plot: str | None, db: str | None, as_json: bool) -> None:
    """Compare and show; a run without plan or fit has no predictions and is no error."""
    with open_store(database(db), create=False) as store:
        profile = _newest(store) if run is None else store.runs.get(run)
        trained = split_run(store, profile.run.uid)
    rounds = trained.rounds
    checks, off = check_rounds(rounds), terms_off(check_rounds(rounds))
    charts = None
    if plot is not None:
        charts = pictures(run_sections(trained.run, rounds, trained.checks))
        save_figure(charts, plot)
    plan = next((r.plan for r in rounds if r.plan is not None), None)
    if as_json:
        print_json(
            {
                "run_id": profile.run.uid,
                "plan_id": plan,
                "rounds": len({r.number for r in rounds}),
                "terms": [{**to_plain(check), "inside": check.inside} for check in checks],
                "off": to_plain(off),
            }
            | drawn(charts)
        )
        return
    source = "a given cut, predicted by the fits" if off else "a given cut"
    source = source if plan is None else f"plan {plan[:12]}"
    print_table(
        f"run {profile.run.uid[:12]}, {source}: medians over rounds, in ms",
        ("device", "term", "observed", "smallest", "largest", "predicted", "95 % interval", "error", "rounds"),
        [_row(check) for check in checks],
        left=2,
    )
    for term in off:
        print_line(
            f"most off at {term.device}: {term.term}, predicted {'more' if term.difference_s > 0 else 'less'} than"
            f" observed by {si(abs(term.difference_s), 's')} ({percent(abs(term.share))} of the delay)"
        )
    if not off:
        print_line("nothing was predicted: run with --plan ID, or profile and fit the same task first")


def _newest(store: Store) -> Profile:
    runs = store.runs.select(kind=RunKind.TRAIN)
    if not runs:
        raise NotFoundError(f"{store.location} holds no split run", remedy="make one with: card run")
    return runs[-1]


def _row(check: TermCheck) -> tuple[str, ...]:
    low, high = check.observed_range_s or (None, None)
    interval = "N/A"
    if check.ci95 is not None:
        inside = "" if check.inside else " (outside)"
        interval = f"{milliseconds(check.ci95[0])} .. {milliseconds(check.ci95[1])}{inside}"
    return (
        check.device,
        check.term if check.term != TOTAL else "total delay",
        milliseconds(check.observed_s),
        milliseconds(low),
        milliseconds(high),
        milliseconds(check.predicted_s),
        interval,
        percent(check.error),
        str(check.rounds),
    )
