"""Facts about the host that any user may read, below a root given by the caller."""

import hashlib
import os
import re
from pathlib import Path
from typing import NamedTuple, Optional, Tuple

from .cgroup import cpu_limit, memory_limits, whole_cpus
from .container import in_container, is_mounted
from .files import read_text

_SERIAL = "proc/device-tree/serial-number"
_MACHINE_IDS = ("etc/machine-id", "var/lib/dbus/machine-id")


class Secret(NamedTuple):
    """What tells this host from all others: the text, where it was found, and why it may not hold (None: it does)."""

    text: str
    source: str
    problem: Optional[str] = None


def host_secret(root: Path) -> Optional[Secret]:
    """What tells this host from all others; None where nothing does.

    The board serial in the device tree (Jetson: readable by everyone), else the machine-id. The DMI serial of a PC is
    left alone: only root may read it, and one machine must not get two keys depending on who asks. Neither leaves the
    host: keys are made of it by scrypt.
    """
    serial = read_text(root / _SERIAL)
    if serial:
        return Secret(serial, "board serial (hashed)")
    for name in _MACHINE_IDS:
        machine_id = read_text(root / name)
        # systemd's images hold this word until their first boot: every copy would have the same key.
        if machine_id and machine_id != "uninitialized":
            images = in_container(root) and not is_mounted(root, root / name)
            problem = "it is the image's: every container of that image is one device" if images else None
            return Secret(machine_id, f"machine-id in /{name} (hashed)", problem)
    return None


class Memory(NamedTuple):
    """Memory that this process may have.

    Attributes:
        total_bytes, free_bytes: in all and still free; None where nothing says.
        host_bytes: of the whole host, None where /proc/meminfo does not say.
        limit: file of the control group that leaves less than the host has, None where none does.
    """

    total_bytes: Optional[int]
    free_bytes: Optional[int]
    host_bytes: Optional[int] = None
    limit: Optional[str] = None

    def words(self) -> str:
        """Total and free for people, with what limits them."""
        if self.total_bytes is None or self.free_bytes is None:
            return "N/A"
        said = f"{_gib(self.total_bytes)}, {_gib(self.free_bytes)} free"
        if self.limit is None or self.host_bytes is None:
            return said
        return f"{said} (limit of the control group, {self.limit}; the host has {_gib(self.host_bytes)})"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"


def host_memory(root: Path = Path("/")) -> Memory:
    """What this process may have of the host's memory: /proc/meminfo, bounded by its control groups."""
    text = read_text(root / "proc/meminfo") or ""
    # The kernel writes kB and means KiB.
    found = {m[1]: int(m[2]) * 1024 for m in re.finditer(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    # A kernel that says 0 says nothing.
    host, free = found.get("MemTotal") or None, found.get("MemAvailable")
    limits = memory_limits(root)
    narrow = min(limits, key=lambda limit: limit.limit_bytes) if limits else None
    if narrow is not None and host is not None and narrow.limit_bytes >= host:
        narrow = None
    # Each group above has use of its own: the least that one of them has left is what is free.
    left = [limit.free_bytes for limit in limits if limit.free_bytes is not None]
    return Memory(
        total_bytes=host if narrow is None else narrow.limit_bytes,
        free_bytes=min([size for size in (free, *left) if size is not None], default=None),
        host_bytes=host,
        limit=None if narrow is None else narrow.where,
    )


def memory_bytes(root: Path = Path("/")) -> Tuple[Optional[int], Optional[int]]:
    """Total and available memory that this process may have, None where nothing says."""
    found = host_memory(root)
    return found.total_bytes, found.free_bytes


def usable_cpus(root: Path = Path("/")) -> int:
    """Processors that this process may use at once: its affinity, and the quota of its control groups rounded down."""
    mine = len(os.sched_getaffinity(0))
    share = cpu_limit(root)
    return mine if share is None else min(mine, whole_cpus(share))


def host_boot(root: Path = Path("/")) -> Optional[str]:
    """Which start of which host this is, as a digest; None where the kernel does not say.

    The kernel draws it anew at each start and shows it in containers too: no two hosts ever share one.
    """
    drawn = read_text(root / "proc/sys/kernel/random/boot_id")
    return hashlib.sha256(drawn.encode("utf-8")).hexdigest()[:32] if drawn else None


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
