"""The world of the reports and its pages, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.run import command
from tests.reports import world

PAGES = {
    "device": ("calibrate", "report", "--device", world.SERVER.key),
    "fleet": ("calibrate", "report"),
    "plan": ("card", "report"),
    "run": ("card", "report", "--run", world.RUN_UID[:8]),
}


@pytest.fixture(scope="session")
def world_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with two fitted devices, one without a meter, a plan and a split run."""
    return world.make(tmp_path_factory.mktemp("world") / "world.db")


@pytest.fixture(scope="session")
def pages(world_db: Path) -> dict[str, Path]:
    """The HTML file of every report, by name."""
    made = {}
    for name, (program, *words) in PAGES.items():
        path = world_db.with_name(f"{name}.html")
        result = command(program, *words, "--db", str(world_db), "--out", str(path))
        assert result.code == 0, result.err
        made[name] = path
    return made
