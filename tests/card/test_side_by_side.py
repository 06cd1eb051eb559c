"""If these fail, what a plan saves is stated against frequencies that nobody measured, or against another machine.

The truth is written out by hand: seconds, watts and bytes of the world in `database`, and of points left to the
governor that are added to it.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from cardlab.calibrate.service import fit_store, gather
from cardlab.core.errors import PlanError
from cardlab.core.records.device import Device
from cardlab.core.records.measurement import OperatingPoint, PlannedPoint
from cardlab.core.records.plan import Plan
from cardlab.core.records.side_by_side import GOVERNOR, HIGHEST, PLANNED, Setting, SideBySide
from cardlab.core.records.task import Execution
from cardlab.core.records.workload import PHASES
from cardlab.db import open_store
from cardlab.db.store import Store
from cardlab.workflows import PlanOptions
from cardlab.workflows.plan import plan
from cardlab.workflows.report_data import newest_runs
from tests import records
from tests.card.database import BOARD, SERVER, add_device, add_server, layer_s, power_w
from tests.card.test_device_offers import add_swept
from tests.cli.run import command

EPOCHS = 3
ASKED = PlanOptions(uplink_mbps=50, downlink_mbps=100, local_epochs=EPOCHS, energy="round")
HELD = (PlannedPoint(index=0, requested_hz=1e9),)
TOKENS = 1 * 32 * EPOCHS
LATER = "2026-11-22T10:00:00.000000Z"
# Of the points left to the governor: seconds of a layer forward, W at work and waiting, Hz read.
GPU = {"layer": 0.0021, "power": 77.0, "waiting": 31.0, "hz": 1.83e9}
JETSON = {"layer": 0.026, "power": 11.0, "waiting": 4.5, "hz": 8.2e8}


def add_governed(
    store: Store,
    device: Device,
    of: dict[str, float],
    *,
    power: bool = True,
    state: OperatingPoint | None = None,
    **run,
) -> str:
    """One point of a device with nobody holding its frequency: backward takes 1.3 times, the head 2.5 times a layer."""
    made = records.run(
        device=device,
        planned=(PlannedPoint(index=0),),
        **{"offered_hz": (6e8, 2.4e9), "started_at": LATER, **run},
    )
    store.runs.begin(made)
    t = of["layer"]
    times = (
        *(("embedding", "forward", 0.2 * t), ("first_layer", "forward", t), ("first_layer", "backward", 1.1 * t)),
        *(("layer", "forward", t), ("layer", "backward", 1.3 * t)),
        *(("head", "forward", 2.5 * t), ("head", "backward", 2.5 * t)),
    )
    rows = [records.latency(*row) for row in times]
    if power:
        rows += [records.power(of["power"]), records.power(of["waiting"], "wait_power")]
    uid = store.runs.begin_point(made.uid, made.planned[0])
    found = state or OperatingPoint(frequency_hz=of["hz"], throttled=False)
    store.runs.finish_point(uid, found, *rows)
    return made.uid


def held(path: Path) -> Store:
    """A swept server, and a board that was held at 1 GHz."""
    store = open_store(path)
    add_server(store)
    add_device(store, planned=HELD)
    return store


def device_s(cut: int, layer: float) -> float:
    """Of one mini-batch on the device of `add_governed`."""
    return (0.2 + 1.0 + 1.1 + 2.3 * (cut - 1)) * layer


def server_s(cut: int, layer: float) -> float:
    return (2.3 * (4 - cut) + 5.0) * layer


def link_s(cut: int) -> float:
    """Of a round: activations, gradients and adapters, whose optimizer keeps nothing."""
    return (EPOCHS * 8192 + cut * 100) * 8 * (1 / 5e7 + 1 / 1e8)


def made(store: Store, options: PlanOptions = ASKED) -> tuple[Plan, SideBySide]:
    found = plan(store, options)
    assert found.side_by_side is not None
    return found, found.side_by_side


def numbers(s: Setting) -> tuple[object, object, object]:
    return s.delay_s, s.server_energy_j, s.device_energy_j


def test_the_governors_default_is_what_was_measured_there(database: Path) -> None:
    with held(database) as store:
        add_governed(store, SERVER, GPU)
        add_governed(store, BOARD, JETSON)
        chosen, found = made(store)
        counted = {kind: made(store, replace(ASKED, energy=kind)) for kind in ("busy", "above_idle")}
    cut = chosen.rounds[0].devices[0].cut
    own, busy = EPOCHS * device_s(cut, JETSON["layer"]), EPOCHS * server_s(cut, GPU["layer"])
    delay = own + busy + link_s(cut)
    s = found.of(GOVERNOR, "board")
    assert s.delay_s == pytest.approx(delay, rel=1e-9)
    assert s.server_energy_j == pytest.approx(77.0 * busy + 31.0 * (delay - busy), rel=1e-9)
    assert s.device_energy_j == pytest.approx(11.0 * own, rel=1e-9)
    assert s.tokens == TOKENS
    assert s.server_j_per_token == pytest.approx((77.0 * busy + 31.0 * (delay - busy)) / 96, rel=1e-9)
    assert s.device_j_per_token == pytest.approx(11.0 * own / 96, rel=1e-9)
    assert (s.server_frequency_hz, s.device_frequency_hz) == (1.83e9, 8.2e8)
    assert not found.lacks
    # 12 W idle is of the sweep.
    for kind, watts in (("busy", 77.0), ("above_idle", 77.0 - 12.0)):
        other, beside = counted[kind]
        busy = EPOCHS * server_s(other.rounds[0].devices[0].cut, GPU["layer"])
        assert beside.of(GOVERNOR).server_energy_j == pytest.approx(watts * busy, rel=1e-9)
    assert any("nothing else held a frequency" in note for note in found.notes)
    assert any("only frequencies differ" in note for note in found.notes)


def test_a_governor_that_is_better_or_above_the_highest_is_said(database: Path) -> None:
    with held(database) as store:
        add_governed(store, SERVER, {**GPU, "layer": 1e-5, "power": 1.0, "waiting": 0.5, "hz": 2.6e9})
        add_governed(store, BOARD, {**JETSON, "layer": 1e-4, "power": 0.1})
        _, found = made(store)
    assert any(
        note.startswith("board: left to the governors its round takes no more time or energy") for note in found.notes
    )
    assert any(
        "the server was read at 2.6 GHz by its governor, above its highest, 2.4 GHz" in note for note in found.notes
    )
    with held(database.with_name("other.db")) as store:
        add_governed(store, SERVER, GPU)
        add_governed(store, BOARD, {**JETSON, "power": 1e3})
        _, found = made(store)
    assert not any("left to the governors" in note or "above its highest" in note for note in found.notes)


def test_a_round_of_the_device_counts_radio_and_waiting_at_each_setting(database: Path, tmp_path: Path) -> None:
    path = tmp_path / "asked.toml"
    path.write_text('[[devices]]\nname = "board"\ntransmit_power_w = 1.5\nreceive_power_w = 0.5\n')
    options = replace(ASKED, scenario=str(path), from_db=True, device_energy="round")
    with held(database) as store:
        add_governed(store, SERVER, GPU)
        add_governed(store, BOARD, JETSON)
        chosen, found = made(store, options)
    cut = chosen.rounds[0].devices[0].cut
    s, bits = found.of(GOVERNOR), (EPOCHS * 8192 + cut * 100) * 8
    own = EPOCHS * device_s(cut, JETSON["layer"])
    assert s.delay_s is not None
    expected = 11.0 * own + 1.5 * bits / 5e7 + 0.5 * bits / 1e8 + 4.5 * (s.delay_s - own)
    assert s.device_energy_j == pytest.approx(expected, rel=1e-9)
    # The sweep of this board has no waiting power: what cannot be counted is not.
    assert found.of(HIGHEST).device_energy_j is None and found.of(PLANNED).device_energy_j is None
    assert any("waiting power of board was not measured (planned)" in lack.reason for lack in found.lacks)


def test_highest_and_planned_equal_the_world_by_hand(database: Path) -> None:
    with held(database) as store:
        chosen, found = made(store, replace(ASKED, weight=0.0))
    d = chosen.rounds[0].devices[0]
    assert numbers(found.of(PLANNED)) == (d.delay_s, d.server_energy_j, d.device_energy_j)
    assert d.frequency_hz is not None and d.frequency_hz < 2.3e9
    own = EPOCHS * (0.002 + 0.04 + 0.044 * (d.cut - 1))
    for setting, hz in ((HIGHEST, 2.4e9), (PLANNED, d.frequency_hz)):
        s = found.of(setting)
        busy = EPOCHS * (2.1 * (4 - d.cut) + 6.0) * layer_s(hz)
        delay = own + busy + link_s(d.cut)
        assert (s.server_frequency_hz, s.device_frequency_hz) == (hz, 1e9)
        assert s.delay_s == pytest.approx(delay, rel=1e-3)
        energy = power_w(hz) * busy + (25 + 5 * hz / 2.4e9) * (delay - busy)
        assert s.server_energy_j == pytest.approx(energy, rel=5e-3)
        assert s.device_energy_j == pytest.approx(15.0 * own, rel=1e-9)


def test_a_device_that_chooses_is_held_against_its_own_highest(tmp_path: Path) -> None:
    """Its fits' highest; where a file leaves it lower ones only, the highest is still what it can do."""
    path = tmp_path / "asked.toml"
    path.write_text('[[devices]]\nname = "board"\nfrequencies_hz = [4e8, 6e8]\n')
    free = replace(ASKED, device_frequencies="all", device_weight=1e6)
    with open_store(tmp_path / "swept.db") as store:
        add_server(store)
        add_swept(store)
        for options in (free, replace(free, scenario=str(path), from_db=True)):
            chosen, found = made(store, options)
            d = chosen.rounds[0].devices[0]
            assert numbers(found.of(PLANNED)) == (d.delay_s, d.server_energy_j, d.device_energy_j)
            s = found.of(HIGHEST)
            assert s.device_frequency_hz == pytest.approx(1.3e9, rel=1e-6)
            # 2 + 12e6 / 1.3e9 ms a layer, and 5 + 2.6 + 12 W.
            own = EPOCHS * (0.1 + 2.0 + 2.2 * (d.cut - 1)) * (0.002 + 1.2e7 / 1.3e9)
            assert s.device_energy_j == pytest.approx(19.6 * own, rel=0.02)
            assert d.device_energy_j is not None and s.device_energy_j is not None
            assert d.device_energy_j < 0.9 * s.device_energy_j


