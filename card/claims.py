"""A claim of a paper beside what comes out here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One claim: what the paper says, what comes out here, the choice that was open, the verdict."""

    claim: str
    paper: str
    here: str
    open_choice: str
    verdict: str


def verdict(holds: bool) -> str:
    """The two verdicts that follow from a number."""
    return "reproduced" if holds else "not reproduced"
