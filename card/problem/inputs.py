"""What a plan was made of, for its reader and for whoever repeats it; no decision depends on it."""

from __future__ import annotations

from dataclasses import dataclass

from cardlab.core.plain import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInputs:
    """Words and identities that a plan keeps.

    Attributes:
        assumptions: what was filled in because nothing was given or measured.
        notes: further lines a reader must know.
        fits, runs, links: uids of the constants' sources.
        task: uid of the task that all parties share; None for a scenario.
        wire_dtype: dtype of smashed data and gradients on the link; None where not stated.
        request: what was asked of the database, in plain form; None for a scenario.
    """

    assumptions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    fits: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    task: str | None = None
    wire_dtype: str | None = None
    request: Document | None = None
