"""The key of this host, for devices without a hardware UUID of their own.

It comes from the first of these that exists: the board serial, the machine-id, a key made once in the user's state
folder. A serial goes through scrypt, so that none is stored and none can be enumerated cheaply from a key.
"""

import os
import uuid
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Optional

from .container import in_container, is_mounted
from .errors import BoardError
from .files import read_text
from .host import host_secret
from .scrypt import scrypt

# Frozen with the parameters of scrypt: another salt would give every stored board a second identity.
_SALT = b"cardlab device key v1"


# The only file of a PC or a board that names it and that an engine of containers lets in.
IN_A_CONTAINER = "start the container with -v /etc/machine-id:/etc/machine-id:ro"


class HostKey(NamedTuple):
    """A device key, where it came from, and why another start or host may not have its own (None: it has)."""

    key: str
    source: str
    problem: Optional[str] = None

    @property
    def remedy(self) -> Optional[str]:
        """What gives the host a key of its own, None where it has one."""
        return None if self.problem is None else IN_A_CONTAINER


@lru_cache(maxsize=4)  # a minute's work where Python has no scrypt of its own
def serial_key(platform: str, serial: str) -> str:
    """Device key from a secret serial or machine-id: `platform:` + 32 hex digits of scrypt."""
    digest = scrypt(serial.strip().encode("utf-8"), salt=_SALT, n=2**14, r=8, p=1, length=16)
    return f"{platform}:{digest.hex()}"


def state_folder() -> Path:
    """The user's folder for state that outlives a process (XDG base directory specification)."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "cardlab"


def host_key(platform: str, root: Path = Path("/"), state: Optional[Path] = None) -> HostKey:
    """The key of this host for a platform without a hardware UUID of its own.

    Raises BoardError where the host has no identity and none can be kept.
    """
    found = host_secret(root)
    if found is not None:
        return HostKey(serial_key(platform, found.text), found.source, found.problem)
    file = (state or state_folder()) / "device-key"
    problem = None
    if in_container(root) and not is_mounted(Path("/"), file):
        problem = "it goes with this container: the next one is another device"
    return HostKey(serial_key(platform, _own_key(file)), f"key made once in {file}", problem)


def _own_key(file: Path) -> str:
    known = read_text(file)
    if known:
        return known
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(uuid.uuid4().hex + "\n", encoding="utf-8")
    except OSError as error:
        raise BoardError(
            f"this host has no identity and none can be made in {file.parent} ({error.strerror})",
            remedy="set XDG_STATE_HOME to a folder that you may write",
        ) from error
    # Read back, in case another process made one at the same moment.
    return file.read_text(encoding="utf-8").strip()
