"""What the `calibrate` commands do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cardlab.calibrate.publishing import energy_optima, published_constants
from cardlab.calibrate.report_text import fit_report
from cardlab.calibrate.service import fit_store
from cardlab.cli.console import print_json, print_line, print_table
from cardlab.cli.drawing import drawn, save_figure
from cardlab.cli.gathering import store_curves
from cardlab.cli.settings import database
from cardlab.core.errors import NotFoundError
from cardlab.core.plain import to_plain
from cardlab.core.records.constants import Constants, Optimum
from cardlab.core.records.fit import Fit
from cardlab.core.text import NOT_MEASURED, percent, si, subject
from cardlab.db import open_store
from cardlab.db.store import Store
from cardlab.db.times import utc_now
from cardlab.reports.views.curves import curve_charts, energy_chart
from cardlab.reports.views.fit import fit_document
from cardlab.reports.views.parts import Bars, Chart


def fit_all(device: str | None, law: str, plot: str | None, db: str | None, as_json: bool) -> None:
    """Fit, store, draw where asked, show."""
    with open_store(database(db), create=False) as store:
        key = device_key(store, device)
        fits = fit_store(store, device=key, law=law, created_at=utc_now())
        charts = None if plot is None else draw_fits(store, fits, plot)
        _print(fits, published_constants(store, fits), energy_optima(store, fits), as_json, charts, full=True)


def draw_fits(store: Store, fits: Sequence[Fit], plot: str) -> tuple[Chart | Bars, ...]:
    """Save the curves of fits, with their points, and the energies; what was drawn."""
    charts: list[Chart | Bars] = []
    for key in dict.fromkeys(f.device for f in fits):
        mine = [f for f in fits if f.device == key]
        best = energy_optima(store, mine)
        charts += [chart for c in store_curves(store, mine) for chart in curve_charts(c, best)]
        charts += [energy_chart(mine[0].device_name, b) for b in best]
    save_figure(charts, plot)
    return tuple(charts)


def show_fits(device: str | None, plot: str | None, db: str | None, as_json: bool) -> None:
    """The newest stored fits."""
    with open_store(database(db), create=False) as store:
        fits = stored_fits(store, device)
        charts = None if plot is None else draw_fits(store, fits, plot)
        _print(fits, published_constants(store, fits), energy_optima(store, fits), as_json, charts, full=False)


def device_key(store: Store, device: str | None) -> str | None:
    """Key of the device of that label; None (all devices) stays None."""
    return None if device is None else store.devices.resolve(device).key


def stored_fits(store: Store, device: str | None) -> tuple[Fit, ...]:
    """The newest fits of a device, or of all. Raises NotFoundError if there is none."""
    fits = tuple(s.fit for s in store.fits.newest(device=device_key(store, device)))
    if not fits:
        raise NotFoundError(f"{store.location} holds no fit", remedy="run: calibrate fit")
    return fits


def _print(
    fits: Sequence[Fit],
    constants: Sequence[Constants],
    optima: Sequence[Optimum],
    as_json: bool,
    charts: Sequence[Chart | Bars] | None,
    *,
    full: bool,
) -> None:
    if as_json:
        documents = {"constants": [to_plain(c) for c in constants], "optima": [to_plain(o) for o in optima]}
        print_json({"fits": [fit_document(f) for f in fits], **documents, **drawn(charts)})
        return
    if full:
        for fit in fits:
            if fit.selected:
                print_line("\n".join(fit_report(fit)))
                print_line()
    print_table("fits", ("curve", "law", "points", "error", "held out", "warnings"), _rows(fits), left=2)
    for c in constants:
        print_line()
        _print_constants(c)
    for o in optima:
        print_line(optimum_line(o))


def optimum_line(o: Optimum) -> str:
    """The energy-optimal clock in words."""
    low, high = o.optimum.frequency_ci95_hz
    rail = "" if o.rail is None else f" (rail {o.rail})"
    return (
        f"least energy for {o.work} on {o.device_name}{rail}: {si(o.optimum.frequency_hz, 'Hz')}"
        f" ({si(low, 'Hz')} .. {si(high, 'Hz')}), {si(o.optimum.energy_j.value, 'J')},"
        f" {percent(o.optimum.saving)} less than at the highest clock measured"
    )


def _rows(fits: Iterable[Fit]) -> Iterable[tuple[str, ...]]:
    for fit in fits:
        mark = "" if fit.selected else " (compared)"
        yield (
            f"{fit.device_name}: {about(fit)}",
            fit.law + mark,
            str(fit.n_points),
            percent(fit.mape, 2),
            percent(fit.loo_mape, 2),
            str(len(fit.warnings)) if fit.warnings else "",
        )


def about(fit: Fit) -> str:
    """What a fit is of, in words, without the device."""
    return subject(fit.quantity, segment=fit.segment, phase=fit.phase, rail=fit.rail)


def _print_constants(c: Constants) -> None:
    low, high = c.frequency_min_hz, c.frequency_max_hz
    head = f"constants of {c.device_name}, rail {c.rail or NOT_MEASURED}, {si(low, 'Hz')} .. {si(high, 'Hz')}"
    print_line(f"{head}, {c.cores or NOT_MEASURED} cores")
    for name, value, unit, error in (
        ("kappa", c.kappa_w_per_hz3, "W/Hz^3", c.error),
        ("static power", c.static_power_w, "W", c.error),
        ("kappa of the paper's pure cubic", c.kappa_paper_w_per_hz3, "W/Hz^3", c.paper_error),
    ):
        if value is not None:
            stderr = "" if value.stderr is None else f" +- {value.stderr:.2g}"
            print_line(f"  {name}: {value.value:.4g}{stderr} {unit} (error {percent(error)})")
    if c.delta:
        top = max(d.frequency_hz for d in c.delta)
        shown = [d for d in c.delta if d.frequency_hz == top]
        words = ", ".join(f"{d.segment} {d.phase} {d.delta.value:.3g}" for d in shown)
        print_line(f"  delta at {si(top, 'Hz')} (FLOP per core per cycle): {words}")
