# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a followed run shows what it was not, shows a round twice, or tells somebody outside of it."""

from __future__ import annotations

import csv
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from collections.abc import Sequence

from cardlab.core.errors import MissingDependencyError, UsageError
from cardlab.core.records.device import Device
from cardlab.core.records.plan import TERMS
from cardlab.core.records.training import TrainQuality, qualities
from cardlab.profilers.runtime import resolve_task
from cardlab.split.journal import Change, Progress
from cardlab.split.settings import RunSettings
from cardlab.workflows import reporting
from cardlab.workflows.reporting import COLUMNS, Reports, check_reports, open_reports, targets_of
from tests.cli.run import command

SETTINGS = RunSettings(
    run="a" * 32,
    task=resolve_task("tiny-llama", batch=2, sequence=16),
    rounds=4,
    epochs=3,
    learning_rate=0.1,
    schedule="linear",
    wire_dtype="float32",
)


def turn(number: int, device: str = "one", **more: Any) -> Any:
    """A finished turn as far as it is reported."""
    known = dict.fromkeys(("energy_j", "power_w", "frequency_hz", "rtt_s", "device_energy_j", "device_frequency_hz"))
    sizes = {"up_bytes": 100, "down_bytes": 50, "adapter_bytes": 7, "cut": 2}
    times = {"delay_s": 2.0, "waiting_s": 0.5, "elapsed_s": 2.5, "terms": dict.fromkeys(TERMS, 0.25)}
    losses = {"losses": (1.0, 2.0, 3.0), "loss": 4.0 / number}
    return SimpleNamespace(round=number, device=device, **{**known, **sizes, **times, **losses, **more})


def progress(turns: Sequence[Any] = (), judged: tuple[TrainQuality, ...] = ()) -> Progress:
    return Progress(settings=SETTINGS, started_at="2026-11-21T10:00:00Z", turns=tuple(turns), judged=judged)


def judged(number: int, loss: float, device: str = "one", tokens: int = 100) -> TrainQuality:
    return TrainQuality(
        uid=f"{number}-{device}",
        run=SETTINGS.run,
        device=Device(key=device, name=device, platform="cpu"),
        number=number,
        cut=1,
        loss=loss,
        tokens=tokens,
        correct=tokens // 4,
        elapsed_s=0.5,
        up_bytes=1000,
    )


def test_held_out_rows_are_reported_once_a_round_and_again_when_the_run_goes_on(tmp_path: Path) -> None:
    found = (judged(0, 5.0), judged(1, 4.0), judged(1, 1.0, "two", 300))
    reports = open_reports("csv", tmp_path, progress([turn(1), turn(1, "two"), turn(2)], found))
    reports.judge(qualities([judged(2, 3.0)])[2])
    reports.close()
    rows = table(tmp_path)
    assert [(r["cardlab/round"], r["cardlab/device"], r["eval/loss"], r["train/loss"] != "") for r in rows] == [
        ("0", "", "5.0", False),
        ("1", "one", "", True),
        ("1", "two", "", True),
        # Every token counts the same: 100 of one, 300 of the other.
        ("1", "", "1.75", False),
        ("2", "one", "", True),
        ("2", "", "3.0", False),
    ]
    assert rows[3]["eval/mean_token_accuracy"] == "0.25"


def test_a_run_that_went_on_reports_each_round_at_its_own_rate(tmp_path: Path) -> None:
    settings = replace(SETTINGS, schedule="constant", learning_rate=0.5, accumulate=3)
    turns = (turn(1), turn(2))
    began = progress(turns)
    went_on = replace(began, settings=settings, rates=((1, 0.1), (2, 0.5)))
    open_reports("csv", tmp_path, went_on).close()
    rows = table(tmp_path)
    assert [row["train/learning_rate"] for row in rows] == ["0.1", "0.5"]
    # Three mini-batches make a step.
    assert [row["train/global_step"] for row in rows] == ["1", "2"]
    # What fell towards another end is not known any more.
    longer = Change(after=1, turns=1, at="2026-11-21T10:00:00Z", rounds=4)
    open_reports("csv", tmp_path, replace(began, changes=(longer,))).close()
    assert [row["train/learning_rate"] == "" for row in table(tmp_path)] == [True, False]


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_names_are_those_of_the_trainer(tmp_path: Path) -> None:
    reports = Reports(settings=SETTINGS, targets=[])
    first = reports.entry(turn(1, energy_j=3.0, grad_norm=0.25))
    assert first.values["train/loss"] == 4.0
    assert first.values["train/grad_norm"] == 0.25 and first.values["train/global_step"] == first.step == 3
    # The rate of the last of its mini-batches: 2 of 12 are done.
    assert first.values["train/learning_rate"] == pytest.approx(0.1 * (1 - 2 / 12))
    assert first.values["cardlab/uplink_s"] == 0.25 and first.values["cardlab/server_energy_j"] == 3.0
    assert not {"cardlab/rtt_s", "train/epoch"} & set(first.values)
    assert first.by_device()["cardlab/one/up_bytes"] == 100 and "train/loss" in first.by_device()
    # One after the other the adapters learn from all; in parallel each copy from its own.
    assert reports.entry(turn(1, "two")).step == 6
    parallel = Reports(settings=replace(SETTINGS, parallel=True), targets=[])
    assert [parallel.entry(turn(1, name)).step for name in ("one", "two")] == [3, 3]


