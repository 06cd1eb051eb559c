"""Sweeps from elsewhere: taken whole and fitted, or refused with the row and nothing stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from cardlab.db import open_store
from tests.cli.run import command
from tests.conftest import DATA, missing

HEADER = "frequency_mhz,power_w,latency_s,workload\n"
ROWS = "".join(f"{f},{20 + 30e-9 * f**3:.3f},{2 / f + 1e-4:.7f},gemm\n" for f in range(400, 1601, 150))


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_import_fit_predict_export_merge(tmp_path: Path, database: Path) -> None:
    db = ("--db", str(database))
    sweep = write(tmp_path / "sweep.csv", HEADER + ROWS)
    assert command("calibrate", "import", sweep, "--device", "lab-card", *db, "--json").document["points"] == 9
    fits = command("calibrate", "fit", *db, "--json").document
    assert all(f["provenance"]["origins"] == ["imported"] for f in fits["fits"])
    assert {f["quantity"] for f in fits["fits"] if f["selected"]} == {"power", "latency"}
    [constants] = fits["constants"]
    assert constants["kappa_w_per_hz3"] == pytest.approx(30e-27, rel=0.02)
    assert constants["static_power_w"] == pytest.approx(20.0, rel=0.02)
    words = ("predict", "--device", "lab-card", "--frequency-mhz", "1000", *db, "--json")
    predictions = {p["quantity"]: p for p in command("calibrate", *words).document["predictions"]}
    assert predictions["power"]["value"] == pytest.approx(50.0, rel=0.01)
    assert predictions["latency"]["value"] == pytest.approx(2.1e-3, rel=0.01)
    bundle = str(tmp_path / "lab.bundle")
    assert command("calibrate", "export", "--out", bundle, *db).code == 0
    home = ("--db", str(tmp_path / "home.db"))
    assert command("calibrate", "merge", bundle, bundle, *home).code == 0
    assert command("calibrate", *words[:5], *home, "--json").document["predictions"] == list(predictions.values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        ("mhz,watts\n1,2\n", "row 1"),
        (HEADER, "no rows"),
        (HEADER + "400,much,1,g\n", "row 2"),
        (HEADER + "400,20,1,g\n-500,20,1,g\n", "row 3"),
        (HEADER + "400,20,1,g\n0,20,1,g\n", "row 3"),
        (HEADER + "400,nan,1,g\n", "row 2"),
        (HEADER + "400,20,1,g\n400,21,1,g\n", "row 3"),
        (HEADER + "400,20,1,g\n500,21,1,\n", "row 3"),
        (HEADER + "400,20,1\n", "row 2"),
    ],
)
def test_a_bad_file_names_the_row_and_stores_nothing(text: str, expected: str, tmp_path: Path, database: Path) -> None:
    open_store(database).close()
    file = write(tmp_path / "bad.csv", text)
    result = command("calibrate", "import", file, "--device", "x", "--db", str(database))
    result.failed_in_one_line(1, expected)
    with open_store(database, create=False) as store:
        assert store.runs.summaries() == ()


def test_one_point_is_imported_and_says_what_it_cannot_give(tmp_path: Path, database: Path) -> None:
    file = write(tmp_path / "one.csv", HEADER + "400,20,1,g\n")
    db = ("--db", str(database))
    assert command("calibrate", "import", file, "--device", "x", *db).code == 0
    fits = command("calibrate", "fit", *db, "--json").document["fits"]
    assert {f["law"] for f in fits if f["selected"]} == {"constant"}
    command("calibrate", "fit", "--law", "ridge", *db).failed_in_one_line(1, "frequencies", "--law auto")


def test_a_real_sweep_from_elsewhere(tmp_path: Path, database: Path) -> None:
    source = DATA / "power-sweeps.csv"
    if not source.exists():
        pytest.skip("the shared measurements are not here")
    rows = [line.split(",") for line in source.read_text().splitlines()[1:]]
    a4000 = [r for r in rows if "A4000" in r[1]]
    if not a4000:
        missing("no A4000 sweep in the shared measurements")
    lines = "".join(f"{r[5]},{r[6]},{float(r[7]) / 1e3},fma\n" for r in a4000)
    db = ("--db", str(database))
    file = write(tmp_path / "a4000.csv", HEADER + lines)
    assert command("calibrate", "import", file, "--device", "RTX A4000", *db).code == 0
    fits = command("calibrate", "fit", *db, "--json").document["fits"]
    [power] = [f for f in fits if f["quantity"] == "power" and f["selected"]]
    assert power["loo_mape"] <= 0.02
    [cubic] = [f for f in fits if f["law"] == "cubic"]
    assert cubic["mape"] > 0.3 and not cubic["selected"]


def test_a_load_of_ones_own_is_measured_and_a_bad_one_is_named(database: Path) -> None:
    db = ("--db", str(database))
    good = ("--load-command", "sleep 0.01", "--platform", "cpu", "--repeats", "5")
    document = command("profile-device", *good, *db, "--json").document
    assert document["workload"] == "sleep 0.01" and document["task"] is None and document["complete"]
    [load] = [m for m in document["points"][0]["other"] if m["segment"] == "load"]
    assert 0.01 <= load["value"] < 1.0
    assert "sleep 0.01" in command("profile-device", "show", *db).out
    for bad, expected in (("no-such-program-here", "cannot start"), ("false", "exit code 1"), ("", "empty")):
        words = ("--load-command", bad, "--platform", "cpu", "--repeats", "1")
        command("profile-device", *words, *db).failed_in_one_line(1, expected)
    command("profile-device", "--model", "gpt2", *good, *db).failed_in_one_line(2, "--load-command")
