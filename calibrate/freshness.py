"""Which fits no longer rest on everything that was measured of their subject."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cardlab.calibrate.service import gather, inputs_of
from cardlab.core.records.fit import Fit
from cardlab.db.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleFit:
    """A fit in use and how many points of its subject were measured that it does not know."""

    fit: Fit
    newer_points: int


def staleness(store: Store, fits: Iterable[Fit]) -> tuple[str, ...]:
    """A line for each device some of whose fits among these do not know newer data."""
    return _lines(store, {fit.fit_id for fit in fits}, {fit.device for fit in fits})


def stale_of(store: Store, fit_ids: Iterable[str]) -> tuple[str, ...]:
    """`staleness` of fits that are known by their ids."""
    used = set(fit_ids)
    return _lines(store, used, set(store.fits.devices_of(used)))


def _lines(store: Store, used: set[str], devices: set[str]) -> tuple[str, ...]:
    names: dict[str, int] = {}
    for device in sorted(devices):
        for stale in stale_fits(store, device=device):
            if stale.fit.fit_id in used:
                names[stale.fit.device_name] = names.get(stale.fit.device_name, 0) + 1
    return tuple(
        f"{n} fit(s) of {name} do not know newer data; fit again with: calibrate fit" for name, n in names.items()
    )


def stale_fits(store: Store, *, device: str | None = None) -> tuple[StaleFit, ...]:
    """The selected fits for whose subject newer data exist; `device` is a key."""
    measured: dict[tuple[object, ...], set[str]] = {}
    for group in gather(store, device=device):
        measured.setdefault(group.subject.key, set()).update(inputs_of(group))
    found = []
    for stored in store.fits.newest(device=device, selected_only=True):
        newer = len(measured.get(stored.fit.key, set()) - set(stored.inputs))
        if newer:
            found.append(StaleFit(fit=stored.fit, newer_points=newer))
    return tuple(found)
