"""Look after a database: what is in it, whether it is whole, what may go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cardlab.calibrate.freshness import StaleFit, stale_fits
from cardlab.core.errors import UsageError
from cardlab.core.records.presence import TwoHosts, two_hosts
from cardlab.db.check import Finding, check, stacks, unfinished_points
from cardlab.db.contents import Contents, contents
from cardlab.db.migrate import backup_file, upgrade_existing
from cardlab.db.prune import Removal, Selection, prune, vacuum
from cardlab.db.store import Store
from cardlab.workflows.options.database import PruneOptions

__all__ = ["Checked", "Info", "Pruned", "check_store", "info", "prune_store", "upgrade_existing", "vacuum_store"]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What no longer rests on everything measured, and what is unfinished.

    Attributes:
        stale: fits that do not know newer data.
        unfinished: runs by uid, points done and planned.
        joined: software stacks of the newest plan, by its uid.
        two_hosts: devices that came from two hosts at once.
    """

    stale: tuple[StaleFit, ...] = ()
    unfinished: Mapping[str, tuple[int, int]]
    joined: Mapping[str, Mapping[str, tuple[str, ...]]]
    two_hosts: tuple[TwoHosts, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """A database in numbers, and its state."""

    contents: Contents
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What is wrong with a database, () for a whole one, and its state."""

    findings: tuple[Finding, ...]
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What went, or would go, and the copy that was kept."""

    removal: Removal
    removed: bool
    backup: Path | None


def info(store: Store) -> Info:
    """What is in the store, device by device, and what is unfinished or out of date."""
    return Info(contents=contents(store), state=_state(store))


def check_store(store: Store) -> Checked:
    """Check the file, references, samples, and what fits and plans rest on."""
    findings = check(store)
    # A damaged database is not read any further.
    return Checked(findings=findings, state=State(unfinished={}, joined={}) if findings else _state(store))


def _state(store: Store) -> State:
    plans = store.plans.all()
    # Only of the newest plan: older ones joined what was installed in their time.
    joined = {plan.uid: stacks(store, plan) for plan in plans[-1:] if plan.runs}
    return State(
        stale=stale_fits(store),
        unfinished=unfinished_points(store),
        joined=joined,
        two_hosts=two_hosts(store.runs.presences()),
    )


def prune_store(store: Store, options: PruneOptions) -> Pruned:
    """Remove what is selected, or without `yes` say what would go; nothing that something else rests on."""
    selection = Selection(
        runs=options.runs,
        before=options.before,
        samples_only=options.samples,
        superseded_fits=options.superseded,
        with_dependents=options.with_dependents,
    )
    if not (selection.names_runs or options.device or selection.superseded_fits):
        raise UsageError("nothing is selected", remedy="name --run, --device, --before or --superseded")
    if selection.superseded_fits and not (selection.names_runs or options.device):
        for flag, on in (("--samples", options.samples), ("--with-dependents", options.with_dependents)):
            if on:
                raise UsageError(
                    f"{flag} has no effect on --superseded alone", remedy=f"leave {flag} out, or name runs"
                )
    if options.device is not None:
        selection = replace(selection, device=store.devices.resolve(options.device).key)
    # Counted first, so that a refusal comes before the copy, which may be large.
    removal, kept = prune(store, selection, apply=False), None
    if options.yes:
        kept = backup_file(store.location) if options.backup else None
        removal = prune(store, selection, apply=True)
    return Pruned(removal=removal, removed=options.yes, backup=kept)


def vacuum_store(store: Store) -> tuple[int | None, int | None]:
    """Give free space back; bytes before and after."""
    before = contents(store).size_bytes
    vacuum(store)
    return before, contents(store).size_bytes
