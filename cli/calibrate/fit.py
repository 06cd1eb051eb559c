"""`calibrate fit` and `show`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cardlab.cli.calibrate.app import app
from cardlab.cli.console import print_json, print_line, print_table
from cardlab.cli.parameters import Shared, command
from cardlab.cli.stores import open_shared
from cardlab.core.plain import to_plain
from cardlab.core.text import NOT_MEASURED, percent, si, subject
from cardlab.workflows.options.calibrate import FitOptions, ShowFitsOptions

if TYPE_CHECKING:
    from cardlab.core.records.constants import Constants, Optimum
    from cardlab.core.records.fit import Fit
    from cardlab.reports.views.parts import Bars, Chart
    from cardlab.workflows.fit import Fits

WITH_PLOT = ("plot", "db", "json")


@command(app, FitOptions, name="fit", shared=WITH_PLOT)
def fit(options: FitOptions, shared: Shared) -> None:
    """Fit every curve of the database and store the fits."""
    from cardlab.calibrate.report_text import fit_report
    from cardlab.cli.drawing import drawn_or_none
    from cardlab.workflows.fit import fit as fit_all
    from cardlab.workflows.fit import fit_charts

    with open_shared(shared) as store:
        found = fit_all(store, options)
        # While the store is open: the curves read their points from it.
        charts = drawn_or_none(shared.plot, lambda: fit_charts(store, found))
    if not shared.json:
        for one in found:
            if one.selected:
                print_line("\n".join(fit_report(one)))
                print_line()
    _show(found, shared, charts)


@command(app, ShowFitsOptions, name="show", shared=WITH_PLOT)
def show(options: ShowFitsOptions, shared: Shared) -> None:
    """Show the stored fits and the constants derived from them."""
    from cardlab.cli.drawing import drawn_or_none
    from cardlab.workflows.fit import fit_charts, stored_fits

    with open_shared(shared) as store:
        found = stored_fits(store, options)
        charts = drawn_or_none(shared.plot, lambda: fit_charts(store, found))
    _show(found, shared, charts)


def _show(found: Fits, shared: Shared, charts: Sequence[Chart | Bars] | None) -> None:
    from cardlab.cli.drawing import drawn
    from cardlab.reports.views.constants import constants_document
    from cardlab.reports.views.fit import fit_document

    if shared.json:
        documents = {
            "constants": [constants_document(c) for c in found.constants],
            "optima": [to_plain(o) for o in found.optima],
            "notes": list(found.notes),
        }
        print_json({"fits": [fit_document(f) for f in found], **documents, **drawn(charts)})
        return
    print_table("fits", ("curve", "law", "points", "error", "held out", "warnings"), _rows(found), left=2)
    for c in found.constants:
        print_line()
        _print_constants(c)
    for o in found.optima:
        print_line(optimum_line(o))
    for line in (*_unmeasured(found), *(f"note: {note}" for note in found.notes)):
        print_line(line)


def _unmeasured(fits: Iterable[Fit]) -> list[str]:
    """A line for each origin but measuring, so that nobody takes one for the other."""
    names: dict[str, dict[str, None]] = {}
    for fit in fits:
        for origin in sorted(origin.value for origin in fit.provenance.origins):
            if origin != "measured":
                names.setdefault(origin, {})[fit.device_name] = None
    words = {"simulated": "simulated, no number of these is real"}
    return [f"{words.get(origin, origin)}: {', '.join(devices)}" for origin, devices in names.items()]


def optimum_line(o: Optimum) -> str:
    """The energy-optimal frequency in words."""
    low, high = o.optimum.frequency_ci95_hz
    rail = "" if o.rail is None else f" (rail {o.rail})"
    return (
        f"least energy for {o.work} on {o.device_name}{rail}: {si(o.optimum.frequency_hz, 'Hz')}"
        f" ({si(low, 'Hz')} .. {si(high, 'Hz')}), {si(o.optimum.energy_j.value, 'J')},"
        f" {percent(o.optimum.saving)} less than at the highest frequency measured"
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
    return subject(fit.quantity, segment=fit.segment, phase=fit.phase, rail=fit.rail, codec=fit.codec)


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
    if c.kappa_paper_w_per_hz3 is None:
        print_line(f"  kappa: {NOT_MEASURED}: a sweep of more frequencies is needed (profile-device --frequencies all)")
    if c.delta:
        # One frequency stands for all on the terminal; --json holds every one.
        top = max(d.frequency_hz for d in c.delta)
        shown = [d for d in c.delta if d.frequency_hz == top]
        words = ", ".join(f"{d.segment} {d.phase} {d.delta.value:.3g}" for d in shown)
        print_line(f"  delta at {si(top, 'Hz')} (FLOP per core per cycle): {words}")