def test_what_nobody_measured_is_na_with_a_remedy(database: Path) -> None:
    with held(database) as store:
        _, nothing = made(store)
        add_governed(store, SERVER, GPU)
        chosen, half = made(store, replace(ASKED, energy="busy"))
        add_governed(store, BOARD, JETSON, power=False)
        _, unmetered = made(store)
    s = nothing.of(GOVERNOR)
    assert numbers(s) == (None, None, None) and s.server_j_per_token is None
    assert [lack.reason.partition(" was ")[0] for lack in s.lacks] == ["gpu", "board"]
    assert all("--readonly" in lack.remedy and "--model tiny-llama" in lack.remedy for lack in s.lacks)
    assert None not in numbers(nothing.of(HIGHEST))
    # The server's busy time is its own, and known; the round needs both.
    busy = EPOCHS * server_s(chosen.rounds[0].devices[0].cut, GPU["layer"])
    assert numbers(half.of(GOVERNOR)) == (None, pytest.approx(77.0 * busy), None)
    assert [lack.reason.partition(" was ")[0] for lack in half.lacks] == ["board"]
    s = unmetered.of(GOVERNOR)
    assert s.delay_s is not None and s.server_energy_j is not None and s.device_energy_j is None
    assert [lack.reason for lack in s.lacks] == ["the power of board was not measured (governor's default)"]
    rows = unmetered.rows()
    assert rows[0]["device_energy_j"] is None and "power of board" in str(rows[0]["not_known"])


