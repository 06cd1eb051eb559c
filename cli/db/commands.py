"""`cardlab db upgrade | info | check | prune | vacuum`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from cardlab.cli.console import note, print_json, print_line, print_table
from cardlab.cli.db.app import app
from cardlab.cli.parameters import Shared, command
from cardlab.cli.stores import open_shared
from cardlab.core.errors import StoreError
from cardlab.core.plain import Document, to_plain
from cardlab.workflows.options.database import PruneOptions
from cardlab.workflows.options.profile import NoOptions
from cardlab.workflows.settings import database

if TYPE_CHECKING:
    from cardlab.db.check import Finding
    from cardlab.db.contents import Contents
    from cardlab.db.prune import Removal
    from cardlab.workflows.database import State

_SHOWN_TABLES = ("run", "point", "measurement", "fit", "plan", "link", "train_round")


@command(app, NoOptions, name="upgrade")
def upgrade(options: NoOptions, shared: Shared) -> None:
    """Bring an older database to this version's schema; a backup is made first."""
    from cardlab.workflows.database import upgrade_existing

    # Not opened as other commands do, which refuse the older schema that is to be upgraded.
    location = database(shared.db)
    before, after, backup = upgrade_existing(location)
    if shared.json:
        print_json({"database": location, "from": before, "to": after, "backup": backup and str(backup)})
    elif backup is None:
        print_line(f"{location} already has schema {after}")
    else:
        print_line(f"{location}: {before} -> {after}; the old one is kept as {backup}")


@command(app, NoOptions, name="info")
def info(options: NoOptions, shared: Shared) -> None:
    """Say what is in it: devices, runs, samples, fits, plans, and what is unfinished or out of date."""
    from cardlab.workflows.database import info as look

    with open_shared(shared) as store:
        found = look(store)
    if shared.json:
        print_json({**to_plain(found.contents), **_state(found.state)})
        return
    _print_contents(found.contents)
    _print_state(found.state)


@command(app, NoOptions, name="check")
def check(options: NoOptions, shared: Shared) -> None:
    """Check the file, references, samples, and what fits and plans rest on."""
    from cardlab.workflows.database import check_store

    with open_shared(shared) as store:
        found = check_store(store)
    if shared.json:
        findings = [asdict(f) for f in found.findings]
        print_json({"ok": not findings, "findings": findings, **_state(found.state)})
    else:
        _print_findings(found.findings)
        _print_state(found.state)
    # The table is the result and stays on stdout; the error gives scripts their exit code.
    if found.findings:
        raise StoreError(
            f"{database(shared.db)} has {len(found.findings)} fault(s)",
            remedy="restore a backup, or merge the devices' bundles again into a new database",
        )


@command(app, PruneOptions, name="prune")
def prune(options: PruneOptions, shared: Shared) -> None:
    """Remove runs, raw samples or replaced fits; nothing that something else rests on."""
    from cardlab.workflows.database import prune_store

    with open_shared(shared) as store:
        done = prune_store(store, options)
    if shared.json:
        head = {"removed": done.removed, "backup": done.backup and str(done.backup)}
        print_json({**head, **to_plain(done.removal)})
        return
    print_line(f"{'removed' if done.removed else 'would remove'}: {_words(done.removal)}")
    if done.backup is not None:
        print_line(f"the old one is kept as {done.backup}")
    if not done.removed:
        note("nothing was removed; add --yes to do it")


@command(app, NoOptions, name="vacuum")
def vacuum(options: NoOptions, shared: Shared) -> None:
    """Give freed space back to the file system."""
    from cardlab.workflows.database import vacuum_store

    with open_shared(shared) as store:
        before, after = vacuum_store(store)
    if shared.json:
        print_json({"before_bytes": before, "after_bytes": after})
    elif before is not None and after is not None:
        print_line(f"{before / 2**20:.1f} MiB -> {after / 2**20:.1f} MiB")


def _state(state: State) -> Document:
    return {
        "stale_fits": [
            {
                "fit_id": s.fit.fit_id,
                "device": s.fit.device_name,
                "quantity": s.fit.quantity,
                "segment": s.fit.segment,
                "newer_points": s.newer_points,
            }
            for s in state.stale
        ],
        "unfinished_runs": {uid: {"done": d, "planned": p} for uid, (d, p) in state.unfinished.items()},
        "plan_stacks": state.joined,
        "two_hosts": [to_plain(found) for found in state.two_hosts],
    }


def _print_contents(found: Contents) -> None:
    size = "N/A" if found.size_bytes is None else f"{found.size_bytes / 2**20:.1f} MiB"
    print_line(f"{found.backend}, schema {found.schema}, {size}")
    print_line(", ".join(f"{found.rows[name]} {name}s" for name in _SHOWN_TABLES))
    print_line(f"{found.samples} raw samples, {found.sample_bytes / 2**20:.1f} MiB")
    if found.boards:
        rows = [
            (b.names[-1], b.platform, str(b.runs), b.last_at[:19], b.key, ", ".join(b.names[:-1])) for b in found.boards
        ]
        print_table("devices", ("name", "platform", "runs", "last measured (UTC)", "key", "former names"), rows, left=6)


def _print_state(state: State) -> None:
    stale, joined = state.stale, state.joined
    for shared_key in state.two_hosts:
        note(f"warning: {shared_key}")
    for uid, (done, planned) in state.unfinished.items():
        print_line(f"run {uid[:12]} is unfinished: {done} of {planned} points; go on with: profile-device --resume")
    if stale:
        devices = ", ".join(sorted({s.fit.device_name for s in stale}))
        print_line(f"{len(stale)} fit(s) of {devices} do not know newer data; fit again with: calibrate fit")
    for plan, found in joined.items():
        print_line(f"plan {plan[:12]} joins {len(found)} software stack(s):")
        for stack, names in found.items():
            print_line(f"  {stack}: {', '.join(names)}")


def _print_findings(findings: tuple[Finding, ...]) -> None:
    if not findings:
        print_line("whole: file, references, samples, runs, fits and plans agree")
        return
    rows = [(f.table, (f.uid or "")[:12], f.problem) for f in findings]
    print_table("faults", ("table", "row", "problem"), rows, left=3)


def _words(removal: Removal) -> str:
    parts = [f"{count} {name}" for name, count in to_plain(removal).items() if count]
    return ", ".join(parts) or "nothing"
