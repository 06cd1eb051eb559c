"""`card plans`, `card runs` and `card links`: what is stored, newest first."""

from __future__ import annotations

from cardlab.cli.card.app import app
from cardlab.cli.card.link import print_links
from cardlab.cli.console import print_json, print_line, print_table
from cardlab.cli.parameters import Shared, command
from cardlab.cli.stores import open_shared
from cardlab.core.plain import to_plain
from cardlab.core.text import NOT_MEASURED, si
from cardlab.workflows.options.profile import NoOptions


@command(app, NoOptions, name="plans")
def plans(options: NoOptions, shared: Shared) -> None:
    """List the stored plans, newest first."""
    from cardlab.workflows.lists import list_plans

    with open_shared(shared) as store:
        found = list_plans(store).lines
    if shared.json:
        print_json({"plans": to_plain(found)})
        return
    if not found:
        print_line("no plan is stored; make one with: card plan --from-db")
        return
    rows = [
        (
            line.plan_id[:12],
            (line.created_at or NOT_MEASURED)[:19],
            line.scheme,
            ", ".join(line.devices),
            ", ".join(map(str, line.cuts)),
            str(line.rounds),
            si(line.delay_s, "s"),
            si(line.server_energy_j, "J"),
        )
        for line in found
    ]
    columns = ("plan", "made (UTC)", "scheme", "devices", "cuts", "rounds", "delay", "server energy")
    print_table(None, columns, rows, left=4)


@command(app, NoOptions, name="runs")
def runs(options: NoOptions, shared: Shared) -> None:
    """List the stored split runs, newest first."""
    from cardlab.workflows.lists import list_runs

    with open_shared(shared) as store:
        found = list_runs(store).lines
    if shared.json:
        print_json({"runs": to_plain(found)})
        return
    if not found:
        print_line("no split run is stored; make one with: card run --local")
        return
    rows = [
        (
            line.run_id[:12],
            line.started_at[:19],
            line.server,
            ", ".join(line.devices) or "none",
            line.task or NOT_MEASURED,
            NOT_MEASURED if line.plan_id is None else line.plan_id[:12],
            str(line.rounds),
            NOT_MEASURED if line.loss is None else f"{line.loss:.4f}",
            si(line.delay_s, "s"),
        )
        for line in found
    ]
    columns = ("run", "started (UTC)", "server", "devices", "task", "plan", "rounds", "loss", "delay")
    print_table(None, columns, rows, left=6)


@command(app, NoOptions, name="links")
def links(options: NoOptions, shared: Shared) -> None:
    """List the stored links, newest first."""
    from cardlab.workflows.lists import list_links

    with open_shared(shared) as store:
        found = list_links(store)
    print_links(found, shared)
