# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""The twin is worth what it finds: faults planted one at a time, each found within 200 worlds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("torch")

from tests.twin.commands import Measured, measure, plan
from tests.twin.drawing import asked_of, hold_world
from tests.twin.faults import FAULTS, planted
from tests.twin.hold import Held, hold_plan
from tests.twin.truth import Asked, World

pytestmark = pytest.mark.torch
# Questions to each of eight fleets: 200 worlds.
TURNS = 25


def planned_worlds(fleets: list[tuple[World, Measured]], ask: Callable[[int, World], list[Asked]]) -> Iterator[Held]:
    """What is held of one question after the other, turn by turn through the fleets."""
    every = [ask(index, world) for index, (world, _) in enumerate(fleets)]
    for turn in range(TURNS):
        for (world, measured), asked in zip(fleets, every, strict=True):
            held = Held()
            hold_plan(held, world, asked[turn], measured, plan(world, asked[turn], measured.database))
            yield held


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_within_200_worlds(fleets, tmp_path, name):
    fault = FAULTS[name]
    with planted(fault):
        if fault.measuring:
            for index, (world, _) in enumerate(fleets):
                (tmp_path / str(index)).mkdir()
                held = Held()
                hold_world(held, world, measure(world, tmp_path / str(index)), index)
                if held.far:
                    return
            pytest.fail("no fleet shows it")
        for number, held in enumerate(planned_worlds(fleets, lambda i, w: asked_of(w, TURNS, i))):
            if held.far:
                print(f"found in world {number + 1}: {held.far[0]}")
                return
    pytest.fail("no world shows it")
