"""Fleets that several tests ask, measured once."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import surround
from tests.twin.commands import Measured, measure, read, written
from tests.twin.drawing import drawn, usual
from tests.twin.truth import BYTES, World, costs
from tests.twin.worlds import worlds


def _short_of_memory(world: World) -> bool:
    """A board that holds some cuts only, by bytes that are more than the server's."""
    wide = [b for b in world.boards if b.memory_bytes != 2**33 and BYTES[b.dtype] > BYTES[world.server.dtype]]
    return bool(wide) and world.before is None and world.work.model.layers > 3


def _roomy(world: World) -> bool:
    """Room for every cut on every board, and a server that is what it was."""
    return world.before is None and all(b.memory_bytes == 2**33 for b in world.boards)


def _weighed(world: World) -> bool:
    """Two boards with room for all, and what is best for delay is not what is best for energy."""
    if len(world.boards) < 2 or world.work.model.layers < 4 or not _roomy(world):
        return False
    asked = usual(world)
    choices = world.choices(asked, world.boards[0])
    ends = [
        min(found, key=found.__getitem__) for found in (costs(replace(asked, weight=w), choices) for w in (0.0, 1.0))
    ]
    slow, quick = (choices[place] for place in ends)
    return slow.delay_s > 1.01 * quick.delay_s and slow.energy_j("round") < 0.99 * quick.energy_j("round")


# What the tests need, whatever this version of hypothesis draws for a number.
NEEDED = (
    (lambda world: _roomy(world) and world.work.training.optimizer == "adamw", 1),
    (_weighed, 2),
    (_short_of_memory, 2),
    (lambda world: world.before is not None and world.work.model.layers > 2, 2),
    (lambda world: any(b.throttles(b.top_hz) for b in world.boards) and world.before is None, 1),
    (lambda world: len(world.boards) == 3, 1),
    (lambda world: len(world.boards) == 1, 1),
)


def chosen() -> list[World]:
    """Ten worlds of many drawn ones, enough of each kind that is needed and no two of one model or training."""
    pool: list[World] = []
    found: list[World] = []
    # What is drawn for a number changes with the code around it: drawn on until there is one of each kind.
    numbers = iter(range(7, 27))
    for wanted, count in NEEDED:
        for _ in range(count):
            while not (fitting := [world for world in pool if wanted(world) and _new(world, found)]):
                pool += drawn(worlds(), 100, next(numbers))
            found.append(fitting[0])
    return found


def _new(world: World, found: list[World]) -> bool:
    return all(world.work.model != known.work.model and world.work.training != known.work.training for known in found)


def _measured_once(worlds_wanted: list[World], folder: Path) -> list[Measured]:
    """Each fleet as whichever process came first measured it; the others meanwhile take the next ones."""
    folder.mkdir(exist_ok=True)
    for wait in (False, True):
        for index, world in enumerate(worlds_wanted):
            here = folder / str(index)
            with (folder / f"{index}.lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                # A process that was stopped may have left a half of it.
                if not (here / "measured.json").exists():
                    shutil.rmtree(here, ignore_errors=True)
                    here.mkdir()
                    (here / "measured.json").write_text(json.dumps(written(measure(world, here))))
    homes = [folder / str(index) for index in range(len(worlds_wanted))]
    return [read(json.loads((home / "measured.json").read_text()), home / "world.db") for home in homes]


@pytest.fixture(scope="session")
def fleets(tmp_path_factory) -> list[tuple[World, Measured]]:
    """Ten fleets, measured once for all processes that test; each plans in databases of its own."""
    own = tmp_path_factory.mktemp("fleets")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        surround(patch, own)
        wanted = chosen()
        found = []
        for index, measured in enumerate(_measured_once(wanted, shared / "measured-fleets")):
            copy = Path(shutil.copy(measured.database, own / f"{index}.db"))
            found.append((wanted[index], replace(measured, database=copy)))
    return found
