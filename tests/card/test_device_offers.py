"""If these fail, a plan from a database chooses a device's frequency by another machine's curves, or by none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cardlab.calibrate.service import fit_store
from cardlab.card.schemes.card.baselines import as_decided_by
from cardlab.card.solvers.enumeration import extents_of
from cardlab.core.errors import CardlabError, PlanError, UsageError
from cardlab.core.records.device import Device
from cardlab.core.records.measurement import OperatingPoint, PlannedPoint
from cardlab.core.records.plan import Decision, Plan
from cardlab.db import open_store
from cardlab.db.store import Store
from cardlab.split.schedule import Schedule
from cardlab.workflows import PlanOptions
from cardlab.workflows.plan import plan
from tests import records
from tests.card.database import BOARD, add_device, add_server
from tests.card.device_instances import random_problem

HZ = tuple(float(mhz) * 1e6 for mhz in (300, 400, 500, 600, 800, 1000, 1200, 1300))
OFFERED = tuple(sorted({*HZ, 7e8}))
ASKED = PlanOptions(uplink_mbps=50, downlink_mbps=100, device_frequencies="all", device_weight=1.0)


def layer_s(f: float) -> float:
    return 0.002 + 1.2e7 / f


def power_w(f: float) -> float:
    return 5.0 + 2.0 * f / 1e9 + 12.0 * (f / 1.3e9) ** 3


def add_swept(
    store: Store,
    *,
    states: tuple[tuple[str, float, float], ...] = (("30W", 3.2e9, 1.0),),
    fit: bool = True,
    load_s: float | None = None,
    **changes,
) -> None:
    """A board swept over HZ, once in each state (power mode, memory Hz, how much slower); a layer loads in `load_s`."""
    device = Device(
        **{**{name: getattr(BOARD, name) for name in ("key", "name", "platform", "memory_bytes")}, **changes}
    )
    points = [(state, f) for state in states for f in HZ]
    planned = tuple(PlannedPoint(index=i, requested_hz=f) for i, (_, f) in enumerate(points))
    run = records.run(device=device, task=records.TASK, options={}, planned=planned, offered_hz=OFFERED)
    store.runs.begin(run)
    for point, ((mode, memory_hz, slower), f) in zip(planned, points, strict=True):
        t = slower * layer_s(f)
        rows = [
            records.latency(segment, phase, factor * t)
            for segment, phase, factor in (
                ("embedding", "forward", 0.1),
                ("first_layer", "forward", 1.0),
                ("first_layer", "backward", 1.0),
                ("layer", "forward", 1.0),
                ("layer", "backward", 1.2),
                ("head", "forward", 1.0),
                ("head", "backward", 1.0),
            )
        ]
        rows += [
            records.power(power_w(f) / slower),
            records.power(4.0 + f / 1e9, "wait_power"),
            records.power(3.0, "idle_power"),
        ]
        rows += [] if load_s is None else [records.latency("layer_load", "load", load_s)]
        uid = store.runs.begin_point(run.uid, point)
        state = OperatingPoint(frequency_hz=f, throttled=False, power_mode=mode, memory_hz=memory_hz, cpu_hz=2.2e9)
        store.runs.finish_point(uid, state, *rows)
    if fit:
        fit_store(store, device=device.key, created_at="2026-11-21T10:12:00.000000Z")


def made(tmp_path: Path, options: PlanOptions = ASKED, **swept) -> tuple[Decision, Plan]:
    with open_store(tmp_path / "swept.db") as store:
        if not store.devices.all():
            add_server(store)
            add_swept(store, **swept)
        found = plan(store, options)
    return found.rounds[0].devices[0], found


def test_a_device_takes_the_frequency_at_which_its_layers_cost_least(tmp_path: Path) -> None:
    # All weight on its own energy: the truth's own least J a layer, which the fits may miss by one step.
    chosen, found = made(tmp_path, replace(ASKED, device_weight=1e6, weight=0.2))
    joules = {f: power_w(f) * layer_s(f) for f in OFFERED}
    assert chosen.device_frequency_hz in OFFERED
    assert joules[chosen.device_frequency_hz] <= 1.005 * min(joules.values())
    assert chosen.cut == 1
    assert chosen.device_energy_j == pytest.approx(
        power_w(chosen.device_frequency_hz) * 2.1 * layer_s(chosen.device_frequency_hz), rel=0.02
    )
    assert any("frequencies of board: 9 from 300 MHz to 1.3 GHz, power mode 30W" in note for note in found.notes)
    assert any("CPU at 2.2 GHz" in note for note in found.notes)


def test_the_front_weighs_delay_server_and_device_energy(tmp_path: Path) -> None:
    """Three prices: no point is beaten in all of them, and the ends are those of each price alone."""
    _, found = made(tmp_path, replace(ASKED, pareto=True))
    points = [(p.delay_s, p.server_energy_j, p.device_energy_j or 0.0) for p in found.pareto]
    assert len(set(points)) == len(points) > 5 and all(p.device_energy_j for p in found.pareto)
    assert not any(
        other != point and all(a <= b for a, b in zip(other, point, strict=True))
        for other in points
        for point in points
    )
    for weight, price in ((1.0, 0), (0.0, 1)):
        alone, plan_of_it = made(tmp_path, replace(ASKED, device_weight=0.0, weight=weight))
        assert min(p[price] for p in points) == pytest.approx(
            (plan_of_it.outcome.delay_s, alone.server_energy_j)[price], rel=1e-9
        )
    frugal, _ = made(tmp_path, replace(ASKED, device_weight=10.0, weight=0.0))
    assert min(p[2] for p in points) <= (frugal.device_energy_j or 0.0) * (1 + 1e-9)
    assert len({p.device_frequencies_hz for p in found.pareto}) > 1
    # A device that holds its frequency and whose energy has no weight is no price: the front is that of two.
    _, held = made(tmp_path, replace(ASKED, device_frequencies=None, device_weight=None, pareto=True))
    assert {p.device_weight for p in held.pareto} == {0.0}


def test_a_frequency_that_was_not_measured_is_offered_by_the_fits(tmp_path: Path) -> None:
    options = replace(ASKED, scenario=scenario(tmp_path, "frequencies_hz = [7e8]"), from_db=True)
    with pytest.raises(PlanError, match="no device has a frequency to choose"):
        made(tmp_path, options)
    options = replace(options, scenario=scenario(tmp_path, "frequencies_hz = [7e8, 1.3e9]"), device_weight=1e6)
    chosen, _ = made(tmp_path, options)
    assert chosen.device_frequency_hz == 7e8
    assert chosen.delay_terms.device == pytest.approx(chosen_s(7e8, chosen.cut), rel=0.02)


def chosen_s(f: float, cut: int) -> float:
    return (0.1 + 2.0 + 2.2 * (cut - 1)) * layer_s(f)


def test_a_device_that_holds_its_frequency_is_planned_as_before(tmp_path: Path) -> None:
    chosen, found = made(tmp_path, replace(ASKED, device_frequencies=None, device_weight=None))
    assert chosen.device_frequency_hz == 1.3e9
    assert chosen.delay_terms.device == pytest.approx(chosen_s(1.3e9, chosen.cut), rel=1e-9)
    held, _ = made(tmp_path, replace(ASKED, device_frequencies="held", device_weight=0.0))
    assert replace(held, runner_up=None) == replace(chosen, runner_up=None)
    assert not any("frequencies of" in note for note in found.notes)


def test_curves_of_another_memory_frequency_or_power_mode_are_not_mixed_in(tmp_path: Path) -> None:
    """The fault that it is for: fits of 15 W, or of slow memory, taken for those of the best point."""
    states = (("30W", 3.2e9, 1.0), ("15W", 3.2e9, 1.5), ("30W", 2.1e9, 1.4))
    options = replace(ASKED, scenario=scenario(tmp_path, "frequencies_hz = [6e8, 1.3e9]"), from_db=True)
    chosen, found = made(tmp_path, replace(options, device_weight=1e6), states=states)
    assert chosen.device_frequency_hz == 6e8
    assert chosen.delay_terms.device == pytest.approx(chosen_s(6e8, chosen.cut), rel=0.02)
    assert any("power mode 30W, memory at 3.2 GHz" in note for note in found.notes)


def test_energy_by_term_is_written_out(tmp_path: Path) -> None:
    text = "frequencies_hz = [6e8, 1.3e9]\ntransmit_power_w = 1.5\nreceive_power_w = 0.5"
    options = replace(ASKED, scenario=scenario(tmp_path, text), from_db=True, device_energy="round")
    chosen, found = made(tmp_path, options)
    spent, delays = chosen.device_energy_terms, chosen.delay_terms
    assert spent is not None and chosen.device_frequency_hz is not None
    assert spent.compute == pytest.approx(power_w(chosen.device_frequency_hz) * delays.device, rel=0.02)
    waiting_w = 4.0 + chosen.device_frequency_hz / 1e9
    assert spent.waiting == pytest.approx(waiting_w * (chosen.delay_s - delays.device), rel=0.02)
    # Adapters travel too, and latency sends nothing: of bits alone.
    assert spent.transmit is not None and spent.transmit > 1.5 * delays.uplink
    assert spent.idle == 0.0
    assert chosen.device_energy_j == pytest.approx(spent.total)
    assert "transmit_power_w of board = 1.5 (the file's)" in found.assumptions


@pytest.mark.parametrize("rtt_ms", [None, 40.0])
def test_a_devices_own_meter_sees_nothing_of_its_adapters_on_their_way(tmp_path: Path, rtt_ms: float | None) -> None:
    """The whole round was held against what it read: off by what the travel of adapters takes."""
    text = "frequencies_hz = [6e8, 1.3e9]\ntransmit_power_w = 1.5\nreceive_power_w = 0.5"
    options = replace(ASKED, scenario=scenario(tmp_path, text), from_db=True, device_energy="round", rtt_ms=rtt_ms)
    chosen, found = made(tmp_path, options)
    spent, delays, latency_s = chosen.device_energy_terms, chosen.delay_terms, (rtt_ms or 0.0) / 2e3
    assert spent is not None and spent.compute is not None and chosen.device_frequency_hz is not None
    waiting_w = 4.0 + chosen.device_frequency_hz / 1e9
    expected = spent.compute + 1.5 * (delays.uplink - latency_s) + 0.5 * (delays.downlink - latency_s)
    expected += waiting_w * (chosen.delay_s - delays.device - delays.adapters)
    assert delays.adapters > 2.0 * latency_s and chosen.device_metered_j == pytest.approx(expected, rel=0.005)
    # A run takes it from the plan as it is stored.
    with open_store(tmp_path / "swept.db") as store:
        stored = store.plans.get(found.uid)
    assert Schedule(stored).at(2, "board").expected.device_energy_j == chosen.device_metered_j


def test_what_other_constants_decide_keeps_the_cap_of_all_devices() -> None:
    """The fault that it is for: "beside it, at equal conditions" stood a plan above the cap that the plan kept."""
    bound = 0
    for seed in range(60):
        problem = replace(random_problem(seed, ("fleet_energy",)), offer=None)
        cap_j = problem.constraints.fleet_energy_j
        assert cap_j is not None
        extents = extents_of(problem)
        free = replace(problem, constraints=replace(problem.constraints, fleet_energy_j=None))
        alone, found = as_decided_by(free, free, extents), as_decided_by(problem, problem, extents)
        bound += alone is not None and (alone.device_energy_j or 0.0) > cap_j
        assert found is None or (found.device_energy_j or 0.0) <= cap_j * (1 + 1e-9)
        if alone is not None and (alone.device_energy_j or 0.0) <= cap_j:
            assert found == alone
    assert bound >= 5


def test_what_is_not_measured_is_not_counted_and_says_so(tmp_path: Path) -> None:
    chosen, _ = made(tmp_path)
    spent = chosen.device_energy_terms
    assert spent is not None and spent.transmit is None and spent.total is None
    assert spent.unknown == ("transmit", "receive")


def scenario(tmp_path: Path, device: str) -> str:
    path = tmp_path / "asked.toml"
    path.write_text(f'[server]\nname = "gpu"\n[[devices]]\nname = "board"\n{device}\n')
    return str(path)


REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "frequencies of a device that holds one": (
        "frequencies_hz = [6e8]",
        {"device_frequencies": None, "device_weight": None},
        "frequencies_hz of board has no effect",
        "--device-frequencies all",
    ),
    "one frequency left of each": ("frequencies_hz = [6e8]", {}, "leaves one of each", "list several"),
    "a frequency that the profile lacks": ("frequencies_hz = [5.5e8]", {}, "no profile at 550 MHz", "300 MHz, 400 MHz"),
    "a power of one frequency": ("power_w = 12.0", {}, "is of one frequency", "--device-frequencies held"),
    "a round without its radio": ("", {"device_energy": "round"}, "transmit_power_w", "--device-energy compute"),
    "a cap that nothing meets": ("", {"max_device_energy_j": 1e-6}, "device energy cap of 1 uJ", "--max-device-energy"),
    "a fleet's cap that nothing meets": ("", {"max_fleet_energy_j": 1e-6}, "fleet energy cap", "--max-fleet-energy"),
    "a choice there is none of": ("", {"device_frequencies": "some"}, "device_frequencies is 'some'", "held, all"),
    "a weight below nothing": ("", {"device_weight": -1.0}, "is -1", "0 or more"),
    "sft takes the quickest": ("", {"scheme": "sft", "device_weight": None}, "is for --scheme card", "leave it out"),
    "sft weighs no energy": ("", {"scheme": "sft"}, "--device-weight has no effect", "leave --device-weight out"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_kept_is_refused_with_a_remedy(name: str, tmp_path: Path) -> None:
    text, changes, problem, remedy = REFUSED[name]
    options = replace(ASKED, scenario=scenario(tmp_path, text), from_db=True, **changes)
    with pytest.raises(CardlabError) as refused:
        made(tmp_path, options)
    assert problem in refused.value.message and remedy in (refused.value.remedy or "")
    assert "\n" not in str(refused.value)


def test_a_device_without_fits_says_which_command_makes_them(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no fit of embedding forward") as refused:
        made(tmp_path, fit=False)
    assert "calibrate fit --device board" in (refused.value.remedy or "")


def test_a_device_measured_once_offers_that_and_another_chooses(tmp_path: Path) -> None:
    with open_store(tmp_path / "two.db") as store:
        add_server(store)
        add_swept(store)
        add_device(store, Device(key="jetson:0002", name="still", platform="jetson", memory_bytes=2**33))
        found = plan(store, replace(ASKED, devices=("board", "still")))
        by_name = {d.device: d for d in found.rounds[0].devices}
        assert by_name["still"].device_frequency_hz == 1e9
        assert by_name["still"].cut_probability is not None
        alone = plan(store, replace(ASKED, devices=("still",), device_frequencies="held"))
        assert alone.rounds[0].devices[0].delay_s == by_name["still"].delay_s
        with pytest.raises(PlanError, match="no device has a frequency to choose"):
            plan(store, replace(ASKED, devices=("still",)))


def test_a_file_says_what_the_command_line_says(tmp_path: Path) -> None:
    typed, _ = made(tmp_path, replace(ASKED, device_frequencies="all", device_weight=0.7))
    path = tmp_path / "asked.toml"
    path.write_text('[objective]\ndevice_frequencies = "all"\ndevice_energy_weight = 0.7\nweight = 0.2\n')
    options = PlanOptions(uplink_mbps=50, downlink_mbps=100, scenario=str(path), from_db=True)
    written, _ = made(tmp_path, options)
    assert written.device_frequency_hz == typed.device_frequency_hz and written.cost == typed.cost
    with pytest.raises(UsageError):
        made(tmp_path, replace(options, scheme="sft"))
