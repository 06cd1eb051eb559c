"""A board's sensor against an external meter: the correction reaches the fit, its doubt stays beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cardlab.calibrate.meter import calibrate_meter, read_pairs
from cardlab.core.errors import BadDataError
from tests.cli.run import command


def test_gain_and_offset_are_found_with_honest_errors() -> None:
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(200):
        true = rng.uniform(5, 60, 40)
        found = calibrate_meter(true.tolist(), (1.044 * true - 2.0 + rng.normal(0, 0.3, 40)).tolist())
        assert found.gain.ci95 is not None
        inside += found.gain.ci95[0] <= 1.044 <= found.gain.ci95[1]
    assert 0.90 <= inside / 200 <= 0.99
    assert found.corrected(1.044 * 30 - 2.0) == pytest.approx(30.0, rel=0.01)


@pytest.mark.parametrize(
    ("true", "expected"), [([10.0, 20.0, 30.0, 40.0], "4 pairs"), ([10.0, 10.1, 10.2, 10.3, 10.4], "only varied")]
)
def test_what_cannot_tell_gain_from_offset_is_refused(true: list[float], expected: str) -> None:
    with pytest.raises(BadDataError, match=expected):
        calibrate_meter(true, true)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ("1.200;30,5", "reference_w 1.200 can be a decimal point or thousands"),
        ("1_0;30", "reference_w is '1_0', not a number"),
    ],
)
def test_pairs_are_read_as_sweeps_are(tmp_path: Path, cells: str, expected: str) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text(f"reference_w;sensor_w\n{cells}\n")
    with pytest.raises(BadDataError, match=expected):
        read_pairs(file)


def test_later_fits_use_the_correction(tmp_path: Path, database: Path) -> None:
    db = ("--db", str(database))
    clocks = range(400, 1601, 150)
    true = [20 + 30e-9 * f**3 for f in clocks]
    sweep = tmp_path / "sweep.csv"
    rows = (f"{f},{1.05 * w + 1.5}" for f, w in zip(clocks, true, strict=True))
    sweep.write_text("frequency_mhz,power_w\n" + "\n".join(rows))
    assert command("calibrate", "import", str(sweep), "--device", "card", *db).code == 0
    pairs = tmp_path / "pairs.csv"
    lines = (f"{i},{w},{1.05 * w + 1.5}\n" for i, w in enumerate(true))
    pairs.write_text("time_s,reference_w,sensor_w\n" + "".join(lines))
    made = command("calibrate", "meter", "--reference", str(pairs), "--device", "card", *db, "--json").document
    assert made["gain"] == pytest.approx(1.05) and made["offset_w"] == pytest.approx(1.5)
    [constants] = command("calibrate", "fit", *db, "--json").document["constants"]
    assert constants["static_power_w"] == pytest.approx(20.0, rel=1e-3)
    pairs.write_text("reference_w,sensor_w\n10,ten\n")
    result = command("calibrate", "meter", "--reference", str(pairs), "--device", "card", *db)
    result.failed_in_one_line(1, "row 2", "sensor_w")
