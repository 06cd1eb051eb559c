"""Copies of one disk image share a machine-id: two boards that pass for one are named, wherever their rows meet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cardlab.core.records.measurement import PlannedPoint
from cardlab.core.records.presence import Presence, two_hosts
from cardlab.db import open_store
from cardlab.db.bundle import export_bundle
from tests import records
from tests.cli.run import command

KEY = "cpu:0123456789abcdef0123456789abcdef"


def at(minute: int) -> str:
    return f"2026-11-21T10:{minute:02d}:00.000000Z"


def measured(path: Path, boot: str | None, *minutes: int) -> Path:
    """A database of one device with a point from each minute to the next, as a bundle."""
    planned = tuple(PlannedPoint(index=i) for i, _ in enumerate(minutes))
    run = records.run(device=replace(records.DEVICE, key=KEY), planned=planned, started_at=at(minutes[0]))
    name = f"{boot}-{minutes[0]}"
    with open_store(path / f"{name}.db") as store:
        store.runs.begin(run)
        for p, minute in zip(planned, minutes, strict=True):
            point = store.runs.begin_point(run.uid, p)
            state = replace(records.OPERATING, boot=boot, started_at=at(minute), finished_at=at(minute + 1))
            store.runs.finish_point(point, state)
        export_bundle(store, path / f"{name}.bundle")
    return path / f"{name}.bundle"


def merged(tmp_path: Path, *bundles: Path) -> tuple[str, list[dict[str, str]]]:
    """What merge said, and what the check of the database says then."""
    words = ("merge", *map(str, bundles), "--db", str(tmp_path / "home.db"))
    found = command("calibrate", *words)
    assert found.code == 0, found.err
    checked = command("cardlab", "db", "check", "--db", str(tmp_path / "home.db"), "--json")
    return found.err, checked.document["two_hosts"]


def test_two_boards_of_one_image_are_named(tmp_path: Path) -> None:
    said, found = merged(tmp_path, measured(tmp_path, "a", 0, 10, 20), measured(tmp_path, "b", 5))
    assert "was measured on two hosts at once" in said and "systemd-machine-id-setup" in said
    assert [(f["device_key"], f["from_at"]) for f in found] == [(KEY, at(5))]


@pytest.mark.parametrize(
    ("first", "second"),
    [(("a", 0, 10), ("b", 11, 20)), (("a", 0, 10), ("a", 5, 15)), ((None, 0, 10), ("b", 5))],
    ids=["started again", "one start", "not recorded"],
)
def test_one_board_is_one(tmp_path: Path, first: tuple[str, int], second: tuple[str, int]) -> None:
    said, found = merged(tmp_path, measured(tmp_path, *first), measured(tmp_path, *second))
    assert "two hosts" not in said and found == []


def test_a_board_whose_clock_is_not_set_accuses_nobody() -> None:
    def seen(boot: str, first: str, last: str) -> Presence:
        return Presence(device_key=KEY, device_name="board", boot=boot, first_at=first, last_at=last)

    unset = seen("a", "1970-01-01T00:01:00.000000Z", at(30))
    assert two_hosts([unset, seen("b", at(1), at(2))]) == ()
    assert len(two_hosts([seen("a", at(0), at(30)), seen("b", at(1), at(2)), seen("c", at(3), at(4))])) == 1
