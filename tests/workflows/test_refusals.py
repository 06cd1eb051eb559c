"""If these fail, Python callers get past what the command line refuses, or something is kept that should not be."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import cardlab
from cardlab.core.errors import UsageError
from cardlab.workflows import FitOptions, PlanOptions, PredictOptions, ProfileOptions, SimulateOptions
from tests.cli.run import command


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (PlanOptions, {"local_epochs": 1.5}),
        (PlanOptions, {"weight": "0.2"}),
        (PlanOptions, {"rounds": "2"}),
        (PlanOptions, {"uplink_mbps": True}),
        (PlanOptions, {"uplink_mbps": math.inf}),
        (PlanOptions, {"devices": "orin-nano"}),
        (ProfileOptions, {"frequencies": [6e8]}),
        (SimulateOptions, {"devices": 0}),
        (PredictOptions, {"device": "x", "frequency_mhz": None}),
    ],
)
def test_an_option_of_another_type_or_out_of_bounds_is_refused(options: type, wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"{list(wrong)[-1]} is"):
        options(**wrong)
    assert PlanOptions(weight=1, devices=("a",)).weight == 1


def test_a_store_in_memory_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with cardlab.open_store(":memory:") as store:
            assert store.runs.summaries() == ()
            cardlab.profile(store, ProfileOptions(load_command="true", platform="cpu", repeats=1, readonly=True))
            assert len(store.runs.summaries()) == 1
    assert [p for p in tmp_path.iterdir() if "memory" in p.name] == []
    command("card", "plans", "--db", ":memory:")
    command("calibrate", "fit", "--db", ":memory:").failed_in_one_line(2, "gone when the command ends")


def test_a_dry_run_never_measures(tmp_path: Path) -> None:
    with cardlab.open_store(tmp_path / "x.db") as store:
        with pytest.raises(UsageError, match="dry_run measures nothing"):
            cardlab.profile(store, ProfileOptions(load_command="true", platform="cpu", dry_run=True))
        assert store.runs.summaries() == ()


def test_what_is_no_store_is_named() -> None:
    with pytest.raises(UsageError, match="is no store"):
        cardlab.plan("a.db", PlanOptions())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="is no store"):
        cardlab.fit("a.db", FitOptions())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "words",
    [
        ("--from-db", "--scheme", "sft", "--weight", "0.3"),
        ("--from-db", "--min-accuracy", "0.4"),
        ("--from-db", "--uplink-mbps", "5", "--downlink-mbps", "9", "--channel", "good"),
    ],
)
def test_a_plan_from_the_database_refuses_what_has_no_effect(words: tuple[str, ...], tmp_path: Path) -> None:
    with cardlab.open_store(tmp_path / "x.db"):
        pass
    command("card", "plan", *words, "--db", str(tmp_path / "x.db")).failed_in_one_line(2, "no effect")


def test_simulate_refuses_a_weight_with_sft() -> None:
    command("card", "simulate", "--scheme", "sft", "--weight", "0.3").failed_in_one_line(2, "--weight has no effect")


def test_a_device_refuses_frequencies_and_windows_that_are_none() -> None:
    with cardlab.open_device("simulated:rtx-4060-ti") as gpu:
        with pytest.raises(UsageError, match="no frequency"), gpu.locked(math.nan):
            pass
        for seconds in (-1.0, math.nan, math.inf):
            with pytest.raises(UsageError, match="window"):
                gpu.measure(lambda: None, seconds)
        with pytest.raises(UsageError, match="cannot be run"):
            gpu.measure(None, 1.0)  # type: ignore[arg-type]
