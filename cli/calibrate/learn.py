"""`calibrate learn`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cardlab.cli.calibrate.app import app
from cardlab.cli.console import print_json, print_line, print_table
from cardlab.cli.parameters import Shared, command
from cardlab.cli.stores import open_shared
from cardlab.core.plain import to_plain
from cardlab.core.text import percent
from cardlab.workflows.options.calibrate import LearnOptions

if TYPE_CHECKING:
    from cardlab.workflows.learn import LearntRow


@command(app, LearnOptions, name="learn")
def learn(options: LearnOptions, shared: Shared) -> None:
    """Learn from a run's rounds by what its constants are off, and store that for `card plan --learnt`."""
    from cardlab.workflows.learn import learn as learn_from

    with open_shared(shared) as store:
        found = learn_from(store, options)
    if shared.json:
        terms = [
            {**row, "changes": to_plain(one.learnt.changes), "reason": one.reason}
            for row, one in zip(found.rows(), found.terms, strict=True)
        ]
        print_json({"run_id": found.run, "plan_id": found.plan, "terms": terms})
        return
    print_table(
        f"run {found.run[:12]}: true time over that of the constants of plan {found.plan[:12]}",
        ("device", "term", "before the run", "ratio", "95 % interval", "a round scatters by", "rounds", "fit"),
        [_row(row) for row in found.terms],
        left=2,
    )
    for row in found.terms:
        for change in row.learnt.changes:
            print_line(
                f"{row.device}: the {row.learnt.term} term changed in round {change.round}, from"
                f" {change.before:.2f} to {change.after:.2f}; noticed after round {change.noticed}"
            )
    for reason in dict.fromkeys(row.reason for row in found.terms if row.reason is not None):
        names = ", ".join(f"{row.learnt.term} of {row.device}" for row in found.terms if row.reason == reason)
        print_line(f"not stored: {names}: {reason}")
    if any(row.fit is not None for row in found.terms):
        print_line(
            "next: card plan --from-db --learnt (without --learnt a plan takes the constants as they were measured)"
        )


def _row(row: LearntRow) -> tuple[str, ...]:
    learnt, level = row.learnt, row.learnt.level
    first, last = learnt.window
    return (
        row.device,
        learnt.term,
        f"{learnt.prior_ci95[0]:.2f} .. {learnt.prior_ci95[1]:.2f}",
        f"{level.ratio:.3f}",
        f"{level.ci95[0]:.3f} .. {level.ci95[1]:.3f}",
        percent(level.noise),
        f"{first} to {last}",
        "" if row.fit is None else row.fit.fit_id[:12],
    )
