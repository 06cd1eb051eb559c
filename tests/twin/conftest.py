"""Fleets that several tests ask, measured once."""

from __future__ import annotations

import pytest

from tests.conftest import surround
from tests.twin.commands import Measured, measure
from tests.twin.drawing import drawn
from tests.twin.truth import World
from tests.twin.worlds import worlds

# A number whose eight fleets hold all that the tests need: an aged server, a throttling board, one short of memory.
FLEETS = 73


@pytest.fixture(scope="module")
def fleets(tmp_path_factory) -> list[tuple[World, Measured]]:
    """Eight fleets."""
    folder = tmp_path_factory.mktemp("fleets")
    with pytest.MonkeyPatch.context() as patch:
        surround(patch, folder)
        found = []
        for index, world in enumerate(drawn(worlds(), 8, FLEETS)):
            (folder / str(index)).mkdir()
            found.append((world, measure(world, folder / str(index))))
    return found
