"""If these fail, a plan that asks for an accuracy offers a codec that broke training, or one that nobody measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cardlab.calibrate.accuracy import codec_figure, fit_accuracy
from cardlab.card.problem.from_db import Request, gather
from cardlab.card.problem.scenario import SftSpec
from cardlab.card.schemes.sft.accuracies import Accuracies, accuracies_of
from cardlab.card.schemes.sft.from_db import instance_from_database
from cardlab.core.errors import CalibrationError, InfeasibleError, PlanError, TooFewPointsError
from cardlab.core.quantity import MEASURED
from cardlab.core.records.fit import Fit, FitSubject
from cardlab.core.records.measurement import RunKind
from cardlab.core.records.task import Task
from cardlab.db.store import Store
from tests import records
from tests.card.database import BOARD, SERVER, add_device, other_task, whole
from tests.card.test_codec_times import REQUEST, add_codec_profile

DENSE = [(1.0, 1.0, 0.0), (0.25, 0.999, 0.0), (0.12, 0.95, 0.0), (0.06, 0.6, 0.0)]


def subject_of(task: Task, codec: str) -> FitSubject:
    return FitSubject(
        device=BOARD.key,
        device_name=BOARD.name,
        task=task.uid,
        execution=records.EXECUTION.uid,
        quantity="accuracy",
        cut=2,
        codec=codec,
        provenance=MEASURED,
    )


def figure(task: Task, codec: str, rate: float, share: float) -> Fit:
    return codec_figure(rate, share, 0.01, 3, subject_of(task, codec))


def curve(task: Task, family: str, points: Sequence[tuple[float, float, float]] = DENSE) -> Fit:
    return fit_accuracy(points, subject_of(task, family))[0]


def keep(store: Store, task: Task, *fits: Fit, at: str = "2026-11-21T10:00:00.000000Z") -> None:
    store.runs.begin(replace(records.run(device=BOARD, task=task), kind=RunKind.ACCURACY))
    store.fits.add([(fit, ()) for fit in fits], at)


def offered(store: Store, target: float | None, compression: float | None = None) -> dict[str | None, float | None]:
    spec = SftSpec(accuracy_target=target)
    instance, _ = instance_from_database(store, gather(store, REQUEST), spec, compression)
    return {option.codec: option.accuracy for option in instance.problem.options}


@pytest.fixture
def store(database):
    with whole(database) as opened:
        for device in (BOARD, SERVER):
            add_codec_profile(opened, device)
        yield opened


def test_a_measured_codec_has_its_own_figure_and_not_that_of_a_curve(store) -> None:
    task = records.TASK
    keep(store, task, figure(task, "dense:8", 0.3, -0.11), curve(task, "dense"))
    found = offered(store, 0.5)
    assert found == {"dense:8": pytest.approx(-0.11), "none": 1.0}
    instance, used = instance_from_database(store, gather(store, REQUEST), SftSpec(accuracy_target=0.5), None)
    from cardlab.card.schemes.sft.planning import plan_instance

    plan = plan_instance(instance, gather(store, REQUEST).inputs)
    assert {d.codec for r in plan.rounds for d in r.devices} == {"none"} and len(used) == 2


def test_a_curve_speaks_for_its_own_family_alone(store) -> None:
    task = records.TASK
    keep(store, task, curve(task, "topk"))
    assert offered(store, 0.5) == {"dense:8": None, "none": 1.0}
    keep(store, task, curve(task, "dense"))
    assert offered(store, 0.5)["dense:8"] == pytest.approx(0.999, abs=0.02)


def test_a_curve_is_asked_only_where_it_was_measured() -> None:
    task = records.TASK
    found = Accuracies(curves={"dense": curve(task, "dense")})
    assert found.of("dense:2", 0.06)[0] == pytest.approx(0.6, abs=0.05)
    assert found.of("dense:1", 0.03) == (None, None) and found.of("topk:0.3:8", 0.3) == (None, None)


def test_what_lies_below_a_codec_that_broke_training_is_on_no_curve() -> None:
    points = [*DENSE, (0.05, 0.5, 0.0), (0.055, -0.3, 0.0), (0.04, 0.4, 0.0)]
    fit, left_out = fit_accuracy(points, FitSubject(codec="dense"))
    assert fit.x.min == 0.06 and fit.n_points == 4 and len(left_out) == 3
    with pytest.raises(TooFewPointsError):
        fit_accuracy([*DENSE, (0.07, -0.3, 0.0)], FitSubject(codec="dense"))


@pytest.mark.parametrize(
    "points",
    [
        [(1.0, 1.0, 0.0), (0.3, 1.001, 0.0), (0.2, 1.001, 0.0), (0.08, 0.75, 0.0)],
        [(1.0, 9.0, 0.0), (0.3, 8.0, 0.0), (0.2, 7.0, 0.0), (0.1, 4.0, 0.0)],
    ],
)
def test_points_that_determine_no_curve_make_none(points) -> None:
    with pytest.raises(CalibrationError, match="determine no curve"):
        fit_accuracy(points, FitSubject(codec="dense"))


def test_a_curve_of_several_families_is_not_used(store) -> None:
    task = records.TASK
    keep(store, task, replace(curve(task, "x"), codec=None))
    with pytest.raises(InfeasibleError, match="card accuracy"):
        offered(store, 0.5)
    assert set(offered(store, None)) == {"none"}


def test_an_accuracy_of_another_optimizer_is_taken_and_said(store) -> None:
    task, other = records.TASK, replace(records.TASK, optimizer="adamw", batch=8)
    keep(store, other, figure(other, "dense:8", 0.3, 0.9))
    assert offered(store, 0.5) == {"dense:8": pytest.approx(0.9), "none": 1.0}
    instance, _ = instance_from_database(store, gather(store, REQUEST), SftSpec(accuracy_target=0.5), None)
    assert any("keeps of" in line and "adamw" in line for line in instance.assumed)
    # Its own comes first, however old; another LoRA is another matter.
    keep(store, task, figure(task, "dense:8", 0.3, 0.7), at="2026-11-20T10:00:00.000000Z")
    assert offered(store, 0.5)["dense:8"] == pytest.approx(0.7)
    assert not accuracies_of(store, replace(task, lora=replace(task.lora, rank=64))).known


def test_a_measured_figure_has_the_interval_of_its_seeds() -> None:
    fit = figure(records.TASK, "topk:0.3:8", 0.3, -0.11)
    found = fit.predict(0.3)
    assert found.value == -0.11 and found.stderr == pytest.approx(0.01)
    one = codec_figure(0.3, 0.5, 0.0, 1, FitSubject(codec="dense:8"))
    assert one.predict(0.3).value == 0.5 and one.predict(0.3).stderr is None


def test_figures_come_back_from_the_store_as_they_were(store) -> None:
    task = records.TASK
    fits = (figure(task, "topk:0.3:8", 0.3, -0.11), curve(task, "dense"))
    keep(store, task, *fits)
    found = {s.fit.codec: s.fit for s in store.fits.newest(quantity="accuracy", task=task.uid)}
    assert found == {fit.codec: fit for fit in fits}


def test_two_tasks_that_differ_in_nothing_but_the_optimizer_are_told_apart(database) -> None:
    with whole(database) as store:
        adamw = other_task(optimizer="adamw")
        for device in (BOARD, SERVER):
            add_device(store, device, task=adamw)
        with pytest.raises(PlanError, match=f"adamw: {adamw.uid[:8]}.*--task ID"):
            gather(store, REQUEST)
        asked: Request = replace(REQUEST, task=records.TASK.uid[:8])
        assert gather(store, asked).task.optimizer == "sgd"
