"""Fleets that several tests ask, measured once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.conftest import surround
from tests.twin.commands import Measured, measure
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
    (lambda world: world.before is not None, 2),
    (lambda world: any(b.throttles(b.top_hz) for b in world.boards), 1),
)


def chosen() -> list[World]:
    """Eight worlds of many drawn ones, enough of each kind that is needed."""
    drawn_worlds, found = drawn(worlds(), 300, 7), []
    for wanted, count in NEEDED:
        fitting = [world for world in drawn_worlds if world not in found and wanted(world)]
        assert len(fitting) >= count, "draw more worlds"
        found += fitting[:count]
    return found


@pytest.fixture(scope="module")
def fleets(tmp_path_factory) -> list[tuple[World, Measured]]:
    """Eight fleets, measured."""
    folder = tmp_path_factory.mktemp("fleets")
    with pytest.MonkeyPatch.context() as patch:
        surround(patch, folder)
        found = []
        for index, world in enumerate(chosen()):
            (folder / str(index)).mkdir()
            found.append((world, measure(world, folder / str(index))))
    return found
