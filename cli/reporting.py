"""What the `report` commands do: gather, build the sections, write the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cardlab.cli.console import print_json, print_line
from cardlab.cli.gathering import SplitRun, fleet_data, split_run
from cardlab.cli.settings import database
from cardlab.core.errors import NotFoundError, UsageError
from cardlab.core.plain import to_plain
from cardlab.core.records.measurement import RunKind
from cardlab.core.records.plan import Plan
from cardlab.db import open_store
from cardlab.db.store import Store
from cardlab.db.times import utc_now
from cardlab.reports.html import render_page
from cardlab.reports.views.decisions import plan_sections
from cardlab.reports.views.device import device_sections
from cardlab.reports.views.fleet import fleet_sections
from cardlab.reports.views.parts import Section
from cardlab.reports.views.run import run_sections

MOST_DEVICES_IN_FULL = 6


def write_device_report(out: str, db: str | None, as_json: bool, *, device: str | None) -> None:
    """The page of one device, or of all side by side."""
    with open_store(database(db), create=False) as store:
        key = None if device is None else store.devices.resolve(device).key
        fleet = fleet_data(store, device=key)
        if not fleet:
            raise NotFoundError(f"{store.location} holds no run to report", remedy="measure with profile-device first")
    if len(fleet) == 1:
        title, sections = f"cardlab: {fleet[0].device.name}", device_sections(fleet[0])
    else:
        title, sections = f"cardlab: fleet of {len(fleet)} devices", fleet_sections(fleet)
        if len(fleet) <= MOST_DEVICES_IN_FULL:
            sections = (*sections, *(s for data in fleet for s in device_sections(data)))
        else:
            line = f"Devices in full: calibrate report --device LABEL; here are too many ({len(fleet)}) for one page."
            sections = (*sections, Section(title="Each device", lines=(line,)))
    _write(out, title, sections, as_json)


def write_plan_report(out: str, db: str | None, as_json: bool, *, plan: str | None, run: str | None) -> None:
    """The page of a plan, the run that followed it and the devices it was made from.

    Without ids: the newest plan and its newest run; a database with runs and no plan gives its newest run.
    """
    with open_store(database(db), create=False) as store:
        trained = None if run is None else split_run(store, run)
        made = _plan(store, plan, trained)
        if trained is None:
            trained = _newest_run(store, made)
        if made is None and trained is None:
            raise NotFoundError(f"{store.location} holds no plan", remedy="make one with: card plan")
        planned = () if made is None else plan_sections(made)
        ran = () if trained is None else run_sections(trained.run, trained.rounds, trained.checks)
        # What was asked for by its id comes first.
        sections = [*ran, *planned] if run is not None else [*planned, *ran]
        if made is not None:
            sections += _parties(store, made)
    _write(out, f"cardlab: {sections[0].title[:1].lower()}{sections[0].title[1:]}", sections, as_json)


def _plan(store: Store, plan: str | None, trained: SplitRun | None) -> Plan | None:
    """The plan that was named, else the one the run followed, else the newest; None if there is none."""
    if plan is not None:
        return store.plans.get(plan)
    if trained is not None:
        return None if trained.plan is None else store.plans.get(trained.plan)
    plans = store.plans.all()
    return store.plans.latest() if plans else None


def _newest_run(store: Store, plan: Plan | None) -> SplitRun | None:
    for profile in reversed(store.runs.select(kind=RunKind.TRAIN)):
        rounds = store.rounds.of_run(profile.run.uid)
        if plan is None or any(r.plan == plan.uid for r in rounds):
            return split_run(store, profile.run.uid)
    return None


def _parties(store: Store, plan: Plan) -> list[Section]:
    """Every party of a plan in full; none for a scenario, which names no run."""
    if not plan.runs:
        return []
    runs = [store.runs.get(uid) for uid in plan.runs]
    found = fleet_data(store, runs=runs)
    sections = list(fleet_sections(found, "Devices of the plan")) if len(found) > 1 else []
    if len(found) <= MOST_DEVICES_IN_FULL:
        sections += [s for data in found for s in device_sections(data)]
    return sections


def _write(out: str, title: str, sections: Sequence[Section], as_json: bool) -> None:
    page = render_page(title, sections, created_at=utc_now()[:19].replace("T", " "))
    path = Path(out)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}", remedy="give another file with --out") from error
    if as_json:
        print_json({"report": str(path.absolute()), "title": title, "sections": to_plain(sections)})
    else:
        print_line(f"report: {path.absolute()}")
