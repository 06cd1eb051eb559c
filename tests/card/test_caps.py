"""If these fail, a limit that somebody gave changes nothing, and the plan does not say so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cardlab
from cardlab.card.problem.scenario_file import load_scenario
from cardlab.card.schemes.card.planning import plan_rounds, problems_of
from cardlab.core.errors import InfeasibleError, PlanError, UsageError
from cardlab.core.records.plan import Plan
from cardlab.db.store import Store
from cardlab.workflows import PlanOptions, ProfileOptions

SERVER, BOARDS = "rtx-4060-ti", ("agx-orin-1", "orin-nano")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("caps")
    with pytest.MonkeyPatch.context() as patch:
        # Made before any test's own surroundings: nothing may be written to the person's state folder.
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        store = cardlab.open_store(folder / "fleet.db")
        for device in (SERVER, *BOARDS):
            options = ProfileOptions(
                model="tiny-llama", platform=f"simulated:{device}", batch=4, sequence=128, frequencies="all", repeats=3
            )
            cardlab.profile(store, options)
        cardlab.fit(store)
        store.close()
    return folder / "fleet.db"


@pytest.fixture
def store(measured: Path) -> Iterator[Store]:
    opened = cardlab.open_store(measured)
    yield opened
    opened.close()


def shared(store: Store, **more: Any) -> Plan:
    return cardlab.plan(
        store, PlanOptions(from_db=True, server=SERVER, scheme="sft", uplink_mbps=50, downlink_mbps=100, **more)
    )


@pytest.mark.torch
def test_sft_holds_the_server_below_a_power_cap_and_says_where_it_cannot(store: Store) -> None:
    free = shared(store).rounds[0].devices
    capped = shared(store, max_server_power_w=40.0).rounds[0].devices
    assert capped[0].frequency_hz is not None and free[0].frequency_hz is not None
    assert capped[0].frequency_hz < free[0].frequency_hz
    assert capped[0].delay_s > free[0].delay_s
    with pytest.raises(InfeasibleError, match="server power cap of 1 W cannot be kept"):
        shared(store, max_server_power_w=1.0)


@pytest.mark.torch
def test_sft_keeps_the_servers_energy_for_each_device(store: Store) -> None:
    free = shared(store).rounds[0].devices
    spent = [d.server_energy_j for d in free]
    assert None not in spent
    cap = 0.9 * max(e for e in spent if e is not None)
    capped = shared(store, max_server_energy_j=cap).rounds[0].devices
    assert all(d.server_energy_j is not None and d.server_energy_j <= cap for d in capped)
    assert [d.cut for d in capped] != [d.cut for d in free]
    with pytest.raises(InfeasibleError, match="server energy cap of 1 mJ cannot be kept"):
        shared(store, max_server_energy_j=1e-3)


@pytest.mark.torch
@pytest.mark.parametrize("scheme", ["sft", "card"])
def test_a_limit_that_nothing_keeps_is_named_with_its_figure_and_option(store: Store, scheme: str) -> None:
    asked = PlanOptions(from_db=True, server=SERVER, scheme=scheme, uplink_mbps=50, downlink_mbps=100)
    spent = [d.device_energy_j for d in shared(store).rounds[0].devices if d.device_energy_j is not None]
    with pytest.raises(InfeasibleError, match="device energy cap of 1 nJ cannot be kept, the best possible is") as one:
        cardlab.plan(store, replace(asked, max_device_energy_j=1e-9))
    assert one.value.remedy == "raise --max-device-energy"
    # With one layer on the device its energy can be kept, with three it cannot.
    limits: dict[str, Any] = {"max_device_energy_j": 1.01 * max(spent), "min_device_layers": 3}
    with pytest.raises(InfeasibleError, match="each of device energy cap, least layers on the device can be") as both:
        cardlab.plan(store, replace(asked, **limits))
    assert both.value.remedy == "raise --max-device-energy, or lower --min-device-layers"


@pytest.mark.torch
def test_what_sft_has_no_use_for_is_refused(store: Store) -> None:
    for more in ({"energy": "round"}, {"energy": "above_idle"}, {"weight": 1.0}):
        with pytest.raises(UsageError, match="has no effect on scheme sft"):
            shared(store, **more)
    plan = shared(store)
    assert plan.energy == "busy" and not any("energy = " in line for line in plan.assumptions)


def test_a_scenarios_objective_that_sft_does_not_use_is_listed() -> None:
    scenario = load_scenario("card-letter")
    weighted = replace(scenario, scheme="sft", objective=replace(scenario.objective, weight=0.9, energy="round"))
    assert "not used by scheme sft: weight, energy of [objective]" in cardlab.card.solve(weighted).assumptions


@pytest.mark.parametrize("cap", ["server_power_w", "server_energy_j", "device_energy_j"])
def test_a_cap_on_what_is_not_known_is_refused(cap: str) -> None:
    [problem] = problems_of(replace(load_scenario("card-letter"), rounds=1))
    unknown = replace(
        problem, continuous=None, power_w=None, device_power_w=np.full(len(problem.devices), np.nan), wait_power_w=None
    )
    delay_only = replace(problem.objective, weight=1.0)
    limit: dict[str, Any] = {cap: 1.0}
    capped = replace(unknown, objective=delay_only, constraints=replace(problem.constraints, **limit))
    with pytest.raises(PlanError, match="power .*not known"):
        plan_rounds([capped])
