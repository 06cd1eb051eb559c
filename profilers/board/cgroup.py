"""What a container or service may take of the host: memory and processors by its control groups, v1 and v2.

/proc/meminfo and /proc/cpuinfo show the whole host there. A group counts with all groups above it, and the
narrowest of them is the limit. /proc/self/cgroup says which group this process is in, as the host names it; inside a
container only a part of that path, or none, lies below the mount.
"""

import math
import re
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from .files import read_number, read_text, unescaped

_MEMORY = {"v1": ("memory.limit_in_bytes",), "v2": ("memory.max", "memory.high")}
_USED = {"v1": "memory.usage_in_bytes", "v2": "memory.current"}
# Pages of files that nobody used lately: the kernel drops them before it refuses memory.
_DROPPED = {"v1": "total_inactive_file", "v2": "inactive_file"}
# v1 writes the largest number of whole pages for "no limit"; no host has an exabyte.
_UNLIMITED = 2**60


class MemoryLimit(NamedTuple):
    """The narrowest limit of memory: bytes in all, bytes of it still free (None unreadable), and its file."""

    limit_bytes: int
    free_bytes: Optional[int]
    where: str


class _Group(NamedTuple):
    """One control group of this process: its folder and the version of its hierarchy."""

    folder: Path
    version: str


def memory_limits(root: Path = Path("/")) -> Tuple[MemoryLimit, ...]:
    """Every limit of memory that holds for this process, as its files below a root say; () where none does."""
    found = []
    for group in _groups(root, "memory"):
        for name in _MEMORY[group.version]:
            limit = read_number(group.folder / name)
            # 0 is no limit that a process could live in, and "max" is none at all.
            if limit is not None and 0 < limit < _UNLIMITED:
                used = _used_bytes(group)
                free = None if used is None else max(0, limit - used)
                found.append(MemoryLimit(limit, free, _inside(root, group.folder / name)))
    # v1 says the narrowest of all groups above, also of those that a container does not see.
    for group in _groups(root, "memory"):
        limit = _stat(group).get("hierarchical_memory_limit")
        if limit is not None and 0 < limit < min([_UNLIMITED] + [f.limit_bytes for f in found]):
            used = _used_bytes(group)
            free = None if used is None else max(0, limit - used)
            found.append(MemoryLimit(limit, free, _inside(root, group.folder / "memory.stat")))
    return tuple(found)


def cpu_limit(root: Path = Path("/")) -> Optional[float]:
    """Processors' worth of time that the narrowest quota leaves this process; None without a quota."""
    shares = []
    for group in _groups(root, "cpu"):
        if group.version == "v2":
            words = (read_text(group.folder / "cpu.max") or "").split()
            quota, period = words if len(words) == 2 else ("max", "0")
        else:
            quota = read_text(group.folder / "cpu.cfs_quota_us") or "-1"
            period = read_text(group.folder / "cpu.cfs_period_us") or "0"
        if re.fullmatch("[0-9]{1,15}", quota) and re.fullmatch("[0-9]{1,15}", period) and int(quota) and int(period):
            shares.append(int(quota) / int(period))
    return min(shares) if shares else None


def whole_cpus(share: float) -> int:
    """Threads that a share of processors keeps busy all the time: rounded down, at least 1."""
    return max(1, math.floor(share + 1e-9))


def _groups(root: Path, controller: str) -> Iterator[_Group]:
    """Groups of this process that the controller rules, from the innermost to the mount, for each hierarchy."""
    for version, path in _paths(root, controller):
        for mount, top in _mounts(root, version, controller):
            for folder in _up(mount, _below(mount, top, path)):
                yield _Group(folder, version)


def _paths(root: Path, controller: str) -> List[Tuple[str, str]]:
    """(version, path) of this process by hierarchy, as the kernel names it."""
    found = []
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        names, colon, path = rest.partition(":")
        if colon and number == "0" and not names:
            found.append(("v2", path))
        elif colon and controller in names.split(","):
            found.append(("v1", path))
    return found


def _mounts(root: Path, version: str, controller: str) -> List[Tuple[Path, str]]:
    """(folder, path of the group that is mounted there) of the hierarchies that are visible here."""
    found = []
    for line in (read_text(root / "proc/self/mountinfo") or "").splitlines():
        left, dash, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if not dash or len(fields) < 5 or len(kind) < 3:
            continue
        if version == "v2" and kind[0] != "cgroup2":
            continue
        if version == "v1" and not (kind[0] == "cgroup" and controller in kind[2].split(",")):
            continue
        found.append((root / unescaped(fields[4]).lstrip("/"), unescaped(fields[3])))
    return found


def _below(mount: Path, top: str, path: str) -> str:
    """Where the group lies below the mount; "" for the mount itself, which is all that many containers see."""
    inside = top.rstrip("/")
    if path == top or path.startswith(inside + "/"):
        rest = path[len(inside) :].strip("/")
        # A path of the host's, with a mount that shows the container's own group as its root.
        if ".." not in rest.split("/") and (mount / rest).is_dir():
            return rest
    return ""


def _up(mount: Path, rest: str) -> Iterator[Path]:
    parts = [part for part in rest.split("/") if part]
    for count in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:count])


def _used_bytes(group: _Group) -> Optional[int]:
    """Memory that the group holds and the kernel would not drop for another process of it."""
    used = read_number(group.folder / _USED[group.version])
    return None if used is None else max(0, used - _stat(group).get(_DROPPED[group.version], 0))


def _stat(group: _Group) -> Dict[str, int]:
    lines = (read_text(group.folder / "memory.stat") or "").splitlines()
    pairs = [line.split() for line in lines]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and re.fullmatch("[0-9]{1,19}", pair[1])}


def _inside(root: Path, path: Path) -> str:
    """The path as seen below the root."""
    return "/" + str(path.relative_to(root))
