"""Packs the agent and a job into one file that a board's own Python (3.6 and later) runs."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from cardlab.core.errors import ProfileError

# By name and not by folder: a module that imports the rest of cardlab must not come along.
MODULES = {
    "agent": ("__init__", "board", "bundle", "layers", "main", "power", "run", "timing", "works"),
    "board": (
        "__init__",
        "files",
        "host",
        "ina3221",
        "limits",
        "modes",
        "modules",
        "rails",
        "rules",
        "scrypt",
        "tegra",
    ),
}
_PACKAGE = "card_agent"
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
        for folder, names in MODULES.items():
            for name in names:
                source = files(f"cardlab.profilers.{folder}").joinpath(f"{name}.py").read_text(encoding="utf-8")
                archive.writestr(f"{_PACKAGE}/{folder}/{name}.py", source)
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
