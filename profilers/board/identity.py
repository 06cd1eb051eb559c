"""The key of this host, for devices without a hardware UUID of their own.

It comes from the first of these that exists: the board serial, the machine-id, a key made once in the user's state
folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cardlab.core.errors import PermissionDeniedError
from cardlab.core.identity import new_uid, serial_key
from cardlab.profilers.board.files import read_text
from cardlab.profilers.board.host import host_secret


@dataclass(frozen=True, slots=True)
class HostKey:
    """A device key and where it came from, in words."""

    key: str
    source: str


def state_folder() -> Path:
    """The user's folder for state that outlives a process (XDG base directory specification)."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "cardlab"


def host_key(platform: str, root: Path = Path("/"), state: Path | None = None) -> HostKey:
    """The key of this host for a platform without a hardware UUID of its own."""
    found = host_secret(root)
    if found is not None:
        return HostKey(serial_key(platform, found[0]), found[1])
    file = (state or state_folder()) / "device-key"
    return HostKey(serial_key(platform, _own_key(file)), f"key made once in {file}")


def _own_key(file: Path) -> str:
    known = read_text(file)
    if known:
        return known
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(new_uid() + "\n", encoding="utf-8")
    except OSError as error:
        raise PermissionDeniedError(
            f"this host has no identity and none can be made in {file.parent} ({error.strerror})",
            remedy="set XDG_STATE_HOME to a folder that you may write",
        ) from error
    # Read back, in case another process made one at the same moment.
    return file.read_text(encoding="utf-8").strip()
