"""Which fits no longer rest on everything that was measured of their subject."""

from __future__ import annotations

from dataclasses import dataclass

from cardlab.calibrate.service import gather
from cardlab.core.records.fit import Fit
from cardlab.db.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleFit:
    """A fit in use and how many points of its subject were measured that it does not know."""

    fit: Fit
    newer_points: int


def stale_fits(store: Store, *, device: str | None = None) -> tuple[StaleFit, ...]:
    """The selected fits for whose subject newer data exist; `device` is a key."""
    measured: dict[tuple[object, ...], set[str]] = {}
    for group in gather(store, device=device):
        measured.setdefault(group.subject.key, set()).update(reading.measurement for reading in group.readings)
    found = []
    for stored in store.fits.newest(device=device, selected_only=True):
        newer = len(measured.get(stored.fit.key, set()) - set(stored.inputs))
        if newer:
            found.append(StaleFit(fit=stored.fit, newer_points=newer))
    return tuple(found)
