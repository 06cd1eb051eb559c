"""One HTML page of a device, a fleet, or a plan with the run that followed it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cardlab.core.errors import NotFoundError, UsageError
from cardlab.core.files import check_output, marked
from cardlab.core.records.measurement import RunKind
from cardlab.core.records.plan import Plan
from cardlab.db.store import Store
from cardlab.db.times import utc_now
from cardlab.reports.html import render_page
from cardlab.reports.views.coverage import coverage_section
from cardlab.reports.views.decisions import plan_sections
from cardlab.reports.views.device import device_sections
from cardlab.reports.views.fleet import fleet_sections
from cardlab.reports.views.parts import Section
from cardlab.reports.views.run import run_sections
from cardlab.workflows.options.calibrate import DeviceReportOptions
from cardlab.workflows.options.card import PlanReportOptions
from cardlab.workflows.report_data import SplitRun, fleet_data, split_run

# With more the page is slow to load, and nobody reads it to the end.
MOST_DEVICES_IN_FULL = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A page that was written."""

    path: Path
    title: str
    sections: tuple[Section, ...]


def report(store: Store, options: DeviceReportOptions | PlanReportOptions) -> Report:
    """Write the page of devices, or that of a plan; what was written.

    Raises NotFoundError where there is nothing to report, UsageError if the file cannot be written, has the name of
    another kind of file, or is there and no such page.
    """
    check_output(options.out, "a report", endings=(".html", ".htm"), ours=marked(b'name="generator" content="cardlab'))
    if isinstance(options, DeviceReportOptions):
        return _device_report(store, options)
    return _plan_report(store, options)


def _device_report(store: Store, options: DeviceReportOptions) -> Report:
    """The page of one device, or of all side by side."""
    key = None if options.device is None else store.devices.resolve(options.device).key
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
    return _write(options.out, title, sections)


def _plan_report(store: Store, options: PlanReportOptions) -> Report:
    """The page of a plan, the run that followed it and the devices it was made from.

    Without ids: the newest plan and its newest run; a store with runs and no plan gives its newest run.
    """
    trained = None if options.run is None else split_run(store, options.run)
    made = _plan(store, options.plan, trained)
    if trained is None:
        trained = _newest_run(store, made)
    if made is None and trained is None:
        raise NotFoundError(f"{store.location} holds no plan", remedy="make one with: card plan")
    planned = () if made is None else plan_sections(made)
    ran = () if trained is None else _run_sections(trained)
    # What was asked for by its id comes first.
    sections = [*ran, *planned] if options.run is not None else [*planned, *ran]
    if made is not None:
        sections += _parties(store, made)
    return _write(options.out, f"cardlab: {sections[0].title[:1].lower()}{sections[0].title[1:]}", sections)


def _run_sections(trained: SplitRun) -> tuple[Section, ...]:
    """A run beside its prediction, and how often rounds lie in their intervals."""
    return (
        *run_sections(trained.run, trained.rounds, trained.checks, trained.judged),
        *coverage_section(trained.coverage, trained.coverage_here, trained.calibration_here),
    )


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


def _write(out: str, title: str, sections: Sequence[Section]) -> Report:
    page = render_page(title, sections, created_at=utc_now()[:19].replace("T", " "))
    path = Path(out)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}", remedy="give another file with --out") from error
    return Report(path=path.absolute(), title=title, sections=tuple(sections))
