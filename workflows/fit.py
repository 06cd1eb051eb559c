"""Fit what was measured, keep the fits, and give back what they say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

from cardlab.calibrate.fitter import INTERVALS, Intervals
from cardlab.calibrate.freshness import staleness
from cardlab.calibrate.publishing import energy_optima, published_constants
from cardlab.calibrate.service import fit_store, gather
from cardlab.core.errors import NotFoundError, UsageError
from cardlab.core.records.constants import Constants, Optimum
from cardlab.core.records.device import Device
from cardlab.core.records.fit import Fit
from cardlab.core.tables import Cell, Tabular
from cardlab.core.text import subject
from cardlab.db.store import Store
from cardlab.db.times import utc_now
from cardlab.reports.views.curves import curve_charts, energy_chart
from cardlab.reports.views.parts import Bars, Chart
from cardlab.workflows.opening import need_store
from cardlab.workflows.options.calibrate import FitOptions, ShowFitsOptions
from cardlab.workflows.report_data import store_curves


@dataclass(frozen=True, slots=True)
class Fits(Tabular, Sequence[Fit]):
    """Fits, and what follows from them; a sequence of `Fit`.

    Attributes:
        fits: every law that was tried; `Fit.selected` marks the chosen one of each subject.
        constants: kappa, static power and delta, one set for each power curve.
        optima: frequencies of least energy.
        notes: a line for each device whose chosen fits do not know newer data.
    """

    fits: tuple[Fit, ...]
    constants: tuple[Constants, ...] = ()
    optima: tuple[Optimum, ...] = ()
    notes: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int) -> Fit: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Fit]: ...
    def __getitem__(self, index: int | slice) -> Fit | Sequence[Fit]:
        return self.fits[index]

    def __len__(self) -> int:
        return len(self.fits)

    def __iter__(self) -> Iterator[Fit]:
        return iter(self.fits)

    def rows(self) -> list[dict[str, Cell]]:
        """A row a fit: what it is of, its law and its errors as fractions."""
        return [
            {
                "device": f.device_name,
                "quantity": f.quantity,
                "segment": f.segment,
                "phase": f.phase,
                "rail": f.rail,
                "law": f.law,
                "selected": f.selected,
                "points": f.n_points,
                "mape": f.mape,
                "loo_mape": f.loo_mape,
                "r2": f.r2,
            }
            for f in self.fits
        ]


def fit(
    store: Store, options: FitOptions | None = None, *, device: Device | str | None = None, law: str | None = None
) -> Fits:
    """Fit every curve of the store, or of one device, and store the fits, all or none.

    Args:
        options: as `calibrate fit` has them; `device` (record, label or key) and `law` override theirs.

    Raises:
        UsageError: there are no such intervals.
        NotFoundError: nothing was measured, or there is no such device.
        CalibrationError: a subject cannot be fitted; the message names it.
    """
    store, asked = need_store(store), options or FitOptions()
    key = device_key(store, device if device is not None else asked.device)
    if asked.intervals not in INTERVALS:
        raise UsageError(
            f"there are no intervals by {asked.intervals!r}", remedy=f"use --intervals, one of: {', '.join(INTERVALS)}"
        )
    how: Intervals = "bootstrap" if asked.intervals == "bootstrap" else "covariance"
    fits = fit_store(store, device=key, law=law or asked.law, intervals=how, created_at=utc_now())
    found = with_constants(store, fits)
    return replace(found, notes=(*_left_out(store, key, fits), *found.notes))


def _left_out(store: Store, device: str | None, fits: Sequence[Fit]) -> tuple[str, ...]:
    """A line for quantities that were measured and that a named law is none of."""
    fitted = {f.quantity for f in fits}
    left = dict.fromkeys(q for g in gather(store, device=device) if (q := g.subject.quantity) not in fitted)
    if not left:
        return ()
    names = " and ".join(subject(quantity) for quantity in left)
    return (f"{fits[0].law} is no law of {names}, which keeps the fits it had",)


def stored_fits(store: Store, options: ShowFitsOptions | None = None) -> Fits:
    """The newest stored fits of a device, or of all. Raises NotFoundError if there is none."""
    asked = options or ShowFitsOptions()
    fits = tuple(s.fit for s in store.fits.newest(device=device_key(store, asked.device)))
    if not fits:
        raise NotFoundError(f"{store.location} holds no fit", remedy="run: calibrate fit")
    return with_constants(store, fits)


def with_constants(store: Store, fits: tuple[Fit, ...]) -> Fits:
    """Fits with the constants and optima that follow from them."""
    return Fits(fits, published_constants(store, fits), energy_optima(store, fits), staleness(store, fits))


def device_key(store: Store, device: Device | str | None) -> str | None:
    """Key of a device given as a record, label or key; None (all devices) stays None."""
    if device is None:
        return None
    return device.key if isinstance(device, Device) else store.devices.resolve(device).key


def fit_charts(store: Store, fits: Fits) -> tuple[Chart | Bars, ...]:
    """The curves of fits with their points, and the energies."""
    charts: list[Chart | Bars] = []
    for key in dict.fromkeys(f.device for f in fits):
        mine = [f for f in fits if f.device == key]
        best = [o for o in fits.optima if o.device == key]
        charts += [chart for c in store_curves(store, mine) for chart in curve_charts(c, best)]
        charts += [energy_chart(mine[0].device_name, b) for b in best]
    return tuple(charts)
