"""What `cardlab db info | check | prune | vacuum` do."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cardlab.calibrate.freshness import StaleFit, stale_fits
from cardlab.cli.console import note, print_json, print_line, print_table
from cardlab.cli.settings import database
from cardlab.core.errors import StoreError, UsageError
from cardlab.core.plain import to_plain
from cardlab.db import open_store
from cardlab.db.check import Finding, check, stacks, unfinished_points
from cardlab.db.contents import Contents, contents
from cardlab.db.migrate import backup_file
from cardlab.db.prune import Removal, Selection, prune, vacuum
from cardlab.db.store import Store

_SHOWN_TABLES = ("run", "point", "measurement", "fit", "plan", "link", "train_round")


def show_info(db: str | None, as_json: bool) -> None:
    """What is in the database, device by device, and what no longer rests on everything measured."""
    with open_store(database(db), create=False) as store:
        found, stale, open_runs = contents(store), stale_fits(store), unfinished_points(store)
        joined = _joined_stacks(store)
    if as_json:
        print_json({**to_plain(found), **_state(stale, open_runs, joined)})
        return
    _print_contents(found)
    _print_state(stale, open_runs, joined)


def _joined_stacks(store: Store) -> dict[str, dict[str, tuple[str, ...]]]:
    """Software stacks of the newest plan, by its uid; empty without a plan that rests on runs."""
    plans = store.plans.all()
    return {plan.uid: stacks(store, plan) for plan in plans[-1:] if plan.runs}


def _state(
    stale: tuple[StaleFit, ...], open_runs: dict[str, tuple[int, int]], joined: dict[str, Any]
) -> dict[str, Any]:
    return {
        "stale_fits": [
            {
                "fit_id": s.fit.fit_id,
                "device": s.fit.device_name,
                "quantity": s.fit.quantity,
                "segment": s.fit.segment,
                "newer_points": s.newer_points,
            }
            for s in stale
        ],
        "unfinished_runs": {uid: {"done": d, "planned": p} for uid, (d, p) in open_runs.items()},
        "plan_stacks": joined,
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


def _print_state(stale: tuple[StaleFit, ...], open_runs: dict[str, tuple[int, int]], joined: dict[str, Any]) -> None:
    for uid, (done, planned) in open_runs.items():
        print_line(f"run {uid[:12]} is unfinished: {done} of {planned} points; go on with: profile-device --resume")
    if stale:
        devices = ", ".join(sorted({s.fit.device_name for s in stale}))
        print_line(f"{len(stale)} fit(s) of {devices} do not know newer data; fit again with: calibrate fit")
    for plan, found in joined.items():
        print_line(f"plan {plan[:12]} joins {len(found)} software stack(s):")
        for stack, devices in found.items():
            print_line(f"  {stack}: {', '.join(devices)}")


def run_check(db: str | None, as_json: bool) -> None:
    """Check the whole database. Raises StoreError when something is wrong."""
    location = database(db)
    with open_store(location, create=False) as store:
        findings = check(store)
        damaged = bool(findings)
        stale = () if damaged else stale_fits(store)
        open_runs = {} if damaged else unfinished_points(store)
        joined = {} if damaged else _joined_stacks(store)
    if as_json:
        print_json({"ok": not findings, "findings": [asdict(f) for f in findings], **_state(stale, open_runs, joined)})
    else:
        _print_findings(findings)
        _print_state(stale, open_runs, joined)
    if findings:
        raise StoreError(
            f"{location} has {len(findings)} fault(s)",
            remedy="restore a backup, or merge the devices' bundles again into a new database",
        )


def _print_findings(findings: tuple[Finding, ...]) -> None:
    if not findings:
        print_line("whole: file, references, samples, runs, fits and plans agree")
        return
    rows = [(f.table, (f.uid or "")[:12], f.problem) for f in findings]
    print_table("faults", ("table", "row", "problem"), rows, left=3)


def run_prune(db: str | None, selection: Selection, device: str | None, yes: bool, backup: bool, as_json: bool) -> None:
    """Remove what is selected, or without `yes` say what would go."""
    if not (selection.names_runs or device or selection.superseded_fits):
        raise UsageError("nothing is selected", remedy="name --run, --device, --before or --superseded")
    location = database(db)
    kept = None
    with open_store(location, create=False) as store:
        if device is not None:
            selection = Selection(**{**asdict(selection), "device": store.devices.resolve(device).key})
        removal = prune(store, selection, apply=False)
        if yes:
            kept = backup_file(location) if backup else None
            removal = prune(store, selection, apply=True)
    if as_json:
        print_json({"removed": yes, "backup": kept and str(kept), **to_plain(removal)})
        return
    print_line(f"{'removed' if yes else 'would remove'}: {_words(removal)}")
    if kept is not None:
        print_line(f"the old one is kept as {kept}")
    if not yes:
        note("nothing was removed; add --yes to do it")


def _words(removal: Removal) -> str:
    parts = [f"{count} {name}" for name, count in to_plain(removal).items() if count]
    return ", ".join(parts) or "nothing"


def run_vacuum(db: str | None, as_json: bool) -> None:
    """Give free space back."""
    location = database(db)
    with open_store(location, create=False) as store:
        before = contents(store).size_bytes
        vacuum(store)
        after = contents(store).size_bytes
    if as_json:
        print_json({"before_bytes": before, "after_bytes": after})
    elif before is not None and after is not None:
        print_line(f"{before / 2**20:.1f} MiB -> {after / 2**20:.1f} MiB")
