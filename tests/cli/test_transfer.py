"""A task that was not measured: predicted from one that was, marked, and not far from the truth."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.run import command

pytestmark = pytest.mark.torch


def test_another_sequence_is_predicted_from_the_measured_one(database: Path) -> None:
    db = ("--db", str(database))
    base = ("--model", "llama-3.2-1b", "--platform", "simulated:rtx-4060-ti", *db, "--json")
    assert command("profile-device", "--seq", "128", *base).code == 0
    assert command("calibrate", "fit", *db, "--json").code == 0
    words = ("predict", "--device", "rtx-4060-ti", "--frequency-mhz", "1545", "--model", "llama-3.2-1b")
    same = command("calibrate", *words, "--seq", "128", *db, "--json").document["predictions"]
    assert {p["provenance"]["how"] for p in same} == {"fitted"}
    assert {p["quantity"] for p in same} == {"power", "wait_power", "latency"}
    moved = command("calibrate", *words, "--seq", "256", *db, "--json").document["predictions"]
    assert {p["provenance"]["how"] for p in moved} == {"transferred"}
    assert {p["quantity"] for p in moved} == {"latency"}
    assert all(p["provenance"]["origins"] == ["simulated"] for p in moved)
    truth = command("profile-device", "--seq", "256", "--frequencies", "1545MHz", *base).document
    times = {s["segment"]: s for s in truth["points"][0]["segments"]}
    for p in moved:
        measured = times[p["segment"]][f"{p['phase']}_s"]
        assert p["ci95"][0] <= measured <= p["ci95"][1]
        assert p["value"] == pytest.approx(measured, rel=0.1)
    refused = command("calibrate", *words[:-1], "gpt-9", *db)
    refused.failed_in_one_line(1, "llama-3.2-1b")
