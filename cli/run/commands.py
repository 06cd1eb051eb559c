"""`card run`, `card run server`, `device`, `export`, `keys`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cardlab.cli.console import note, print_json, print_line
from cardlab.cli.options import new_app
from cardlab.cli.parameters import Shared, callback, command
from cardlab.cli.stores import open_shared
from cardlab.core.errors import UsageError
from cardlab.workflows.options.run import DeviceOptions, KeysOptions, RunExportOptions, RunOptions, ServerOptions

if TYPE_CHECKING:
    from cardlab.split.journal import FinishedTurn, Journal
    from cardlab.split.settings import RunSettings

app = new_app("Fine-tune a model split between one server and its devices, and time every term.")


@callback(app, RunOptions)
def run(options: RunOptions, shared: Shared) -> None:
    """Fine-tune a model split between one server and its devices, and time every term."""
    if not options.local:
        raise UsageError(
            "a run needs a role", remedy="use --local, or: card run server, card run device --server HOST:PORT"
        )
    from cardlab.cli.run.run_table import print_run
    from cardlab.workflows.run import run as run_local

    # Made before the run: a database that cannot be written is found out before hours are spent.
    with open_shared(shared, create=True) as store:
        done = run_local(store, options, note, _finished)
    print_run(done, as_json=shared.json)


@command(app, ServerOptions, name="server")
def server(options: ServerOptions, shared: Shared) -> None:
    """The server's role: layers above the cut, and the adapters."""
    from cardlab.cli.run.run_table import print_run
    from cardlab.workflows.run import run_server

    with open_shared(shared, create=True) as store:
        done = run_server(store, options, note, _finished)
    print_run(done, as_json=shared.json)


def _finished(settings: RunSettings, journal: Journal, turn: FinishedTurn) -> None:
    from cardlab.cli.run.run_table import progress_line

    note(progress_line(settings, journal, turn))


@command(app, DeviceOptions, name="device", shared=("json",))
def device(options: DeviceOptions, shared: Shared) -> None:
    """A device's role: layers up to the cut, and the data."""
    from cardlab.workflows.run_device import run_device

    done = run_device(options, note)
    if shared.json:
        print_json({"device": done.device, "rounds": done.rounds, "losses": list(done.losses)})
    else:
        print_line(f"the run is over: {done.rounds} round(s) of {done.device} are stored at the server")


@command(app, RunExportOptions, name="export", shared=("json",))
def export(options: RunExportOptions, shared: Shared) -> None:
    """Write the adapters of a run, finished or not, as a folder of PEFT."""
    from cardlab.workflows.run_adapters import export_adapters

    done = export_adapters(options)
    if shared.json:
        print_json({"run_id": done.run, "rounds": done.rounds, "turns": done.turns, "adapters": str(done.folder)})
    else:
        print_line(f"adapters for PEFT after {done.rounds} round(s): {done.folder}")


@command(app, KeysOptions, name="keys", shared=("json",))
def keys(options: KeysOptions, shared: Shared) -> None:
    """Make a key pair for a run beyond this machine."""
    from cardlab.workflows.run_device import write_keys

    secret, public = write_keys(options)
    if shared.json:
        print_json({"key": str(secret), "public": str(public)})
    else:
        print_line(f"{secret} stays here; give {public} to the other side")
