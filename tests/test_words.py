"""If these fail, the code or the manual speaks a private language again; the vocabulary stands in docs/design.md."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.once

ROOMS = ("core", "db", "profilers", "calibrate", "card", "split", "reports", "workflows", "cli")
# What the field does not say, and what it says.
PRIVATE = {
    r"doubt(?!s\")": "uncertainty, its largest contribution",
    r"\bbirths?\b": "draws, samples",
    r"stopwatch": "timer",
    r"\blent\b": "a replay, a reference run, or whose profile it is",
    r"\bplayed\b": "simulated, replayed",
    r"\blet go\b": "release memory",
    r"\bTogether\b": "batched step",
    r"take_odd|_mended": "outlier, rejected sample",
    r"WallClock|VirtualClock|Stopwatch": "Timer (time), Frequency (Hz)",
}
# Modules that nobody can guess the content of.
RIDDLES = {"keeping", "exchanging", "checking", "compressing", "gathering", "expecting", "running", "calibrating"}


def test_code_and_manual_use_the_words_of_the_field() -> None:
    found = []
    pages = [*ROOT.glob("docs/*.md"), ROOT / "README.md", *ROOT.glob("reports/templates/*")]
    for path in [p for room in ROOMS for p in (ROOT / room).rglob("*.py")] + pages:
        # One module reads what a release wrote in its own words.
        if path.name == "rows_0_1.py":
            continue
        text = path.read_text("utf-8")
        for pattern, right in PRIVATE.items():
            for hit in re.finditer(pattern, text):
                line = text.count("\n", 0, hit.start()) + 1
                found.append(f"{path.relative_to(ROOT)}:{line} says {hit.group()!r}, the field says: {right}")
    assert found == []


def test_modules_are_named_after_what_they_hold() -> None:
    names = {p.stem for room in ROOMS for p in (ROOT / room).rglob("*.py")}
    assert not names & RIDDLES
