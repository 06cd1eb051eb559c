"""`profile-device agent`."""

from __future__ import annotations

from cardlab.cli.console import print_json, print_line
from cardlab.cli.parameters import Shared, command
from cardlab.cli.profile.measure import app
from cardlab.workflows.options.profile import AgentOptions


@command(app, AgentOptions, name="agent", shared=("json",))
def agent(options: AgentOptions, shared: Shared) -> None:
    """Pack a file that measures a board whose Python cannot run cardlab (3.6 and later)."""
    from cardlab.workflows.agent import pack

    made = pack(options)
    if shared.json:
        document = {"out": made.out, "bytes": made.size_bytes, "model": made.model}
        print_json({**document, "dtypes": list(made.dtypes)})
        return
    print_line(f"{made.out}: {made.size_bytes / 1024:.0f} KiB, {', '.join(made.dtypes) or 'for named loads only'}")
    load = "" if made.model is not None else " --load-command CMD"
    print_line(f"on the board:  python3 {made.out} run --out board.zip{load}")
    print_line("then here:     calibrate merge board.zip")