def test_a_table_goes_on_without_doubling_and_with_what_a_crash_lost(tmp_path: Path) -> None:
    reports = open_reports("csv", tmp_path, progress())
    reports.add(turn(1))
    reports.close()
    # The second was finished and kept, and the process died before it was reported.
    again = open_reports("csv", tmp_path, progress([turn(1), turn(2)]))
    again.add(turn(3, "two", grad_norm=9.0))
    rows = table(tmp_path)
    again.close()
    assert [(row["cardlab/round"], row["train/global_step"]) for row in rows] == [("1", "3"), ("2", "6"), ("3", "9")]
    assert tuple(rows[0]) == COLUMNS and rows[0]["train/grad_norm"] == "" and rows[2]["train/grad_norm"] == "9.0"
    assert rows[2]["cardlab/device"] == "two" and {row["run"] for row in rows} == {"a" * 32}
    (tmp_path / "metrics.csv").write_text("mine,and,not,cardlab's\n")
    with pytest.raises(UsageError, match="is no list of metrics of cardlab; move it away"):
        open_reports("csv", tmp_path, progress())


def test_targets_are_named_and_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert targets_of("none") == targets_of("") == () and targets_of("csv, wandb") == ("csv", "wandb")
    for text in ("mlflow", "csv,none", "csv,", "all"):
        with pytest.raises(UsageError, match="nothing reports to"):
            targets_of(text)
    with pytest.raises(UsageError, match="twice"):
        targets_of("csv,csv")
    monkeypatch.setattr(reporting, "find_spec", lambda _: None)
    for name in ("tensorboard", "trackio", "wandb"):
        with pytest.raises(MissingDependencyError) as caught:
            check_reports(f"csv,{name}")
        assert caught.value.remedy == f"pip install {name}"
    check_reports("csv")


def test_a_target_that_fails_is_said_once_and_the_others_go_on(tmp_path: Path) -> None:
    said: list[str] = []
    reports = open_reports("csv", tmp_path, progress(), say=said.append)

    class Broken:
        name = "broken"

        def add(self, entry: object) -> None:
            raise RuntimeError("no\nway")

        def close(self) -> None:
            raise AssertionError("closed")

    reports.targets.insert(0, Broken())
    reports.add(turn(1))
    reports.add(turn(2))
    reports.close()
    assert said == ["nothing more is reported to broken: no way"] and len(table(tmp_path)) == 2


def test_a_local_run_is_reported_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = ("card", "run", "--local", "--model", "tiny-llama", "--cut", "2", "--seq", "16", "--rounds", "2")
    command(*run, "--report-to", "mlflow").failed_in_one_line(2, "nothing reports to 'mlflow'")
    assert not (tmp_path / "card-run").exists()
    done = command(*run, "--devices", "2", "--report-to", "csv", "--json")
    assert done.code == 0, done.err
    rows = table(tmp_path / "card-run")
    assert [(row["cardlab/round"], row["cardlab/device"]) for row in rows] == [
        (str(number), f"device-{n}") for number in (1, 2) for n in (1, 2)
    ]
    shown = [device for one in done.document["rounds"] for device in one["devices"]]
    assert [float(row["train/loss"]) for row in rows] == [device["loss"] for device in shown]
    assert [float(row["cardlab/delay_s"]) for row in rows] == [device["delay_s"] for device in shown]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Addresses beyond this machine that somebody asked for."""
    asked: list[object] = []
    connect = socket.socket.connect

    def watched(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            asked.append(address)
            raise OSError("no network in this test")
        connect(self, address)

    def looked_up(host: Any, *rest: Any, **more: Any) -> Any:
        if host not in (None, "127.0.0.1", "::1", "localhost", "0.0.0.0", b"127.0.0.1", b"localhost"):
            asked.append(host)
            raise socket.gaierror("no network in this test")
        return looking(host, *rest, **more)

    looking = socket.getaddrinfo
    monkeypatch.setattr(socket.socket, "connect", watched)
    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    return asked


def test_tensorboard_has_every_round_once(tmp_path: Path, no_network: list[object]) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reports = open_reports("tensorboard", tmp_path, progress())
    reports.add(turn(1))
    reports.close()
    again = open_reports("tensorboard", tmp_path, progress([turn(1), turn(2)]))
    again.add(turn(3))
    again.close()
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(event.step, event.value) for event in read.Scalars("train/loss")] == [
        (3, 4.0),
        (6, 2.0),
        (9, pytest.approx(4 / 3)),
    ]
    assert len(read.Scalars("cardlab/one/delay_s")) == 3 and no_network == []


def test_wandb_is_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[object]) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    said: list[str] = []
    reports = open_reports("wandb", tmp_path, progress(), say=said.append)
    reports.add(turn(1))
    reports.close()
    assert said == [] and no_network == []
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb"))


def test_trackio_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.delenv("TRACKIO_SPACE_ID", raising=False)
    pytest.importorskip("trackio")
    said: list[str] = []
    reports = open_reports("trackio", tmp_path, progress(), say=said.append)
    reports.add(turn(1))
    reports.close()
    assert said == [] and no_network == []
    # What a command answers is alone on its output.
    assert capsys.readouterr().out == ""
    assert any(path.suffix == ".db" for path in (tmp_path / "trackio").rglob("*"))
