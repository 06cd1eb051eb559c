"""Whether this process is in a container, and which files of the host are mounted in it."""

from pathlib import Path
from typing import Set

from .files import read_text, unescaped

_MARKS = (".dockerenv", "run/.containerenv")
# Docker, Podman and Kubernetes lay a file of their own over this one; a host has no reason to.
_LAID_OVER = "/etc/hosts"


def in_container(root: Path = Path("/")) -> bool:
    """Whether an engine of images (Docker, Podman, containerd) started this; one of LXC is a host of its own."""
    return any((root / name).exists() for name in _MARKS) or _LAID_OVER in _mount_points(root)


def is_mounted(root: Path, path: Path) -> bool:
    """Whether a file, or a folder above it, was mounted into the container and outlives it."""
    points = _mount_points(root)
    names = [
        "/" + str(part.relative_to(root)) for part in (path, *path.parents) if part != root and root in part.parents
    ]
    return any(name in points for name in names)


def _mount_points(root: Path) -> Set[str]:
    lines = (read_text(root / "proc/self/mountinfo") or "").splitlines()
    fields = [line.split(" ") for line in lines]
    return {unescaped(words[4]) for words in fields if len(words) > 4}
