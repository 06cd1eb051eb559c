# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""The twin is worth what it finds: faults planted one at a time, each found within 200 worlds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.twin.commands import Measured, measure, plan, profiled
from tests.twin.drawing import asked_of, hold_world
from tests.twin.faults import FAULTS, Fault, planted
from tests.twin.hold import Held, hold_plan, hold_profile
from tests.twin.truth import Asked, World

pytestmark = pytest.mark.torch
# Questions to each of ten fleets: 200 worlds.
TURNS = 20

Fleets = list[tuple[World, Measured]]


@pytest.fixture(scope="module")
def asked(fleets: Fleets) -> list[list[Asked]]:
    """What is asked of each fleet, drawn once for all faults."""
    return [asked_of(world, TURNS, index) for index, (world, _) in enumerate(fleets)]


def seen_in_a_profile(world: World, folder: Path) -> Held:
    """What is held of a world's profiles, up to the first that is wrong; nothing has to be fitted."""
    held, config = Held(), folder / "config.json"
    config.write_text(json.dumps(world.work.model.config()))
    for machine in (*world.boards, world.server):
        document, passing = profiled(world, machine, config, folder / "world.db")
        hold_profile(held, world, machine, document, passing)
        if held.far:
            break
    return held


def seen_in_everything(world: World, folder: Path) -> Held:
    """What is held of a fleet that is measured, fitted and asked anew."""
    held = Held()
    hold_world(held, world, measure(world, folder), 0, 2)
    return held


def seen_in_plans(fault: Fault, fleets: Fleets, asked: list[list[Asked]]) -> str | None:
    """One question after the other, turn by turn through the fleets."""
    for turn in range(TURNS):
        for number, (world, measured) in enumerate(fleets):
            held, question = Held(), asked[number][turn]
            if not fault.asking(question):
                continue
            hold_plan(held, world, question, measured, plan(world, question, measured.database))
            if held.far:
                return f"world {turn * len(fleets) + number + 1}: {held.far[0]}"
    return None


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_within_200_worlds(fleets, asked, tmp_path, name):
    fault = FAULTS[name]
    with planted(fault):
        if fault.stage == "plan":
            found = seen_in_plans(fault, fleets, asked)
        else:
            look, found = {"profile": seen_in_a_profile, "age": seen_in_everything}[fault.stage], None
            for index, world in enumerate(world for world, _ in fleets if fault.among(world)):
                (tmp_path / str(index)).mkdir()
                found = "".join(look(world, tmp_path / str(index)).far[:1])
                if found:
                    break
    assert found, "no world shows it"
    print(f"found in {found}")
