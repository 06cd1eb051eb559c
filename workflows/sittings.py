"""The same profile in several processes: what differs from one to the next is what a later run will differ by.

`python -m cardlab.workflows.sittings` reads a database and options as JSON from stdin and makes one sitting.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

from cardlab.core.errors import CardlabError, ProfileError, UsageError
from cardlab.core.plain import from_plain, to_plain
from cardlab.db import open_store
from cardlab.db.store import Store
from cardlab.workflows.connect import Say
from cardlab.workflows.options.profile import ProfileOptions


def check_sittings(options: ProfileOptions) -> None:
    """Raise UsageError for a number that is none, and beside options of which one sitting alone can be meant."""
    if options.sittings < 1:
        raise UsageError(f"--sittings is {options.sittings}", remedy="give 1 or more")
    if options.sittings == 1:
        return
    alone = {
        "--budget": options.budget is not None,
        "--resume": options.resume,
        "--for-plan": options.for_plan is not None,
    }
    given = next((name for name, is_given in alone.items() if is_given), None)
    if given is not None:
        raise UsageError(f"{given} is of one sitting, and --sittings asks for several", remedy="leave one of them out")


def further_sittings(store: Store, options: ProfileOptions, say: Say) -> None:
    """All sittings after the first, one after the other, into the same database.

    Raises ProfileError where one ends by an error; what the others measured is kept.
    """
    if options.sittings == 1:
        return
    asked = {"store": store.location, "options": to_plain(replace(options, sittings=1))}
    for number in range(2, options.sittings + 1):
        say(f"sitting {number} of {options.sittings}, in a process of its own")
        done = subprocess.run(
            [sys.executable, "-m", "cardlab.workflows.sittings"],
            input=json.dumps(asked),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines()
            raise ProfileError(
                f"sitting {number} of {options.sittings}: {lines[-1] if lines else f'exit code {done.returncode}'}",
                remedy="what was measured is kept: profile once more for each that is missing",
            )


def _main() -> int:
    from cardlab.workflows.profile import profile

    asked = json.load(sys.stdin)
    try:
        with open_store(asked["store"]) as store:
            profile(store, from_plain(ProfileOptions, asked["options"]))
    except CardlabError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
