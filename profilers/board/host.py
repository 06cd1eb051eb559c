"""Facts about the host that any user may read, below a root given by the caller."""

import re
from pathlib import Path
from typing import Optional, Tuple

from .files import read_text

_SERIAL = "proc/device-tree/serial-number"
_MACHINE_IDS = ("etc/machine-id", "var/lib/dbus/machine-id")


def host_secret(root: Path) -> Optional[Tuple[str, str]]:
    """What tells this host from all others, and where it was found; None where nothing does.

    The board serial in the device tree (Jetson: readable by everyone), else the machine-id. The DMI serial of a PC is
    left alone: only root may read it, and one machine must not get two keys depending on who asks. Neither leaves the
    host: keys are made of it by scrypt.
    """
    serial = read_text(root / _SERIAL)
    if serial:
        return serial, "board serial (hashed)"
    for name in _MACHINE_IDS:
        machine_id = read_text(root / name)
        # systemd's images hold this word until their first boot: every copy would have the same key.
        if machine_id and machine_id != "uninitialized":
            return machine_id, f"machine-id in /{name} (hashed)"
    return None


def memory_bytes(root: Path = Path("/")) -> Tuple[Optional[int], Optional[int]]:
    """Total and available memory of the host, None where /proc/meminfo does not say."""
    text = read_text(root / "proc/meminfo") or ""
    # The kernel writes kB and means KiB.
    found = {m[1]: int(m[2]) * 1024 for m in re.finditer(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    return found.get("MemTotal"), found.get("MemAvailable")


def cpu_model(root: Path = Path("/")) -> Optional[str]:
    """The CPU's name as the kernel prints it."""
    text = read_text(root / "proc/cpuinfo") or ""
    # x86 names each processor, ARM the whole board in a line at the end.
    match = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else None


def cpu_cores(root: Path = Path("/")) -> Optional[int]:
    """Physical cores: distinct (package, core) pairs, else processors; None if unknown."""
    text = read_text(root / "proc/cpuinfo") or ""
    blocks = [dict(re.findall(r"^([^:\n]+?)\s*:[ \t]*(.*)$", b, re.MULTILINE)) for b in text.split("\n\n")]
    processors = [b for b in blocks if "processor" in b]
    # Two hardware threads share a pair. ARM prints no core ids, so there the processors are counted.
    pairs = {(b.get("physical id"), b["core id"]) for b in processors if "core id" in b}
    return len(pairs) or len(processors) or None
