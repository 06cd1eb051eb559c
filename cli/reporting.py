"""What the `report` commands do: gather, render, write."""

from __future__ import annotations

from pathlib import Path

from cardlab.calibrate.publishing import energy_optima
from cardlab.calibrate.service import gather as gather_groups
from cardlab.cli.calibrating import optimum_line
from cardlab.cli.console import print_json, print_line
from cardlab.cli.settings import database
from cardlab.db import open_store
from cardlab.db.store import Store
from cardlab.errors import UsageError
from cardlab.records.fit import Fit
from cardlab.records.measurement import Profile
from cardlab.records.plan import Plan
from cardlab.reports.html import render_page
from cardlab.reports.views.fit import Curve, curve


def write_report(out: str, db: str | None, as_json: bool, *, device: str | None, with_plan: bool) -> None:
    """Write the page; the newest plan is on it if asked for."""
    with open_store(database(db), create=False) as store:
        plan = store.plans.latest() if with_plan else None
        key = None if device is None else store.devices.resolve(device).key
        profiles = _profiles(store, plan, key)
        fits = tuple(s.fit for s in store.fits.newest(device=key))
        page = render_page(
            title=_title(plan, device),
            profiles=profiles,
            fits=fits,
            curves=_curves(store, fits, key),
            optima=[optimum_line(o) for o in energy_optima(store, fits)],
            plan=plan,
        )
    path = Path(out)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}", remedy="name another file") from error
    if as_json:
        print_json({"report": str(path.absolute())})
    else:
        print_line(f"report: {path.absolute()}")


def _title(plan: Plan | None, device: str | None) -> str:
    if plan is not None:
        return f"cardlab: plan {plan.uid[:12]}"
    return "cardlab: profiles and fits" + (f" of {device}" if device else "")


def _profiles(store: Store, plan: Plan | None, device: str | None) -> list[Profile]:
    """The runs a plan was made of, else the newest run of each device."""
    if plan is not None and plan.runs:
        return [store.runs.get(uid) for uid in plan.runs]
    newest = {p.run.device.key: p for p in store.runs.select(device=device)}
    return list(newest.values())


def _curves(store: Store, fits: tuple[Fit, ...], device: str | None) -> list[Curve]:
    """A chart for each subject whose clock was read, powers first."""
    drawn = []
    for group in gather_groups(store, device=device):
        mine = [f for f in fits if _about(f) == _about(group.subject)]
        if not mine or not any(f.selected for f in mine):
            continue
        points = [(r.frequency_hz, r.value, bool(r.throttled)) for r in group.readings if r.frequency_hz]
        made = curve(mine, points)
        if made is not None:
            drawn.append(made)
    return sorted(drawn, key=lambda c: c.unit != "W")


def _about(subject: object) -> tuple[object, ...]:
    keys = (
        "device",
        "task",
        "workload",
        "execution",
        "quantity",
        "segment",
        "phase",
        "rail",
        "power_mode",
        "memory_hz",
    )
    return tuple(getattr(subject, key) for key in keys)
