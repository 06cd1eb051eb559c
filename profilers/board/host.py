"""Facts about the host that any user may read, below a root given by the caller.

The host's identity comes from the first of these that exists: the board serial in the device tree
(Jetson: readable by everyone), the machine-id, a key made once in the user's state folder. The DMI
serial of a PC is left alone: only root may read it, and one machine must not get two keys depending
on who asks.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from cardlab.core.errors import PermissionDeniedError
from cardlab.core.identity import new_uid, serial_key

_SERIAL = "proc/device-tree/serial-number"
_MACHINE_IDS = ("etc/machine-id", "var/lib/dbus/machine-id")


@dataclass(frozen=True, slots=True)
class HostKey:
    """A device key and where it came from, in words."""

    key: str
    source: str


def state_folder() -> Path:
    """The user's folder for state that outlives a process (XDG base directory specification)."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "cardlab"


def read_text(path: Path) -> str | None:
    """The text of a small kernel or system file, stripped of NUL and space; None if unreadable."""
    try:
        return path.read_bytes().decode("utf-8", "replace").strip("\0 \t\r\n")
    except OSError:
        return None


def host_key(platform: str, root: Path = Path("/"), state: Path | None = None) -> HostKey:
    """The key of this host for a platform without a hardware UUID of its own."""
    serial = read_text(root / _SERIAL)
    if serial:
        return HostKey(serial_key(platform, serial), "board serial (hashed)")
    for name in _MACHINE_IDS:
        machine_id = read_text(root / name)
        if machine_id and machine_id != "uninitialized":
            return HostKey(serial_key(platform, machine_id), f"machine-id in /{name} (hashed)")
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
    return file.read_text(encoding="utf-8").strip()


def memory_bytes(root: Path = Path("/")) -> tuple[int | None, int | None]:
    """Total and available memory of the host, None where /proc/meminfo does not say."""
    text = read_text(root / "proc/meminfo") or ""
    found = {m[1]: int(m[2]) * 1024 for m in re.finditer(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    return found.get("MemTotal"), found.get("MemAvailable")


def cpu_model(root: Path = Path("/")) -> str | None:
    """The CPU's name as the kernel prints it."""
    text = read_text(root / "proc/cpuinfo") or ""
    match = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else None


def cpu_cores(root: Path = Path("/")) -> int | None:
    """Physical cores: distinct (package, core) pairs, else processors; None if unknown."""
    text = read_text(root / "proc/cpuinfo") or ""
    blocks = [dict(re.findall(r"^([^:\n]+?)\s*:[ \t]*(.*)$", b, re.MULTILINE)) for b in text.split("\n\n")]
    processors = [b for b in blocks if "processor" in b]
    pairs = {(b.get("physical id"), b["core id"]) for b in processors if "core id" in b}
    return len(pairs) or len(processors) or None
