"""If these fail, a run is held against numbers of another machine, execution or frequency without a word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cardlab.core.identity import new_uid
from cardlab.core.records.checks import check_energies
from cardlab.core.records.device import Device
from cardlab.core.records.measurement import OperatingPoint, PlannedPoint, Profile, Run, RunKind
from cardlab.core.records.plan import Plan
from cardlab.core.records.training import TrainPhase, TrainRound
from cardlab.db.store import Store
from cardlab.split.settings import RunSettings
from cardlab.workflows.exchange import calibrate_sensor
from cardlab.workflows.expectation import Serving, expected_by_device
from cardlab.workflows.options.calibrate import MeterOptions
from cardlab.workflows.options.card import PlanOptions
from cardlab.workflows.plan import plan
from cardlab.workflows.report_data import SplitRun, split_run
from tests import records
from tests.card.database import BOARD, SERVER, whole
from tests.cli.run import command

PC = Device(key="cpu:9999", name="board", platform="cpu", cores=2)
OTHER = replace(records.EXECUTION, dtype="bfloat16", threads=2)


@pytest.fixture
def store(database: Path) -> Store:
    return whole(database)


def planned(store: Store) -> Plan:
    return plan(store, PlanOptions(uplink_mbps=50.0, downlink_mbps=100.0, server=SERVER.key, devices=(BOARD.key,)))


def ran(store: Store, made: Plan | None, device: Device = BOARD, **changes: object) -> SplitRun:
    """Two rounds as the plan has them, but for what is changed of the run or of its rounds."""
    of_run = {k: v for k, v in changes.items() if k in ("device", "execution")}
    of_round = {k: v for k, v in changes.items() if k not in of_run}
    run: Run = records.run(**{"kind": RunKind.TRAIN, "device": SERVER, "planned": (), "analysis": None, **of_run})
    store.runs.begin(run)
    decision = None if made is None else made.rounds[0].devices[0]
    for number in (1, 2):
        values: dict[str, object] = {
            "frequency_hz": None if decision is None else decision.frequency_hz,
            "energy_j": None,
            "predicted_energy_j": None if decision is None else decision.server_energy_j,
            **of_round,
        }
        store.rounds.add(
            TrainRound(
                uid=new_uid(),
                run=run.uid,
                plan=None if made is None else made.uid,
                device=device,
                number=number,
                cut=1 if decision is None else decision.cut,
                loss=5.0,
                delay_s=0.5,
                phases=(TrainPhase(term="device", observed_s=0.2, predicted_s=0.1),),
                **values,  # type: ignore[arg-type]
            )
        )
    return split_run(store, run.uid)


def test_a_run_as_it_was_planned_needs_no_word(store: Store) -> None:
    assert ran(store, planned(store)).notes == ()
    assert ran(store, None).notes == ()


def test_another_machine_of_the_same_name_is_named(store: Store) -> None:
    """Boards that were simulated, or measured elsewhere, and a PC that was given their names."""
    [said] = ran(store, planned(store), device=PC).notes
    assert "board was planned as board" in said and BOARD.platform in said and "another machine (cpu, cpu:9999)" in said
    [said] = ran_on_another_server(store)
    assert said.startswith("the server was planned as gpu") and "cpu:9999" in said


def ran_on_another_server(store: Store) -> tuple[str, ...]:
    made = planned(store)
    run = records.run(kind=RunKind.TRAIN, device=PC, planned=(), analysis=None)
    store.runs.begin(run)
    decision = made.rounds[0].devices[0]
    store.rounds.add(
        TrainRound(
            uid=new_uid(),
            run=run.uid,
            plan=made.uid,
            device=BOARD,
            number=1,
            cut=decision.cut,
            frequency_hz=decision.frequency_hz,
            loss=5.0,
            delay_s=0.5,
            energy_j=None,
            phases=(),
        )
    )
    return split_run(store, run.uid).notes


def test_another_execution_is_named_with_what_differs(store: Store) -> None:
    [said] = ran(store, planned(store), execution=OTHER).notes
    assert "server gpu was measured with dtype float32 and not bfloat16, threads 1 and not 2" in said


@pytest.mark.parametrize(("ran_hz", "word"), [(None, "could not be read"), (0.4e9, "and did not")])
def test_a_planned_frequency_that_was_not_applied_is_named(store: Store, ran_hz: float | None, word: str) -> None:
    made = planned(store)
    assert made.rounds[0].devices[0].frequency_hz != ran_hz
    [said] = ran(store, made, frequency_hz=ran_hz).notes
    assert "the server was to run at" in said and word in said


def test_the_command_says_it_too(store: Store, database: Path) -> None:
    ran(store, planned(store), device=PC, energy_j=12.0)
    store.close()
    said = command("card", "validate", "--db", str(database))
    assert said.code == 0 and "note: board was planned as" in said.out
    document = command("card", "validate", "--db", str(database), "--json").document
    assert len(document["notes"]) == 1 and document["energies"][0]["observed_j"] == 12.0


def test_energy_is_held_against_its_prediction(store: Store) -> None:
    made = planned(store)
    predicted_j = made.rounds[0].devices[0].server_energy_j
    assert made.energy == "round" and predicted_j is not None
    [check] = ran(store, made, energy_j=predicted_j / 0.8).energies
    assert check.error == pytest.approx(-0.2) and check.reason is None and check.rounds == 2
    assert (check.predicted_j, check.observed_j) == pytest.approx((predicted_j, predicted_j / 0.8))


def test_energy_that_cannot_be_compared_says_why(store: Store) -> None:
    made = planned(store)
    unread, unplanned = ran(store, made).energies[0], ran(store, None, energy_j=3.0).energies[0]
    assert unread.error is None and unread.reason == "the server's power was not measured"
    assert unplanned.error is None and unplanned.predicted_j is None and unplanned.reason == "no plan says it"
    # A codec that the plan does not have takes time and sends other bytes: the run then predicts no energy.
    [other] = ran(store, made, energy_j=3.0, predicted_energy_j=None).energies
    assert other.error is None and other.ci95 is None and "a codec that the plan has not" in (other.reason or "")
    busy = check_energies(ran(store, made, energy_j=3.0).rounds, replace(made, energy="busy"))[0]
    # The energy of its busy time is another quantity than what a meter reads over the round.
    assert busy.error is None and busy.predicted_j is None and "counts busy energy" in (busy.reason or "")


def test_energy_is_that_behind_a_calibrated_sensor(store: Store, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("reference_w,sensor_w\n" + "".join(f"{w},{0.5 * w + 1.0}\n" for w in (20, 40, 50, 60, 80)))
    made = planned(store)
    rail = store.runs.rails(SERVER.key)[0]
    calibrate_sensor(store, MeterOptions(reference=str(pairs), device=SERVER.key, rail=rail))
    found = ran(store, made, energy_j=31.0, power_w=31.0)
    assert found.energies[0].observed_j == pytest.approx(60.0)
    assert [r.power_w for r in found.rounds] == pytest.approx([60.0, 60.0])
    # The offset's share cannot be told without the power.
    assert ran(store, made, energy_j=31.0).energies[0].observed_j is None


def test_what_a_run_expects_says_that_its_fits_are_stale(store: Store) -> None:
    serving = Serving(SERVER, records.EXECUTION)
    assert "newer data" not in " ".join(expected_by_device(store, SETTINGS, serving, "10mbit").notes)
    newer: Profile = next(p for p in store.runs.select(device=SERVER.key) if p.points)
    points = [
        (
            PlannedPoint(index=p.index, requested_hz=p.requested_hz),
            p.operating or OperatingPoint(),
            [replace(m, uid=new_uid()) for m in p.measurements],
        )
        for p in newer.points
    ]
    store.runs.add_whole([(replace(newer.run, uid=new_uid()), points)])
    assert "do not know newer data" in " ".join(expected_by_device(store, SETTINGS, serving, "10mbit").notes)


SETTINGS = RunSettings(
    run="2" * 32, task=records.TASK, rounds=1, epochs=3, learning_rate=1e-3, wire_dtype="float32", cut=2
)


def test_fits_of_another_execution_predict_nothing(store: Store) -> None:
    alike = expected_by_device(store, SETTINGS, Serving(SERVER, records.EXECUTION), "10mbit")
    assert alike.predictions[BOARD.key].terms
    other = expected_by_device(store, SETTINGS, Serving(SERVER, OTHER), "10mbit")
    assert other.predictions == {} or not any(p.terms for p in other.predictions.values())
    assert (
        "nothing is predicted for gpu: gpu was measured with dtype float32 and not bfloat16, threads 1 and not 2"
        in other.notes[0]
    )


def test_a_device_is_known_by_its_key_whatever_it_is_called(store: Store) -> None:
    from cardlab.split.schedule import Schedule

    expected = expected_by_device(store, SETTINGS, Serving(replace(SERVER, name="renamed")), "10mbit").predictions
    schedule = Schedule(cut=2, expected=expected)
    assert schedule.at(1, "device-1", BOARD.key).expected.terms
    assert not schedule.at(1, BOARD.name, PC.key).expected.terms
