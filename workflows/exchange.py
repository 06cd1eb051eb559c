"""Data that comes from elsewhere or goes there: imported sweeps, external meters, bundles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cardlab.calibrate.imported_before import not_yet_stored
from cardlab.calibrate.importing import read_file
from cardlab.calibrate.meter import calibrate_meter, read_pairs
from cardlab.calibrate.meter_store import check_rail, store_meter
from cardlab.core.files import check_output
from cardlab.core.records.measurement import Run
from cardlab.core.records.meter import MeterCalibration
from cardlab.core.records.presence import TwoHosts, two_hosts
from cardlab.db.bundle import ENDINGS, Merged, export_bundle, is_bundle, merge_bundle
from cardlab.db.store import Store
from cardlab.db.times import utc_now
from cardlab.workflows.opening import Opening, opened
from cardlab.workflows.options.calibrate import ExportOptions, ImportOptions, MergeOptions, MeterOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedSweeps:
    """The runs that a file became, and a note for each thing in it that was left out, averaged, chosen or known before.

    What was imported before makes no run.
    """

    runs: tuple[Run, ...]
    notes: tuple[str, ...]


def import_sweep(store: Store | Opening, options: ImportOptions) -> ImportedSweeps:
    """Read a sweep measured elsewhere and store all of it, or nothing.

    Raises BadDataError naming the row of whatever cannot be used.
    """
    # Read to the end before the store is opened: a bad file makes no database.
    found = read_file(options.file, device=options.device, imported_at=utc_now())
    place = opened(store)
    visits, known = not_yet_stored(place, found.visits)
    place.runs.add_whole(visits)
    return ImportedSweeps(runs=tuple(run for run, _ in visits), notes=(*found.notes, *known))


def calibrate_sensor(store: Store, options: MeterOptions) -> MeterCalibration:
    """Fit gain and offset of a device's sensor to an external meter, and store them; later fits use them.

    Raises UsageError for a rail that no power of the device was measured on: no fit would use it.
    """
    found = calibrate_meter(*read_pairs(options.reference))
    device = store.devices.resolve(options.device)
    check_rail(store, device, options.rail)
    store_meter(store, found, device=device, rail=options.rail, measured_at=utc_now())
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A bundle that was written."""

    path: Path
    rows: int


def export(store: Store, options: ExportOptions) -> Exported:
    """Write everything in the store to one bundle file.

    Raises UsageError for a name of another kind of file, and for a file that is there and no bundle.
    """
    check_output(options.out, "a bundle", endings=ENDINGS, ours=is_bundle)
    rows = export_bundle(store, options.out)
    return Exported(path=Path(options.out).absolute(), rows=rows)


def shared_keys(store: Store) -> tuple[TwoHosts, ...]:
    """Devices of the store that came from two hosts at once, so that they are two, or more."""
    return two_hosts(store.runs.presences())


def merge(store: Store, options: MergeOptions) -> Iterator[tuple[str, Merged]]:
    """Merge bundle after bundle, each whole or not at all; what each brought, as it is done."""
    for bundle in options.bundles:
        yield bundle, merge_bundle(store, bundle)
