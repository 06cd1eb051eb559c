"""The memory's frequency is swept like the cores', held by the same guard, and each has curves of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import cardlab
from cardlab.core.errors import UsageError
from cardlab.core.records.measurement import SEGMENT_ENERGY, SEGMENT_POWER
from cardlab.db import open_store
from cardlab.db.store import Store
from cardlab.profilers.board.identity import state_folder
from cardlab.profilers.devices import open_platform
from cardlab.profilers.devices.simulated.device import SimulatedDevice
from cardlab.workflows.options.calibrate import PredictOptions
from cardlab.workflows.options.card import PlanOptions
from cardlab.workflows.options.profile import ProfileOptions
from cardlab.workflows.predict import predict
from cardlab.workflows.profile import dry_run, profile
from tests.fakes.jetson.boards import BOARDS
from tests.fakes.jetson.tree import build

pytestmark = pytest.mark.torch

# A few tokens only: what a step takes is then reading weights, and the memory decides.
SWEEP = ProfileOptions(
    model="llama-3.2-1b",
    sequence=16,
    platform="simulated:rtx-4060-ti",
    frequencies="5",
    repeats=3,
    memory_frequencies="5001MHz,9001MHz",
)


@pytest.fixture
def store() -> Iterator[Store]:
    with open_store(":memory:") as opened:
        yield opened


def registers() -> dict[str, object]:
    [file] = (state_folder() / "simulated").glob("*.json")
    found: dict[str, object] = json.loads(file.read_text())
    return found


def test_a_sweep_of_the_memory_goes_from_the_profile_to_the_plan(store: Store) -> None:
    found = profile(store, SWEEP)
    assert found.complete
    by_memory = [[p.requested_hz for p in found.points if p.memory_requested_hz == hz] for hz in (5001e6, 9001e6)]
    assert by_memory[0] == by_memory[1] and len(set(by_memory[0])) >= 5
    assert {p.operating.memory_hz for p in found.points if p.operating} == {5001e6, 9001e6}
    assert registers() == {"locked_hz": None, "memory_hz": None}, "given back"
    profile(store, replace(SWEEP, platform="simulated:orin-nx", frequencies="max", memory_frequencies=None))
    cardlab.fit(store)
    times = {}
    for mhz in (5001.0, 9001.0):
        options = PredictOptions(device="rtx-4060-ti", frequency_mhz=2535.0, memory_mhz=mhz, segment="layer")
        [times[mhz]] = [
            f.predict(2535e6).value
            for f in predict(store, options).fits
            if (f.quantity, f.phase) == ("latency", "forward")
        ]
    assert times[5001.0] > 1.2 * times[9001.0]
    plan = cardlab.plan(store, PlanOptions(from_db=True, uplink_mbps=100.0, downlink_mbps=100.0))
    used = {f.fit.memory_hz for f in store.fits.newest() if f.fit.fit_id in plan.fits}
    assert used == {9001e6}, "curves of one memory frequency, that of the best point"


def test_a_simulated_memory_at_its_highest_is_the_device_as_it_was() -> None:
    device = SimulatedDevice("orin-nano")
    assert device.state().memory_hz is None
    with device.locked(device.frequencies()[0], device.memory_frequencies()[-1]):
        assert device.state().memory_hz == 3199e6
        assert device.machine.physics.bandwidth_bytes_per_s == 68e9
    with device.locked(device.frequencies()[0], 2133e6):
        assert device.machine.physics.bandwidth_bytes_per_s == pytest.approx(68e9 * 2133 / 3199)
    assert device.state().memory_hz is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"memory_frequencies": "6000MHz"}, "does not offer 6000 MHz"),
        ({"readonly": True, "frequencies": "8"}, "--readonly measures at the frequencies as found"),
        ({"platform": "cpu", "model": "tiny-llama"}, "the memory frequency of this device cannot be held"),
        (
            {"platform": "cpu", "model": "tiny-llama", "memory_frequencies": None, "power_per_segment": True},
            "no power meter",
        ),
    ],
)
def test_what_cannot_be_held_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        dry_run(replace(SWEEP, **changes))  # type: ignore[arg-type]
    assert refused.value.remedy


def test_the_memory_of_a_board_has_its_ends(tmp_path: Path) -> None:
    build(BOARDS["orin-nx-16"], tmp_path)
    device = open_platform("jetson", sysfs_root=tmp_path)
    low, high = device.memory_frequencies()
    assert 0 < low < high


def test_a_segment_alone_under_the_meter_has_an_energy_of_its_own(store: Store) -> None:
    """Power of the whole step times the time of a part is right only where all parts draw the same."""
    options = replace(SWEEP, memory_frequencies=None, frequencies="max", power_per_segment=True)
    found = profile(store, options)
    [point] = found.points
    assert found.run.analysis is not None
    for cost in found.run.analysis.segments:
        metered, power = point.find(SEGMENT_ENERGY, cost.segment), point.find(SEGMENT_POWER, cost.segment)
        assert metered is not None and metered.estimate is not None and power is not None and power.estimate is not None
        assert str(metered.estimate.provenance) == "simulated, direct" and metered.unit == "J"
        energy = point.segment_energy(cost)
        assert energy == metered.estimate
        times = [point.latency(cost.segment, phase) for phase in cost.phases]
        alone = power.estimate.value * sum(t.value for t in times if t is not None)
        assert energy is not None and energy.value == pytest.approx(alone, rel=0.05)
    layer = found.run.analysis.segment("layer")
    whole_power = point.total_power()
    assert whole_power is not None and whole_power.quantity == "power"
    plain = profile(store, replace(options, power_per_segment=False)).points[0].segment_energy(layer)
    assert plain is not None and str(plain.provenance) == "simulated, derived"
