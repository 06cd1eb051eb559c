"""Bad input: one line that names the remedy, the right exit code, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest

from cardlab.db import open_store
from tests import records
from tests.cli.run import command
from tests.conftest import ROOT

TINY = ("--model", "tiny-llama", "--seq", "32", "--no-whole-step", "--repeats", "1")


@pytest.mark.torch
@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (("--model", "gpt-7"), 1, "llama-3.2-1b"),
        (("--model", "tiny-llama", "--dtype", "float8"), 2, "float32"),
        (("--model", "tiny-llama", "--batch", "-1"), 2, "batch"),
        (("--model", "tiny-llama", "--batch", "0"), 2, "batch"),
        (("--model", "tiny-llama", "--seq", "100000"), 1, "position"),
        (("--model", "tiny-llama", "--lora-rank", "0"), 2, "rank"),
        (("--model", "tiny-llama", "--lora-targets", "nothing"), 1, "q_proj"),
        (("--model", "tiny-llama", "--threads", "0"), 2, "thread"),
        (("--model", "tiny-llama", "--platform", "simulated:orin-nx", "--threads", "2"), 2, "simulated"),
        (("--model", "tiny-llama", "--platform", "abacus"), 2, "simulated"),
        (("--model", "tiny-llama", "--budget", "soon"), 2, "90s"),
        (("--model", "tiny-llama", "--repeats", "0"), 2, "repeats"),
        (("--model", "tiny-llama", "--frequencies", "600MHz"), 2, "frequency control"),
    ],
)
def test_a_profile_that_cannot_be_made(words: tuple[str, ...], code: int, expected: str, database: Path) -> None:
    result = command("profile-device", *words, "--db", str(database))
    result.failed_in_one_line(code, expected)
    assert result.out == ""
    assert not database.exists()


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("profile-device", (), "--model"),
        ("profile-device", ("--db", "x.db", "show"), "--db"),
        ("profile-device", ("--model", "tiny-llama", "models"), "--model"),
        ("profile-device", ("--nonsense",), "--help"),
        ("profile-device", ("--batch", "many", "--model", "tiny-llama"), "batch"),
        ("calibrate", ("fit", "--nonsense"), "calibrate fit --help"),
        ("card", ("plan",), "--from-db"),
        ("card", ("plan", "--weight", "0.5"), "--scenario"),
        ("card", ("plan", "--scenario", "card-letter", "--rounds", "0"), "rounds"),
        ("card", ("plan", "--scenario", "card-letter", "--uplink-mbps", "0"), "uplink"),
        ("cardlab", ("profile", "--db", "x.db", "show"), "--db"),
        ("cardlab", ("nonsense",), "--help"),
    ],
)
def test_wrong_usage_exits_2(name: str, words: tuple[str, ...], expected: str) -> None:
    command(name, *words).failed_in_one_line(2, expected)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("profile-device", ("show",)),
        ("profile-device", ("show", "--all")),
        ("calibrate", ("fit",)),
        ("calibrate", ("show",)),
        ("calibrate", ("predict", "--device", "x", "--frequency-mhz", "1000")),
        ("card", ("plan", "--from-db", "--uplink-mbps", "1", "--downlink-mbps", "1")),
        ("cardlab", ("db", "upgrade")),
    ],
)
def test_without_a_database_the_remedy_is_to_measure(name: str, words: tuple[str, ...], database: Path) -> None:
    command(name, *words, "--db", str(database)).failed_in_one_line(1, "no database", "profile-device")
    assert not database.exists()


@pytest.mark.parametrize("content", [b"", b"precious notes\n" * 50])
def test_a_file_that_is_no_database(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_bytes(content)
    command("profile-device", "show", "--db", str(path)).failed_in_one_line(1, "database", "--db")
    assert path.read_bytes() == content


def test_a_newer_database_names_the_version_it_needs(database: Path) -> None:
    import sqlite3

    open_store(database).close()
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v7_0_0'")
    command("profile-device", "show", "--db", str(database)).failed_in_one_line(1, "v7.0.0", "install")


def test_nothing_fitted_and_no_server_are_named(database: Path) -> None:
    with open_store(database) as store:
        store.runs.begin(records.run())
    db = ("--db", str(database))
    command("calibrate", "show", *db).failed_in_one_line(1, "calibrate fit")
    command("calibrate", "fit", *db).failed_in_one_line(1, "profile-device")
    command("card", "plan", "--from-db", *db).failed_in_one_line(1, "--uplink-mbps", "--downlink-mbps")
    link = ("--uplink-mbps", "10", "--downlink-mbps", "10")
    command("card", "plan", "--from-db", *link, *db).failed_in_one_line(1, "--server", "bench-1")
    command("card", "plan", "--from-db", *link, "--server", "nobody", *db).failed_in_one_line(1, "bench-1")
    command("card", "plan", "--from-db", *link, "--weight", "1.5", *db).failed_in_one_line(1, "weight", "0 to 1")


def test_a_fit_at_an_impossible_frequency(database: Path) -> None:
    words = ("predict", "--device", "x", "--frequency-mhz", "-5", "--db", str(database))
    command("calibrate", *words).failed_in_one_line(2, "above 0")


def test_malformed_settings_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cardlab.toml").write_text("db = 3\n")
    command("profile-device", "show").failed_in_one_line(2, "cardlab.toml", "db")
    (tmp_path / "cardlab.toml").write_text("colour = 'red'\n")
    command("profile-device", "show").failed_in_one_line(2, "colour", "known keys")
    (tmp_path / "cardlab.toml").write_text("db = \n")
    command("profile-device", "show").failed_in_one_line(2, "cardlab.toml")


def test_flag_wins_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cardlab.toml").write_text("db = 'file.db'\n")
    assert "file.db" in command("profile-device", "show").err
    monkeypatch.setenv("CARD_DB", "environment.db")
    assert "environment.db" in command("profile-device", "show").err
    assert "flag.db" in command("profile-device", "show", "--db", "flag.db").err


def test_a_scenario_error_names_file_line_and_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = (ROOT / "card" / "scenarios" / "card-letter.toml").read_text(encoding="utf-8")
    lines = text.splitlines()
    number = next(i for i, line in enumerate(lines, start=1) if line.startswith("layer_forward_flop"))
    lines[number - 1] = "layer_forward_flop = 'much'"
    path.write_text("\n".join(lines), encoding="utf-8")
    result = command("card", "plan", "--scenario", str(path))
    result.failed_in_one_line(1, "mine.toml", f"line {number}", "layer_forward_flop", "much")


@pytest.mark.torch
def test_a_database_in_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    result = command("profile-device", *TINY, "--db", str(tmp_path / "no" / "x.db"))
    result.failed_in_one_line(1, "does not exist", "--db")


def test_doctor_works_everywhere_and_names_remedies(database: Path) -> None:
    result = command("profile-device", "doctor", "--db", str(database), "--json")
    probes = {p["name"]: p for p in result.document["probes"]}
    # It fails where no model can be measured, as without torch, and then says what lacks.
    assert result.code == 0 or any(p["ok"] is False for p in probes.values()), result.err
    assert {"cardlab", "database", "platform", "identity", "memory", "frequency", "power meter"} <= set(probes)
    for probe in probes.values():
        assert probe["state"]
        assert probe["ok"] is not False or probe["remedy"]


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, database: Path) -> None:
    import sys

    for name in [m for m in sys.modules if m.startswith("cardlab.profilers.runtime.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    result = command("profile-device", *TINY, "--db", str(database))
    result.failed_in_one_line(1, "torch", "cardlab[models]")
    assert command("profile-device", "models").code == 0
