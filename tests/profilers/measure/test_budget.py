# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""The time somebody gave bounds the whole command, and what it does not hold is said and resumed, not left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import cardlab.workflows.profile as profiling
from cardlab.core.errors import OutOfMemoryError, UsageError
from cardlab.core.records.measurement import WHOLE_STEP, Profile
from cardlab.db import open_store
from cardlab.db.store import Store
from cardlab.profilers.devices import open_platform
from cardlab.profilers.devices.simulated.device import SimulatedDevice
from cardlab.profilers.measure.deadline import BudgetSpent, Deadline
from cardlab.profilers.measure.wholestep import time_whole_step
from cardlab.profilers.runtime import analyse, resolve_execution, resolve_task
from cardlab.profilers.runtime.workbench import Workload
from cardlab.workflows.options.profile import ProfileOptions
from cardlab.workflows.profile import dry_run, profile
from tests.cli.run import command

pytestmark = pytest.mark.torch

SWEEP = ProfileOptions(model="llama-3.2-1b", platform="simulated:rtx-4060-ti", frequencies="6")


@pytest.fixture
def store() -> Iterator[Store]:
    with open_store(":memory:") as opened:
        yield opened


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[SimulatedDevice]:
    """Devices that were opened, whose time tells how long the command was."""
    found: list[SimulatedDevice] = []

    def kept(name: str, label: str | None = None) -> object:
        device = open_platform(name, label=label)
        assert isinstance(device, SimulatedDevice)
        found.append(device)
        return device

    monkeypatch.setattr(profiling, "open_platform", kept)
    return found


def measured(store: Store, options: ProfileOptions) -> tuple[Profile, list[str]]:
    said: list[str] = []
    return profile(store, options, say=said.append), said


def test_a_budget_bounds_the_sweep_and_not_each_point(store: Store, seen: list[SimulatedDevice]) -> None:
    """Half an hour for six frequencies took more than three hours."""
    found, said = measured(store, replace(SWEEP, budget="30m"))
    assert found.complete and said == []
    assert seen[0].timer.now() <= 1800.0


def test_what_the_budget_does_not_hold_is_said_and_resumed(store: Store, seen: list[SimulatedDevice]) -> None:
    found, said = measured(store, replace(SWEEP, budget="3m"))
    assert seen[0].timer.now() <= 180.0
    done = [point.index for point in found.points if point.done]
    assert not found.complete and 0 < len(done) < len(found.run.planned) == 8
    assert f"the budget of 3m ended with {len(done)} of 8 operating point(s)" in said[0] and "--resume" in said[0]
    rest, said = measured(store, replace(SWEEP, resume=True))
    assert rest.run.uid == found.run.uid and rest.complete and said == []


@pytest.mark.parametrize("dry", [True, False])
def test_a_budget_that_holds_no_point_is_refused_with_one_that_does(store: Store, dry: bool) -> None:
    with pytest.raises(UsageError, match="bounds the whole command") as refused:
        _ = dry_run(replace(SWEEP, budget="5s")) if dry else profile(store, replace(SWEEP, budget="5s"))
    least = str(refused.value.remedy).split()[2]
    found, _ = measured(store, replace(SWEEP, budget=least))
    assert sum(point.done for point in found.points) >= 1


def test_repeats_and_a_budget_contradict_each_other(store: Store) -> None:
    with pytest.raises(UsageError, match="--repeats takes so many samples"):
        profile(store, replace(SWEEP, budget="30m", repeats=5))


@pytest.mark.parametrize(
    "options",
    [
        SWEEP,
        replace(SWEEP, model="llama-3.1-8b", batch=4),
        replace(SWEEP, repeats=200),
        replace(SWEEP, platform="simulated:orin-nano", frequencies="2"),
    ],
    ids=["small", "large", "repeats", "board"],
)
def test_a_dry_run_says_how_long_it_is(store: Store, seen: list[SimulatedDevice], options: ProfileOptions) -> None:
    """About 60 s for any model, whatever its size, is no estimate."""
    estimated_s = dry_run(options).estimated_s
    measured(store, options)
    assert estimated_s == pytest.approx(seen[-1].timer.now(), rel=0.5)


def test_a_dry_run_with_a_budget_says_how_many_points_it_holds() -> None:
    whole, part = dry_run(SWEEP), dry_run(replace(SWEEP, budget="3m"))
    assert whole.reached == 8 and part.estimated_s == 180.0 and 0 < part.reached < 8
    words = ("--model", "llama-3.2-1b", "--platform", "simulated:rtx-4060-ti", "--frequencies", "6", "--budget", "3m")
    said = command("profile-device", *words, "--dry-run")
    assert f"the budget holds about {part.reached} of them" in said.out and "virtual time" in said.out


@pytest.mark.parametrize("wanted", ["1500", "157"])
def test_a_frequency_without_its_unit_is_no_number_of_frequencies(wanted: str) -> None:
    with pytest.raises(UsageError, match="a number of frequencies, and this device offers 156") as refused:
        dry_run(replace(SWEEP, frequencies=wanted))
    assert f"{wanted}MHz" in str(refused.value.remedy)


def test_a_budget_bounds_the_whole_step_too() -> None:
    task, execution = resolve_task("tiny-llama", sequence=16), resolve_execution(dtype="float32")
    workload = Workload(execution=execution, task=task, analysis=analyse(task, execution, overhead_bytes=0))
    timer = SimulatedDevice("orin-nano").timer
    with pytest.raises(BudgetSpent):
        time_whole_step(workload, "cpu", deadline=Deadline.after(timer, -1.0))


def test_a_whole_step_that_does_not_fit_leaves_a_complete_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It left a run that --resume could never complete."""
    import cardlab.profilers.measure.session as session

    def out_of_memory(*given: object, **more: object) -> None:
        raise OutOfMemoryError("the whole step does not fit", remedy="use a smaller batch")

    monkeypatch.setattr(session, "time_whole_step", out_of_memory)
    found, _ = measured(store, replace(SWEEP, frequencies="2", repeats=3))
    assert found.complete
    lacking = [m for p in found.points for m in p.measurements if m.segment == WHOLE_STEP]
    assert [(m.estimate, m.flags) for m in lacking] == [(None, ("out of memory",))] * 2
    assert found.step_check.whole_step == {"forward": None, "backward": None}


def test_torch_out_of_memory_in_the_child_is_that(tmp_path: Path) -> None:
    import torch

    from cardlab.profilers.runtime.segments import is_out_of_memory

    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
