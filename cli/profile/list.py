"""`profile-device list`."""

from __future__ import annotations

from cardlab.cli.console import print_line
from cardlab.cli.parameters import Shared, command
from cardlab.cli.profile.measure import app
from cardlab.cli.profile.show import print_runs
from cardlab.cli.stores import open_shared
from cardlab.workflows.options.profile import NoOptions


@command(app, NoOptions, name="list")
def list_(options: NoOptions, shared: Shared) -> None:
    """List the stored profiles, newest first."""
    from cardlab.workflows.lists import list_profiles

    with open_shared(shared) as store:
        found = list_profiles(store)
    if found or shared.json:
        print_runs(found, shared.json)
    else:
        print_line("no profile is stored; make one with: profile-device --model llama-3.2-1b")
