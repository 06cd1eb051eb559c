"""Worlds and questions for a number, and everything that the commands say of one."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.twin.commands import Measured, plan, predict
from tests.twin.hold import Held, hold_fit, hold_plan, hold_predictions, hold_profile
from tests.twin.truth import Asked, World
from tests.twin.worlds import questions

# Plans that are asked of each fleet: measuring takes seconds, a plan a tenth of one.
QUESTIONS = 8


def drawn(strategy: st.SearchStrategy[Any], count: int, number: int) -> list[Any]:
    """The same examples for the same number, wherever it runs; no two alike, which hypothesis draws now and then."""
    found: list[Any] = []

    @seed(number)
    @settings(
        max_examples=2 * count + 10,
        phases=(Phase.generate,),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def keep(example: Any) -> None:
        if len(found) < count and example not in found:
            found.append(example)

    keep()
    assert len(found) == count, "too few that differ"
    return found


def asked_of(world: World, count: int, number: int) -> list[Asked]:
    """What is asked of a world."""
    return drawn(questions(world), count, number)


def usual(world: World) -> Asked:
    """A question on a link whose time is of the order of the server's."""
    batch_s = world.work.server_s(world.server, 1, world.server.top_hz)
    rate = max(2e4, float(round(world.work.hidden_values() * 32 / (0.3 * batch_s))))
    return Asked(
        scheme="card",
        order=tuple(range(len(world.boards))),
        uplink_bps=rate,
        downlink_bps=2.0 * rate,
        weight=0.5,
        energy="round",
        epochs=2,
        compression=1.0,
        wire="float32",
    )


def hold_world(held: Held, world: World, measured: Measured, number: int, count: int = QUESTIONS) -> None:
    """Everything that the commands say of one world."""
    for machine in (world.server, *world.boards):
        hold_profile(held, world, machine, measured.profiles[machine.label], measured.passing[machine.label])
    hold_fit(held, world, measured)
    table = world.server.frequencies_hz
    for hz in (table[0], (table[2] + table[3]) / 2.0):
        hold_predictions(held, world, hz, predict(world, hz, measured.database))
    for asked in asked_of(world, count, number):
        hold_plan(held, world, asked, measured, plan(world, asked, measured.database))
