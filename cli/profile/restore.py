"""`profile-device restore`."""

from __future__ import annotations

from cardlab.cli.console import print_json, print_line
from cardlab.cli.parameters import Shared, command
from cardlab.cli.profile.measure import app
from cardlab.workflows.options.profile import NoOptions


@command(app, NoOptions, name="restore", shared=("json",))
def restore(options: NoOptions, shared: Shared) -> None:
    """Release frequencies that a dead process left locked."""
    from cardlab.workflows.profile import restore_frequencies

    released = restore_frequencies()
    if shared.json:
        print_json({"restored": list(released)})
    elif released:
        print_line(f"restored: {', '.join(released)}")
    else:
        print_line("no frequency was left locked")
