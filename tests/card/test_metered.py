"""If these fail, a power sensor that was calibrated counts in some numbers of a plan and not in others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.run import command

pytestmark = pytest.mark.torch
BOARD, SERVER = "orin-nx", "rtx-4060-ti"


def pairs(folder: Path, gain: float) -> str:
    file = folder / f"gain-{gain}.csv"
    file.write_text("reference_w,sensor_w\n" + "".join(f"{w},{gain * w}\n" for w in (20, 40, 50, 60, 80)))
    return str(file)


@pytest.fixture
def fleet(tmp_path: Path) -> tuple[str, str]:
    db = ("--db", str(tmp_path / "fleet.db"))
    task = ("--model", "tiny-llama", "--batch", "2", "--seq", "64", "--repeats", "3", "--no-whole-step")
    for name, frequencies in ((BOARD, "2"), (SERVER, "6")):
        words = ("--platform", f"simulated:{name}", "--frequencies", frequencies)
        assert command("profile-device", *words, *task, *db).code == 0
    assert command("calibrate", "fit", *db).code == 0
    return db


def planned(db: tuple[str, str], energy: str) -> dict[str, Any]:
    words = ("--uplink-mbps", "50", "--downlink-mbps", "100", "--energy", energy, "--weight", "1")
    found: dict[str, Any] = command(
        "card", "plan", "--from-db", "--min-device-layers", "3", *words, *db, "--json"
    ).document
    return found


def shown_w(db: tuple[str, str]) -> float:
    """Power of the newest profile, as it is shown."""
    watts: float = command("profile-device", "show", *db, "--json").document["points"][0]["power_w"]
    return watts


def test_a_calibrated_sensor_counts_in_every_power_and_energy(fleet: tuple[str, str], tmp_path: Path) -> None:
    before = {energy: planned(fleet, energy)["rounds"][0]["devices"][0] for energy in ("busy", "round", "above_idle")}
    read_w = shown_w(fleet)
    for device in (BOARD, SERVER):
        assert command("calibrate", "meter", "--reference", pairs(tmp_path, 0.5), "--device", device, *fleet).code == 0
    assert shown_w(fleet) == pytest.approx(2.0 * read_w)
    assert "corrected by an external meter" in command("profile-device", "show", *fleet).out
    stale = "do not know newer data"
    assert stale in " ".join(planned(fleet, "busy")["notes"])
    assert stale in " ".join(command("calibrate", "show", *fleet, "--json").document["notes"])
    assert stale in command("calibrate", "show", *fleet).out
    assert command("calibrate", "fit", *fleet).code == 0
    for energy, was in before.items():
        answer = planned(fleet, energy)
        now = answer["rounds"][0]["devices"][0]
        assert now["server_energy_j"] == pytest.approx(2.0 * was["server_energy_j"], rel=1e-3), energy
        assert now["device_energy_j"] == pytest.approx(2.0 * was["device_energy_j"], rel=1e-3), energy
        assert stale not in " ".join(answer["notes"])


def test_a_server_and_a_board_of_one_name_keep_their_marks(fleet: tuple[str, str]) -> None:
    task = ("--model", "tiny-llama", "--batch", "2", "--seq", "64", "--repeats", "3", "--no-whole-step")
    words = ("--platform", "simulated:orin-nano", "--name", BOARD, "--frequencies", "2")
    assert command("profile-device", *words, *task, *fleet).code == 0
    rates = ("--uplink-mbps", "50", "--downlink-mbps", "100", "--weight", "1")
    two = command("card", "plan", "--from-db", "--server", SERVER, *rates, *fleet)
    two.failed_in_one_line(1, f"two devices are called '{BOARD}'", "--name")
    one = ("--server", f"simulated:orin-nano:{BOARD}", "--device", f"simulated:{BOARD}:{BOARD}")
    assert command("calibrate", "fit", *fleet).code == 0
    notes = command("card", "plan", "--from-db", *one, *rates, *fleet, "--json").document["notes"]
    [simulated] = [note for note in notes if note.startswith("simulated")]
    assert f"{BOARD} (device terms)" in simulated and f"{BOARD} (server terms and energy)" in simulated
