"""`calibrate meter`, `import`, `export`, `merge`."""

from __future__ import annotations

from cardlab.cli.calibrate.app import app
from cardlab.cli.console import note, print_json, print_line
from cardlab.cli.parameters import Shared, command
from cardlab.cli.stores import open_shared, opening
from cardlab.core.plain import Document, to_plain
from cardlab.workflows.options.calibrate import ExportOptions, ImportOptions, MergeOptions, MeterOptions


@command(app, MeterOptions, name="meter")
def meter(options: MeterOptions, shared: Shared) -> None:
    """Calibrate a device's power sensor against an external meter; later fits use it."""
    from cardlab.workflows.exchange import calibrate_sensor

    with open_shared(shared) as store:
        found = calibrate_sensor(store, options)
    if shared.json:
        document = {"gain": found.gain.value, "offset_w": found.offset_w.value}
        beside = {"gain": to_plain(found.gain), "offset_w": to_plain(found.offset_w)}
        head = {"device": options.device, "rail": options.rail}
        print_json({**head, **document, "pairs": found.pairs, "estimates": beside})
        return
    print_line(f"{options.device} {options.rail}: sensor = gain x true + offset, {found.pairs} pairs")
    print_line(f"  gain {found.gain.value:.4f} +- {found.gain.stderr:.4f}")
    print_line(f"  offset {found.offset_w.value:.3g} +- {found.offset_w.stderr:.2g} W")
    print_line("fits made from now on use it: calibrate fit")


@command(app, ImportOptions, name="import")
def import_(options: ImportOptions, shared: Shared) -> None:
    """Bring in a sweep that was measured elsewhere."""
    from cardlab.workflows.exchange import import_sweep

    with opening(shared) as store:
        found = import_sweep(store, options)
    runs = found.runs
    points = sum(len(run.planned) for run in runs)
    if shared.json:
        document = {"device": options.device, "runs": [run.uid for run in runs], "points": points}
        print_json({**document, "notes": list(found.notes)})
    else:
        for line in found.notes:
            print_line(f"note: {line}")
        words = f"{points} points in {len(runs)} sweep(s) of {options.device!r}" if runs else "nothing new"
        print_line(f"{options.file}: {words}; next: calibrate fit")


@command(app, ExportOptions, name="export")
def export(options: ExportOptions, shared: Shared) -> None:
    """Write everything in the database to one bundle file."""
    from cardlab.workflows.exchange import export as write

    with open_shared(shared) as store:
        made = write(store, options)
    if shared.json:
        print_json({"bundle": str(made.path), "rows": made.rows})
    else:
        print_line(f"{made.rows} rows in {made.path}")


@command(app, MergeOptions, name="merge")
def merge(options: MergeOptions, shared: Shared) -> None:
    """Add what bundles hold and the database does not; any order, any number of times."""
    from cardlab.workflows.exchange import merge as take
    from cardlab.workflows.exchange import shared_keys

    merged: list[Document] = []
    with open_shared(shared, create=True) as store:
        for bundle, result in take(store, options):
            added, known = sum(result.added.values()), sum(result.known.values())
            merged.append({"bundle": bundle, "added": dict(result.added), "known": known})
            if not shared.json:
                print_line(f"{bundle}: {added} rows added, {known} were there already")
        for shared_key in shared_keys(store):
            note(f"warning: {shared_key}")
    if shared.json:
        print_json({"merged": merged})
