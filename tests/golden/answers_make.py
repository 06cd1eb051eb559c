"""Makes the golden answers again and prints which values changed, so that a commit can say which and why.

    python -m tests.golden.answers_make              all groups
    python -m tests.golden.answers_make fleet local  these groups

It needs the full environment. `fleet.zip`, the profiles of simulated devices that the group `fleet` plans with,
is made only where it is missing: it stands for what users have on disk.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from tests.cli.run import command
from tests.golden.answers import FOLDER, alone_in, differences, golden_file, run_group, same_uids
from tests.golden.answers_commands import FLEET, FLEET_COMMANDS, GROUPS, Group

SHOWN = 40


def make_fleet() -> None:
    """The profiles that plans are made from; uids are drawn from a fixed seed, since they seed draws."""
    nowhere = mock.patch.object(platform, "platform", lambda *_: "Linux")
    with tempfile.TemporaryDirectory() as folder, alone_in(Path(folder)), same_uids("fleet"), nowhere:
        for line in (*FLEET_COMMANDS, f"calibrate export --out {FLEET} --json"):
            result = command(*line.split())
            if result.code:
                raise SystemExit(f"{line}: {result.err}")


def make(group: Group) -> None:
    """Write the answers of one group; say what is new and what changed."""
    with tempfile.TemporaryDirectory() as folder:
        found = run_group(group, Path(folder))
    for case in group.cases:
        file, answer = golden_file(case), found[case.name]
        old: dict[str, Any] | None = json.loads(file.read_text("utf-8")) if file.exists() else None
        if old is None:
            print(f"{case.name}: new")
        else:
            changed = differences(old, answer, f"{group.name}.{case.name}")
            for path, before, after in changed[:SHOWN]:
                print(f"{path}: {before!r} -> {after!r}")
            if len(changed) > SHOWN:
                print(f"{case.name}: and {len(changed) - SHOWN} more")
            if not changed:
                continue
        file.write_text(json.dumps(answer, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    if not FLEET.exists():
        make_fleet()
    for name in sys.argv[1:] or GROUPS:
        make(GROUPS[name])
