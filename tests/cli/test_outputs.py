"""What a command writes takes no other file's name and no other file's place."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from cardlab.core.errors import UsageError
from cardlab.db import open_store
from cardlab.reports.figures import save_figure
from cardlab.reports.views.parts import Axis, Chart, Series
from cardlab.workflows.exchange import import_sweep
from cardlab.workflows.options.calibrate import ImportOptions
from tests.cli.run import command

EXPORT, REPORT, AGENT = ("calibrate", "export"), ("calibrate", "report"), ("profile-device", "agent")
CAPTURE = ("profile-device", "capture")


@pytest.fixture
def stored(tmp_path: Path, database: Path) -> tuple[str, ...]:
    """The option that names a database with a sweep in it."""
    sweep = tmp_path / "sweep.csv"
    sweep.write_text("frequency_mhz,power_w\n600,30\n900,41\n1200,58\n")
    with open_store(database) as store:
        import_sweep(store, ImportOptions(file=str(sweep), device="card"))
    return ("--db", str(database))


def db_of(words: tuple[str, ...], stored: tuple[str, ...]) -> tuple[str, ...]:
    return stored if words[0] != "profile-device" else ()


@pytest.mark.parametrize(
    ("words", "name", "says"),
    [
        (EXPORT, "keep.txt", "is no name of a bundle; end it in one of: .cardlab, .zip, .bundle"),
        (EXPORT, "keep.db", "is no name of a bundle"),
        (REPORT, "keep.csv", "is no name of a report; end it in one of: .html, .htm"),
        (("card", "report"), "keep.pdf", "is no name of a report"),
        (AGENT, "keep.json", "is no name of an agent; end it in one of: .pyz, .py, .zip"),
        (CAPTURE, "keep.html", "is no name of a capture; end it in one of: .json"),
    ],
)
def test_a_name_of_another_kind_of_file_is_refused(
    words: tuple[str, ...], name: str, says: str, tmp_path: Path, stored: tuple[str, ...]
) -> None:
    out = tmp_path / name
    for held in (None, "mine"):
        if held is not None:
            out.write_text(held)
        command(*words, "--out", str(out), *db_of(words, stored)).failed_in_one_line(2, says)
        assert (out.read_text() if out.exists() else None) == held


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (EXPORT, "x.zip"),
        (EXPORT, "x.cardlab"),
        (EXPORT, "x"),
        (REPORT, "x.html"),
        (REPORT, "x"),
        (AGENT, "x.pyz"),
        (CAPTURE, "x.json"),
    ],
)
def test_what_somebody_else_wrote_stays(
    words: tuple[str, ...], name: str, tmp_path: Path, stored: tuple[str, ...]
) -> None:
    out = tmp_path / name
    line = (*words, "--out", str(out), *db_of(words, stored))
    out.write_text("mine\n")
    command(*line).failed_in_one_line(2, "is there already", "name another file")
    with zipfile.ZipFile(out, "w") as other:
        other.writestr("mine.txt", "mine")
    before = out.read_bytes()
    command(*line).failed_in_one_line(2, "is there already")
    assert out.read_bytes() == before
    # An empty file, as mktemp makes it, and what the same command wrote before are written anew.
    out.write_bytes(b"")
    assert command(*line).code == 0
    first = out.stat().st_size
    assert command(*line).code == 0 and out.stat().st_size == pytest.approx(first, rel=0.01)


def test_a_draft_is_nobody_elses_file(tmp_path: Path, stored: tuple[str, ...]) -> None:
    mine = tmp_path / "all.zip.part"
    mine.write_text("mine")
    assert command(*EXPORT, "--out", str(tmp_path / "all.zip"), *stored).code == 0
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_a_picture_takes_the_place_of_a_picture_of_cardlab_only(ending: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    series = Series(name="measured", x=(1.0, 2.0), y=(3.0, 4.0), style="line", colour=0)
    axis = Axis(label="time", unit="s", shown="ms")
    chart = Chart(key="x", title="x", note="", x=axis, y=axis, series=(series,))
    out = tmp_path / f"plot{ending}"
    for _ in range(2):
        save_figure((chart,), str(out))
    out.write_bytes(b"\x89PNG of a holiday")
    with pytest.raises(UsageError, match="is there already, and is no picture of cardlab"):
        save_figure((chart,), str(out))


def test_a_rail_that_the_device_does_not_have_is_refused(tmp_path: Path, stored: tuple[str, ...]) -> None:
    """If this fails, a meter is calibrated that no fit ever uses."""
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("reference_w,sensor_w\n" + "".join(f"{10 * i},{10.5 * i}\n" for i in range(1, 8)))
    line = ("calibrate", "meter", "--reference", str(pairs), "--device", "card", *stored)
    refused = command(*line, "--rail", "GPU")
    refused.failed_in_one_line(2, "no power of 'card' was measured on a rail 'GPU'", "give --rail board")
    assert command(*line, "--rail", "board").code == 0
    # What a calibration is stored under is no rail that was measured.
    command(*line, "--rail", "GPU").failed_in_one_line(2, "give --rail board")
    times = tmp_path / "times.csv"
    times.write_text("frequency_mhz,latency_s\n600,0.3\n900,0.2\n")
    assert command("calibrate", "import", str(times), "--device", "clock", *stored).code == 0
    line = ("calibrate", "meter", "--reference", str(pairs), "--device", "clock", *stored)
    command(*line).failed_in_one_line(2, "no power of 'clock' was measured", "calibrate import")


def test_an_import_of_the_same_says_so_and_succeeds(tmp_path: Path, stored: tuple[str, ...]) -> None:
    line = ("calibrate", "import", str(tmp_path / "sweep.csv"), "--device", "card", *stored)
    again = command(*line)
    assert again.code == 0 and "was imported before as run" in again.out and "nothing new" in again.out
    document = json.loads(command(*line, "--json").out)
    assert (document["runs"], document["points"]) == ([], 0)
