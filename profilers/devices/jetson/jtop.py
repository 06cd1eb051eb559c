"""jtop (jetson-stats) as a second source of power, in a child process.

Rails are taken one by one, never jtop's own total: on an AGX Orin that counts VDDQ_VDD2_1V8AO twice.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cardlab.core.errors import DeviceError
from cardlab.profilers.devices.jetson.children import ChildSource, Program
from cardlab.profilers.devices.jetson.tegrastats import parse_line

SOCKET = "run/jtop.sock"
# jtop's author advises against shorter ones; its service becomes unstable.
INTERVAL_S = 0.5
_SERVICE = "sudo systemctl restart jtop.service"


@dataclass(frozen=True, slots=True)
class Found:
    """Whether a program can be used, in words, and what would mend it; `usable` is None where it is not installed."""

    usable: bool | None
    state: str
    remedy: str | None = None


def find_jtop(root: Path) -> Found:
    """Whether jtop is installed, its service is there, and this user may ask it; nothing is imported."""
    if importlib.util.find_spec("jtop") is None:
        return Found(None, "not installed: no second source of power", "container=1 pip install 'cardlab[jetson]'")
    socket = root / SOCKET
    if not socket.exists():
        return Found(False, "installed, but its service does not run", _SERVICE)
    if not os.access(socket, os.R_OK | os.W_OK):
        return Found(False, "this user may not ask its service", 'sudo usermod -aG jtop "$USER", then log in anew')
    return Found(True, f"service at /{SOCKET}: second source of power")


def open_jtop(interval_s: float | None = None) -> ChildSource:
    """Start the child and wait for its first line. Raises DeviceError with jtop's own words."""
    every_s = INTERVAL_S if interval_s is None else interval_s
    command = [sys.executable, "-m", "cardlab.profilers.devices.jetson.jtop_child", f"{every_s:g}"]
    return ChildSource(
        Program(
            name="jtop",
            words="jtop's rails, each by itself",
            command=command,
            parse=parse_jtop,
            update_s=every_s,
            remedy=_SERVICE,
        )
    )


def parse_jtop(line: str) -> Mapping[str, float]:
    """Watts by rail of a line of the child. Raises DeviceError for anything else."""
    try:
        rails = json.loads(line)["rails"]
        return {str(name): float(milliwatt) * 1e-3 for name, milliwatt in rails.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DeviceError("jtop's child wrote something else", remedy="install cardlab anew") from error


def find_tegrastats() -> Found:
    """Whether tegrastats is there."""
    path = shutil.which("tegrastats")
    if path is None:
        return Found(None, "not on PATH: no third source of power", "mount /usr/bin/tegrastats into the container")
    return Found(True, f"{path}: third source of power")


def open_tegrastats(interval_s: float = INTERVAL_S) -> ChildSource:
    """Start tegrastats and wait for its first line. Raises DeviceError; `tegrastats --stop` is never called."""
    # Ended by a signal and never by `tegrastats --stop`, which ends everybody's.
    command = ["tegrastats", "--interval", str(round(interval_s * 1e3))]
    return ChildSource(
        Program(
            name="tegrastats",
            words="tegrastats",
            command=command,
            parse=lambda line: parse_line(line).power_w,
            update_s=interval_s,
            remedy="run tegrastats by hand and look at what it prints",
        )
    )
