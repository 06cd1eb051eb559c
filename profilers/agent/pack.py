"""Packs the agent and a job into one file that a board's own Python (3.6 and later) runs."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path

from cardlab.core.errors import ProfileError

FOLDERS = ("agent", "board")
# Needs the rest of cardlab, and has done its work when the file is packed.
_STAYS = "pack.py"
_PACKAGE = "card_agent"
ENDINGS = (".pyz", ".py", ".zip")
_SHEBANG = b"#!/usr/bin/env python3\n"
_ENTRY = f"import sys\nfrom {_PACKAGE}.agent.main import main\nsys.exit(main())\n"


def pack_agent(path: str | Path, job: Mapping[str, object] | None) -> int:
    """Write the agent to `path`; returns its size in bytes.

    Args:
        job: what to measure, as `cardlab.profilers.measure.job.make_job` writes it; None packs an agent that measures
            named loads only.

    Raises ProfileError when the file cannot be written.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__main__.py", _ENTRY)
        # The two folders import each other relatively and so need one package above them.
        archive.writestr(f"{_PACKAGE}/__init__.py", "")
        for folder in FOLDERS:
            for name, source in sources(folder):
                archive.writestr(f"{_PACKAGE}/{folder}/{name}", source)
        if job is not None:
            archive.writestr(f"{_PACKAGE}/agent/job.json", json.dumps(job))
    # A zip is read from its end, so that a line may stand in front of it.
    data = _SHEBANG + buffer.getvalue()
    target = Path(path)
    try:
        target.write_bytes(data)
        target.chmod(0o755)
    except OSError as error:
        raise ProfileError(f"{target} cannot be written: {error.strerror}", remedy="name another file") from error
    return len(data)


def is_agent(path: Path) -> bool:
    """Whether a file is an agent, of whatever release."""
    try:
        with zipfile.ZipFile(path) as archive:
            return f"{_PACKAGE}/agent/main.py" in archive.namelist()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError):
        return False


def sources(folder: str) -> Iterator[tuple[str, str]]:
    """File name and text of every module of a folder that runs on a board."""
    for file in sorted(files(f"cardlab.profilers.{folder}").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".py") and file.name != _STAYS:
            yield file.name, file.read_text(encoding="utf-8")
