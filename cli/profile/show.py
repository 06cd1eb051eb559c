"""`profile-device show`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cardlab.cli.console import print_json, print_table
from cardlab.cli.parameters import Shared, command
from cardlab.cli.profile.measure import app
from cardlab.cli.stores import open_shared
from cardlab.core.errors import UsageError
from cardlab.core.plain import to_plain
from cardlab.workflows.options.profile import ShowOptions

if TYPE_CHECKING:
    from cardlab.db.store.runs import RunSummary


@command(app, ShowOptions, name="show")
def show(options: ShowOptions, shared: Shared) -> None:
    """Show a stored profile."""
    from cardlab.cli.profile.profile_text import print_profile
    from cardlab.db.store.meters import behind_sensors

    if options.all_runs:
        if options.run is not None:
            raise UsageError("--all lists every run", remedy="leave the id out, or --all")
        _list(shared)
        return
    with open_shared(shared) as store:
        stored = store.runs.latest() if options.run is None else store.runs.get(options.run)
        profile = behind_sensors(store.runs, stored)
    print_profile(profile, shared.json)


def _list(shared: Shared) -> None:
    with open_shared(shared) as store:
        runs = store.runs.summaries()
    print_runs(runs, shared.json)


def print_runs(runs: Sequence[RunSummary], as_json: bool) -> None:
    """Runs of any kind, a line each."""
    if as_json:
        print_json({"runs": [to_plain(run) for run in runs]})
        return
    rows = [
        (
            r.uid[:12],
            r.started_at[:19],
            r.kind.value,
            r.device_name,
            r.task_label or r.workload or "-",
            f"{r.points_done}/{r.points_planned}",
        )
        for r in runs
    ]
    print_table(None, ("run", "started (UTC)", "kind", "device", "task", "points done"), rows, left=5)
