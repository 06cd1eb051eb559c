"""If these fail, a plan puts layers on a board that has no room for them, or forbids those it has room for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import cardlab
from cardlab.core.records.measurement import Profile
from cardlab.core.records.plan import Plan
from cardlab.db.store import Store
from cardlab.workflows import PlanOptions, ProfileOptions

pytestmark = [pytest.mark.torch]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return cardlab.open_store(tmp_path / "fleet.db")


def profiled(store: Store, device: str, dtype: str, budget_gib: float | None = None) -> Profile:
    return cardlab.profile(
        store,
        ProfileOptions(
            model="llama-3.2-3b",
            platform=f"simulated:{device}",
            dtype=dtype,
            frequencies="2",
            repeats=3,
            memory_budget_gib=budget_gib,
        ),
    )


def all_on_the_device(store: Store, **more: Any) -> Plan:
    """Weight 0 and busy energy: the server's joules alone count, so every layer that fits goes to the device."""
    options = PlanOptions(
        from_db=True, server="rtx-4060-ti", weight=0.0, energy="busy", uplink_mbps=100, downlink_mbps=100, **more
    )
    return cardlab.plan(store, options)


def test_a_device_needs_what_its_own_dtype_takes(store: Store) -> None:
    profiled(store, "rtx-4060-ti", "bfloat16")
    board = profiled(store, "orin-nano", "float32")
    cardlab.fit(store)
    [decision] = all_on_the_device(store).rounds[0].devices
    assert board.run.analysis is not None
    needs = {cut.cut: cut.device_memory_bytes for cut in board.run.analysis.cuts}
    fitting = [cut for cut, need in needs.items() if need is not None and need <= 8 * 2**30]
    assert 1 < max(fitting) < 27, "the case shows nothing"
    assert decision.cut == max(fitting)
    assert "device memory" in decision.binding


def test_what_the_run_was_given_counts_and_not_what_the_board_has(store: Store) -> None:
    profiled(store, "rtx-4060-ti", "bfloat16")
    board = profiled(store, "orin-nano", "bfloat16", budget_gib=2.0)
    cardlab.fit(store)
    [decision] = all_on_the_device(store).rounds[0].devices
    assert board.run.analysis is not None
    needs = {cut.cut: cut.device_memory_bytes for cut in board.run.analysis.cuts}
    assert decision.cut == max(cut for cut, need in needs.items() if need is not None and need <= 2 * 2**30)


@pytest.mark.parametrize("known", [None, 0])
def test_a_memory_that_is_not_known_limits_nothing_and_the_plan_says_so(
    store: Store, known: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cardlab.profilers.devices.simulated.device import SimulatedDevice

    profiled(store, "rtx-4060-ti", "bfloat16")
    monkeypatch.setattr(SimulatedDevice, "memory_available_bytes", lambda self: known)
    made = SimulatedDevice.__init__

    def without_memory(self: SimulatedDevice, *given: Any, **more: Any) -> None:
        from dataclasses import replace

        made(self, *given, **more)
        self.identity = replace(self.identity, memory_bytes=known)

    monkeypatch.setattr(SimulatedDevice, "__init__", without_memory)
    profiled(store, "orin-nano", "float32")
    cardlab.fit(store)
    made_plan = all_on_the_device(store)
    assert made_plan.rounds[0].devices[0].cut == 27
    assert "no memory limit for orin-nano (its memory is not known)" in made_plan.assumptions
