"""What `calibrate import`, `meter`, `export` and `merge` do: data that comes from or goes elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cardlab.calibrate.importing import import_file
from cardlab.calibrate.meter import calibrate_meter, read_pairs
from cardlab.calibrate.meter_store import store_meter
from cardlab.cli.console import print_json, print_line
from cardlab.cli.settings import database
from cardlab.core.plain import to_plain
from cardlab.db import open_store
from cardlab.db.bundle import export_bundle, merge_bundle
from cardlab.db.times import utc_now


def import_sweep(file: str, device: str, db: str | None, as_json: bool) -> None:
    """Read the file first: a bad one makes no database."""
    location = database(db)
    with open_store(location) as store:
        runs = import_file(store, file, device=device, imported_at=utc_now())
    points = sum(len(run.planned) for run in runs)
    if as_json:
        print_json({"device": device, "runs": [run.uid for run in runs], "points": points})
    else:
        print_line(f"{file}: {points} points in {len(runs)} sweep(s) of {device!r}; next: calibrate fit")


def export_all(out: str, db: str | None, as_json: bool) -> None:
    """Export and say how much."""
    with open_store(database(db), create=False) as store:
        rows = export_bundle(store, out)
    path = str(Path(out).absolute())
    if as_json:
        print_json({"bundle": path, "rows": rows})
    else:
        print_line(f"{rows} rows in {path}")


def merge_all(bundles: Sequence[str], db: str | None, as_json: bool) -> None:
    """Merge one after the other; each is taken whole or not at all."""
    merged = []
    with open_store(database(db)) as store:
        for bundle in bundles:
            result = merge_bundle(store, bundle)
            added, known = sum(result.added.values()), sum(result.known.values())
            merged.append({"bundle": bundle, "added": dict(result.added), "known": known})
            if not as_json:
                print_line(f"{bundle}: {added} rows added, {known} were there already")
    if as_json:
        print_json({"merged": merged})


def calibrate_sensor(reference: str, device: str, rail: str, db: str | None, as_json: bool) -> None:
    """Fit gain and offset, store them, show them."""
    found = calibrate_meter(*read_pairs(reference))
    with open_store(database(db), create=False) as store:
        store_meter(store, found, device=store.devices.resolve(device), rail=rail, measured_at=utc_now())
    if as_json:
        document = {"gain": found.gain.value, "offset_w": found.offset_w.value}
        beside = {"gain": to_plain(found.gain), "offset_w": to_plain(found.offset_w)}
        print_json({"device": device, "rail": rail, **document, "pairs": found.pairs, "estimates": beside})
        return
    print_line(f"{device} {rail}: sensor = gain x true + offset, {found.pairs} pairs")
    print_line(f"  gain {found.gain.value:.4f} +- {found.gain.stderr:.4f}")
    print_line(f"  offset {found.offset_w.value:.3g} +- {found.offset_w.stderr:.2g} W")
    print_line("fits made from now on use it: calibrate fit")