def test_a_server_without_power_says_so_in_every_row(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        add_server(store, power=False)
        add_device(store, planned=HELD)
        _, found = made(store, replace(ASKED, weight=1.0, energy="busy"))
    for setting in (HIGHEST, PLANNED):
        assert found.of(setting).delay_s is not None and found.of(setting).server_energy_j is None
        assert any(lack.reason == f"the power of gpu was not measured ({setting})" for lack in found.lacks)


def test_a_point_left_to_the_governor_changes_no_plan(tmp_path: Path) -> None:
    """The faults that it is for: the newest run, the best point, a frequency to choose, one more point of a fit."""
    options = replace(ASKED, device_frequencies="all", device_weight=0.5)
    with open_store(tmp_path / "x.db") as store:
        add_server(store)
        add_swept(store)
        before = [plan(store, o).rounds for o in (ASKED, options)]
        add_governed(store, SERVER, GPU)
        # Faster than anything that is held, and at another frequency of its memory.
        quick = OperatingPoint(frequency_hz=1.4e9, throttled=False, power_mode="30W", memory_hz=2.1e9, cpu_hz=2.2e9)
        add_governed(store, BOARD, {**JETSON, "layer": 1e-4}, state=quick)
        assert [plan(store, o).rounds for o in (ASKED, options)] == before
        for device in (SERVER, BOARD):
            fit_store(store, device=device.key, created_at="2026-11-23T10:00:00.000000Z")
        assert [plan(store, o).rounds for o in (ASKED, options)] == before
        _, found = made(store)
        assert found.of(GOVERNOR).device_frequency_hz == 1.4e9
        assert not any("newer data" in note for note in plan(store, ASKED).notes)
        # A report shows the sweep too.
        assert [len(p.points) for p in newest_runs(store, BOARD.key)] == [8]


def test_fits_leave_out_the_governor_only_where_something_was_held(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        add_governed(store, SERVER, GPU)
        alone = [g for g in gather(store) if g.subject.quantity == "power"]
        assert [len(g.readings) for g in alone] == [1] and alone[0].governed == 0
        add_server(store, fit=False)
        swept = [g for g in gather(store) if g.subject.quantity == "power" and g.subject.rail == "board"]
        assert [r.value for g in swept for r in g.readings if r.value == 77.0] == []
        assert [(len(g.readings), g.governed) for g in swept] == [(7, 1)]
        # With its memory left alone too it would make a subject of its own, of one point.
        slow = OperatingPoint(frequency_hz=GPU["hz"], throttled=False, memory_hz=4.05e8)
        add_governed(store, SERVER, GPU, state=slow)
        assert {g.subject.memory_hz for g in gather(store)} == {None}
        fits = fit_store(store, device=SERVER.key, created_at=LATER)
    told = [w for f in fits if f.quantity == "power" and f.rail == "board" for w in f.warnings]
    assert any(w.startswith("1 points left to the governor are left out") for w in told)


def test_a_point_in_the_middle_of_a_sweep_is_not_its_best(tmp_path: Path) -> None:
    planned = (PlannedPoint(index=0), PlannedPoint(index=1, requested_hz=9e8))
    run = records.run(device=BOARD, planned=planned, offered_hz=(9e8, 1.2e9))
    with open_store(tmp_path / "x.db") as store:
        store.runs.begin(run)
        for point, hz in zip(planned, (1.2e9, 9e8), strict=True):
            uid = store.runs.begin_point(run.uid, point)
            rows = [records.latency(s, p, 0.01) for s in ("first_layer", "layer") for p in ("forward", "backward")]
            store.runs.finish_point(uid, OperatingPoint(frequency_hz=hz, throttled=False), *rows)
        found = store.runs.get(run.uid)
    assert found.best_point is not None and found.best_point.requested_hz == 9e8
    assert found.governed_point is not None and found.governed_point.index == 0


def test_where_the_governor_went_is_no_frequency_to_choose(tmp_path: Path) -> None:
    """A board that was held at one frequency has that one, whatever else its run measured."""
    planned = (PlannedPoint(index=0), *(replace(p, index=1) for p in HELD))
    with open_store(tmp_path / "x.db") as store:
        add_server(store)
        made_run = records.run(device=BOARD, planned=planned, offered_hz=(6e8, 1e9))
        store.runs.begin(made_run)
        for point, hz in zip(planned, (6e8, 1e9), strict=True):
            uid = store.runs.begin_point(made_run.uid, point)
            parts = [("embedding", "forward"), *((s, p) for s in ("first_layer", "layer") for p in PHASES)]
            rows = [*(records.latency(*part, 0.01) for part in parts), records.power(hz / 1e8)]
            store.runs.finish_point(uid, OperatingPoint(frequency_hz=hz, throttled=False), *rows)
        # Taken for a choice it would ask for fits, which one frequency needs none of.
        with pytest.raises(PlanError, match="no device has a frequency to choose"):
            plan(store, replace(ASKED, device_frequencies="all"))
        _, found = made(store)
    spent_j = {s.setting: s.device_energy_j or 0.0 for s in found.settings}
    assert {s.setting: s.device_frequency_hz for s in found.settings} == {GOVERNOR: 6e8, HIGHEST: 1e9, PLANNED: 1e9}
    # 10 W and 6 W for equally long.
    assert spent_j[HIGHEST] == spent_j[PLANNED] == pytest.approx(spent_j[GOVERNOR] / 0.6)


def test_the_newest_point_left_to_the_governor_counts(database: Path) -> None:
    with held(database) as store:
        add_governed(store, BOARD, {**JETSON, "hz": 6e8})
        uid = add_governed(store, BOARD, {**JETSON, "hz": 7e8}, started_at="2026-11-23T10:00:00.000000Z")
        _, found = made(store)
    assert found.of(GOVERNOR).device_frequency_hz == 7e8
    assert any(f"governor's default of board: run {uid[:12]}, read 700 MHz" in note for note in found.notes)


def test_another_power_mode_or_execution_is_another_machine(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        add_server(store)
        add_swept(store)
        add_governed(store, SERVER, GPU, execution=Execution(dtype="bfloat16", torch="2.13"))
        saving = OperatingPoint(frequency_hz=5e8, throttled=False, power_mode="15W")
        add_governed(store, BOARD, JETSON, state=saving)
        _, found = made(store)
        reasons = [lack.reason for lack in found.of(GOVERNOR).lacks]
        assert reasons[0] == "gpu was never measured with its frequency left to the governor"
        assert reasons[1] == "board was left to its governor in power mode 15W only, and the plan is for 30W"
        assert numbers(found.of(GOVERNOR)) == (None, None, None)
        # The right one counts, whatever came after it.
        add_governed(store, BOARD, {**JETSON, "hz": 7e8}, state=replace(saving, power_mode="30W", frequency_hz=7e8))
        add_governed(store, BOARD, JETSON, state=saving, started_at="2026-11-24T10:00:00.000000Z")
        _, found = made(store)
        assert found.of(GOVERNOR).device_frequency_hz == 7e8


def test_a_governor_that_is_throttled_is_still_what_it_does(database: Path) -> None:
    hot = OperatingPoint(frequency_hz=1.1e9, throttled=True, reasons=("power cap",))
    with held(database) as store:
        add_governed(store, SERVER, GPU, state=hot)
        add_governed(store, BOARD, JETSON)
        _, found = made(store)
    assert found.of(GOVERNOR).server_frequency_hz == 1.1e9 and found.of(GOVERNOR).delay_s is not None
    assert any("governor's default of gpu" in n and "throttled (power cap)" in n for n in found.notes)


def test_times_that_other_work_disturbed_are_not_the_governors(database: Path) -> None:
    with held(database) as store:
        run = records.run(device=BOARD, planned=(PlannedPoint(index=0),), started_at=LATER, offered_hz=(1e9,))
        store.runs.begin(run)
        uid = store.runs.begin_point(run.uid, run.planned[0])
        lost = replace(records.latency("layer", "forward", 0.02), estimate=None, flags=("contended",))
        store.runs.finish_point(uid, OperatingPoint(frequency_hz=1e9, contended=True), lost)
        _, found = made(store)
    assert any("board: left to its governor" in lack.reason and "lacks the time" in lack.reason for lack in found.lacks)
    assert any("--readonly --repeats 7" in lack.remedy for lack in found.lacks)


def test_the_highest_of_a_device_that_was_never_held(database: Path) -> None:
    """Where it can be held it is not known; where nothing can be held all settings are one."""
    still = Device(key="jetson:0007", name="still", platform="jetson", memory_bytes=2**33)
    with held(database) as store:
        add_governed(store, still, JETSON)
        _, found = made(store, replace(ASKED, devices=("still",)))
        s = found.of(HIGHEST)
        assert numbers(s) == (None, None, None) and s.device_frequency_hz is None
        assert [lack.reason for lack in s.lacks] == ["no frequency of still was held, so its highest is not known"]
        assert "calibrate fit --device still" in s.lacks[0].remedy
        bound = replace(still, key="jetson:0008", name="bound")
        add_governed(store, bound, JETSON, offered_hz=())
        _, found = made(store, replace(ASKED, devices=("bound",)))
        for setting in (HIGHEST, PLANNED):
            assert found.of(setting).device_energy_j == pytest.approx(11.0 * EPOCHS * device_s(1, JETSON["layer"]))
        assert any("bound: no frequency can be held there" in note for note in found.notes)


def test_all_devices_are_the_sums_and_one_unknown_leaves_none(database: Path) -> None:
    other = Device(key="jetson:0002", name="second", platform="jetson", memory_bytes=2**33)
    with held(database) as store:
        add_device(store, other, seconds=0.03, planned=HELD)
        add_governed(store, SERVER, GPU)
        add_governed(store, BOARD, JETSON)
        _, found = made(store)
    names = [s.label for s in found.settings]
    assert names == ["board"] * 3 + ["second"] * 3 + ["all devices"] * 3
    for setting in (HIGHEST, PLANNED):
        each = [numbers(found.of(setting, name)) for name in ("board", "second")]
        assert numbers(found.of(setting)) == pytest.approx(tuple(a + b for a, b in zip(*each, strict=True)))
        assert found.of(setting).tokens == 2 * TOKENS
    assert found.of(GOVERNOR, "board").delay_s is not None and found.of(GOVERNOR).delay_s is None
    with pytest.raises(KeyError):
        found.of(PLANNED, "nobody")


def test_it_is_stored_with_the_plan_and_is_a_table(database: Path) -> None:
    with held(database) as store:
        made_plan, found = made(store)
        assert store.plans.get(made_plan.uid).side_by_side == found
        assert plan(None, PlanOptions(scenario="card-letter")).side_by_side is None
        assert plan(store, replace(ASKED, scheme="sft", energy=None, weight=None)).side_by_side is None
    assert "N/A" in found._repr_html_()
    pytest.importorskip("pandas")
    frame = found.to_pandas()
    assert list(frame["setting"]) == [GOVERNOR, HIGHEST, PLANNED]
    assert {"delay_s", "server_j_per_token", "device_j_per_token"} <= set(frame.columns)


SWEEPS = (
    "profile-device --model tiny-llama --batch 4 --seq 64 --platform simulated:rtx-4060-ti --frequencies 4",
    "profile-device --model tiny-llama --batch 4 --seq 64 --platform simulated:orin-nx --frequencies 4",
    "calibrate fit",
)
PLANNING = ("card", "plan", "--from-db", "--uplink-mbps", "50", "--downlink-mbps", "100")


def run(line: str) -> None:
    result = command(*shlex.split(line))
    assert result.code == 0, result.err


@pytest.mark.torch
def test_the_remedy_of_each_na_gives_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the command line, with simulated devices: what the answer says to run is run, word for word."""
    monkeypatch.chdir(tmp_path)
    for line in SWEEPS:
        run(line)
    before = command(*PLANNING, "--json").document
    rows = {r["setting"]: r for r in before["side_by_side"]["rows"]}
    assert rows[GOVERNOR]["delay_s"] is None and rows[HIGHEST]["delay_s"] is not None
    remedies = [lack["remedy"] for lack in rows[GOVERNOR]["lacks"]]
    assert len(remedies) == 2
    for remedy in remedies:
        run(remedy.removeprefix("run: "))
    after = command(*PLANNING, "--json").document
    rows = {r["setting"]: r for r in after["side_by_side"]["rows"]}
    assert after["rounds"] == before["rounds"]
    assert None not in (rows[s][k] for s in rows for k in ("delay_s", "server_energy_j", "device_energy_j"))
    assert all(r["not_known"] is None for r in rows.values())
    decided = after["rounds"][0]["devices"][0]
    assert rows[PLANNED]["delay_s"] == decided["delay_s"]
    assert rows[PLANNED]["server_energy_j"] == decided["server_energy_j"]
    # A card under full load goes up to what its power cap leaves it, and no higher than it can be held.
    assert rows[GOVERNOR]["server_frequency_hz"] <= 1.3 * rows[HIGHEST]["server_frequency_hz"]
    for r in rows.values():
        assert r["tokens"] == 4 * 64
        assert r["server_j_per_token"] == pytest.approx(r["server_energy_j"] / 256)
    text = command(*PLANNING).out
    assert "governor's default" in text and "the same cuts at other frequencies" in text and "N/A: " not in text
    page = tmp_path / "plan.html"
    report = command("card", "report", "--out", str(page), "--json").document
    section = next(s for s in report["sections"] if s["title"].startswith("At the governor's default"))
    (table,) = section["parts"]
    assert [row[1] for row in table["rows"]] == [GOVERNOR, HIGHEST, PLANNED]
    assert table["rows"][0][4] == pytest.approx(rows[GOVERNOR]["delay_s"])
    assert "side-by-side.csv" in page.read_text("utf-8")


@pytest.mark.torch
def test_a_frequency_that_was_left_locked_is_not_the_governors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cardlab.profilers.devices import open_platform

    monkeypatch.chdir(tmp_path)
    device = open_platform("simulated:orin-nx")
    assert device.guard is not None
    line = "profile-device --model tiny-llama --platform simulated:orin-nx --readonly --repeats 5"
    with device.guard.locked(device.frequencies()[0]):
        command(*shlex.split(line)).failed_in_one_line(1, "another process holds", "wait for it")
    # Its holder is killed: the journal stays.
    device.guard._write_journal({"locked_hz": None, "memory_hz": None})
    refused = command(*shlex.split(line))
    refused.failed_in_one_line(refused.code, "left this device's frequency locked", "profile-device restore")
    run("profile-device restore")
    result = command(*shlex.split(line))
    assert result.code == 0 and "left to the governor" in result.err
