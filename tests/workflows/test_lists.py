"""What is stored can be found again: each list is newest first, and an id of it is taken by the other commands."""

from __future__ import annotations

from pathlib import Path

import pytest

import cardlab
from tests.card.database import whole
from tests.cli.run import command

PLAN = ("plan", "--from-db", "--server", "gpu", "--device", "board", "--uplink-mbps", "50", "--downlink-mbps", "80")


@pytest.fixture
def stored(database: Path) -> Path:
    """A database with two plans."""
    whole(database).close()
    for weight in ("0.2", "0.8"):
        assert command("card", *PLAN, "--weight", weight, "--db", str(database)).code == 0
    return database


def test_an_id_of_the_list_of_plans_is_one_that_a_report_takes(stored: Path, tmp_path: Path) -> None:
    listed = command("card", "plans", "--db", str(stored), "--json").document["plans"]
    assert [line["devices"] for line in listed] == [["board"], ["board"]]
    assert listed[0]["created_at"] >= listed[1]["created_at"]
    oldest = listed[-1]
    page = tmp_path / "plan.html"
    made = command("card", "report", "--plan", oldest["plan_id"][:8], "--out", str(page), "--db", str(stored))
    assert made.code == 0 and oldest["plan_id"][:12] in page.read_text("utf-8")
    text = command("card", "plans", "--db", str(stored))
    assert oldest["plan_id"][:12] in text.out and "simulated" not in text.err


def test_python_has_the_same_lists_as_tables(stored: Path) -> None:
    with cardlab.open_store(stored) as store:
        plans = cardlab.list_plans(store)
        assert [row["plan_id"] for row in plans.rows()] == [line.plan_id for line in plans.lines]
        assert cardlab.list_runs(store).rows() == [] and cardlab.list_links(store) == ()
        assert {line.device_name for line in cardlab.list_profiles(store)} == {"gpu", "board"}


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("card", "plans"), "card plan"),
        (("card", "runs"), "card run"),
        (("card", "links"), "card link"),
        (("profile-device", "list"), "profile-device --model"),
    ],
)
def test_an_empty_list_says_what_fills_it(database: Path, words: tuple[str, ...], remedy: str) -> None:
    cardlab.open_store(database).close()
    result = command(*words, "--db", str(database))
    assert result.code == 0 and remedy in result.out


def test_a_plan_that_is_not_there_is_answered_with_the_command_that_lists_them(stored: Path, tmp_path: Path) -> None:
    result = command("card", "report", "--plan", "3f2a", "--out", str(tmp_path / "x.html"), "--db", str(stored))
    result.failed_in_one_line(1, "3f2a", "card plans")
