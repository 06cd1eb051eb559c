"""`profile-device doctor`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from cardlab.cli.console import print_json, print_table
from cardlab.cli.parameters import Shared, command
from cardlab.cli.profile.measure import app
from cardlab.workflows.options.profile import DoctorOptions
from cardlab.workflows.settings import database

if TYPE_CHECKING:
    from cardlab.profilers.devices import Probe


@command(app, DoctorOptions, name="doctor")
def doctor(options: DoctorOptions, shared: Shared) -> None:
    """Say what was found, what feeds what, and what mends each lack."""
    from cardlab.workflows.doctor import doctor as look
    from cardlab.workflows.doctor import nothing_measurable

    probes = look(database(shared.db), options)
    if shared.json:
        print_json({"probes": plain_probes(probes)})
    else:
        print_probes(probes, ("what", "", "state", "remedy"), lacking="lacking")
    # Else a script would go on, and every model would fail.
    if nothing_measurable(probes):
        raise typer.Exit(1)


def plain_probes(probes: Iterable[Probe]) -> list[dict[str, object]]:
    """Probes for a JSON document."""
    return [{"name": p.name, "ok": p.ok, "state": p.state, "remedy": p.remedy} for p in probes]


def print_probes(probes: Iterable[Probe], columns: tuple[str, ...], *, lacking: str) -> None:
    """Probes as a table; `lacking` is the word for one that is not well."""
    words = {True: "ok", False: lacking, None: "-"}
    rows = [(p.name, words[p.ok], p.state, p.remedy or "") for p in probes]
    print_table(None, columns, rows, left=4)
