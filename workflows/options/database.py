"""Options of looking after a database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cardlab.core.options import Checked, Opt


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOptions(Checked):
    """What to remove."""

    runs: Annotated[tuple[str, ...], Opt("Id of a run to remove; may be repeated.", flag="--run")] = ()
    device: Annotated[str | None, Opt("Only runs of this device (label or key).")] = None
    before: Annotated[str | None, Opt("Only runs begun before this UTC date, 2026-11-21.")] = None
    samples: Annotated[bool, Opt("Remove raw samples only; values stay.")] = False
    superseded: Annotated[bool, Opt("Also fits that a later one replaced and no plan uses.")] = False
    with_dependents: Annotated[bool, Opt("Also the fits and plans that rest on the runs.")] = False
    yes: Annotated[bool, Opt("Really remove; without it only say what would go.")] = False
    backup: Annotated[bool, Opt("Keep a copy of an SQLite database first.")] = True
