"""What must not be in a finished image, and what must."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Whoever breaks into the image would build with them, and they are most of what an image need not weigh.
_TOOLS = {
    "gcc",
    "g++",
    "cc",
    "c++",
    "clang",
    "ld",
    "as",
    "make",
    "cmake",
    "ninja",
    "pip",
    "pip3",
    "git",
    "curl",
    "wget",
}
_PROGRAMS = ("bin", "usr/bin", "usr/local/bin", "sbin", "usr/sbin", "opt/cardlab/bin")
_MODULES = {"pip", "ensurepip", "wheel"}
_LEFTOVERS = ("var/lib/apt/lists/*_*", "var/cache/apt/archives/*.deb", "root/.cache/*", "var/lib/cardlab/*", "build")
LABELS = ("title", "description", "licenses", "version", "revision")


def faults(root: Path, config: Mapping[str, Any]) -> list[str]:
    """One line for each fault of an image with this root and this configuration (`docker inspect`'s Config)."""
    return [*_of_the_root(root), *_of_the_configuration(config)]


def _of_the_root(root: Path) -> Iterator[str]:
    for folder in _PROGRAMS:
        for program in sorted((root / folder).glob("*")):
            # gcc-12, pip3.11
            if program.name.rstrip("0123456789.-") in _TOOLS:
                yield f"/{folder}/{program.name} is in the image"
    for folder, below, _ in os.walk(root):
        for name in sorted(_MODULES.intersection(below)):
            if Path(folder).name in ("site-packages", "dist-packages") or Path(folder).name.startswith("python3"):
                yield f"the Python module {name} is in the image: {Path(folder).relative_to(root) / name}"
    for pattern in _LEFTOVERS:
        for left in sorted(root.glob(pattern)):
            yield f"/{left.relative_to(root)} was left behind"


def _of_the_configuration(config: Mapping[str, Any]) -> Iterator[str]:
    user = str(config.get("User") or "root").partition(":")[0]
    # Kubernetes can tell only by a number that it is not root.
    if not user.isdigit() or user == "0":
        yield f"it runs as {user}"
    test = (config.get("Healthcheck") or {}).get("Test") or []
    if test[:1] != ["CMD"] or "profile-device doctor" not in " ".join(test):
        yield f"its health check is {test}"
    labels = config.get("Labels") or {}
    for name in LABELS:
        if not labels.get(f"org.opencontainers.image.{name}"):
            yield f"the label org.opencontainers.image.{name} is missing"
