"""The oldest Python that a board has."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def old_python() -> str | None:
    """An interpreter of version 3.6, on the path or where pyenv keeps them; None where there is none."""
    pyenv = sorted(Path("~/.pyenv/versions").expanduser().glob("3.6.*/bin/python"))
    candidates = [*(str(file) for file in pyenv), shutil.which("python3.6")]
    return next((python for python in candidates if python and _starts(python)), None)


def _starts(python: str) -> bool:
    return subprocess.run([python, "-c", ""], stderr=subprocess.DEVNULL, check=False).returncode == 0
