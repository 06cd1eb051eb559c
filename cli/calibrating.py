"""What the `calibrate` commands do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cardlab.calibrate.constants import Constants
from cardlab.calibrate.report_text import fit_report
from cardlab.calibrate.service import fit_store, published_constants
from cardlab.cli.console import print_json, print_line, print_table
from cardlab.cli.settings import database
from cardlab.db import open_store
from cardlab.db.store import Store
from cardlab.db.times import utc_now
from cardlab.errors import NotFoundError, UsageError
from cardlab.plain import to_plain
from cardlab.records.fit import Fit
from cardlab.reports.views.fit import fit_document, prediction_document
from cardlab.text import NOT_MEASURED, percent, si


def fit_all(device: str | None, law: str, db: str | None, as_json: bool) -> None:
    """Fit, store, show."""
    with open_store(database(db), create=False) as store:
        key = _key(store, device)
        fits = fit_store(store, device=key, law=law, created_at=utc_now())
        _print(fits, published_constants(store, fits), as_json, full=True)


def show_fits(device: str | None, db: str | None, as_json: bool) -> None:
    """The newest stored fits."""
    with open_store(database(db), create=False) as store:
        fits = _stored(store, device)
        _print(fits, published_constants(store, fits), as_json, full=False)


def predict_at(device: str, frequency_mhz: float, segment: str | None, db: str | None, as_json: bool) -> None:
    """Predictions of every chosen fit of a device at one clock."""
    if not frequency_mhz > 0:
        raise UsageError(
            f"{frequency_mhz:g} MHz is not a clock", remedy="give --frequency-mhz a number above 0"
        )
    with open_store(database(db), create=False) as store:
        fits = [f for f in _stored(store, device) if f.selected and segment in (None, f.segment)]
    if not fits:
        raise NotFoundError(
            f"{device!r} has no fit of segment {segment!r}", remedy="see: calibrate show --device LABEL"
        )
    frequency_hz = frequency_mhz * 1e6
    if as_json:
        print_json({"predictions": [prediction_document(fit, frequency_hz) for fit in fits]})
        return
    rows = []
    for fit in fits:
        estimate = fit.predict(frequency_hz)
        low_high = [NOT_MEASURED] if estimate.ci95 is None else [si(end, fit.unit) for end in estimate.ci95]
        mark = "extrapolated" if fit.extrapolated(frequency_hz) else ""
        rows.append((_about(fit), si(estimate.value, fit.unit), " .. ".join(low_high), fit.law, mark))
    title = f"{fits[0].device_name} at {frequency_mhz:g} MHz"
    print_table(title, ("quantity", "value", "95 % interval", "law", ""), rows)


def _key(store: Store, device: str | None) -> str | None:
    return None if device is None else store.devices.resolve(device).key


def _stored(store: Store, device: str | None) -> tuple[Fit, ...]:
    fits = tuple(s.fit for s in store.fits.newest(device=_key(store, device)))
    if not fits:
        raise NotFoundError(f"{store.location} holds no fit", remedy="run: calibrate fit")
    return fits


def _print(fits: Sequence[Fit], constants: Sequence[Constants], as_json: bool, *, full: bool) -> None:
    if as_json:
        print_json({"fits": [fit_document(f) for f in fits], "constants": [to_plain(c) for c in constants]})
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


def _rows(fits: Iterable[Fit]) -> Iterable[tuple[str, ...]]:
    for fit in fits:
        mark = "" if fit.selected else " (compared)"
        yield (
            f"{fit.device_name}: {_about(fit)}",
            fit.law + mark,
            str(fit.n_points),
            percent(fit.mape, 2),
            percent(fit.loo_mape, 2),
            str(len(fit.warnings)) if fit.warnings else "",
        )


def _about(fit: Fit) -> str:
    words = (fit.segment, fit.phase, fit.quantity.replace("_", " "), fit.rail)
    return " ".join(word for word in words if word)


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
