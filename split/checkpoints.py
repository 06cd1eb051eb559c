"""Adapters of earlier rounds beside a run, each a folder that PEFT loads.

    OUT/checkpoints/round-K/           adapters after K rounds
    OUT/checkpoints/checkpoints.json   {"last": "round-8", "best": "round-5"}: which is which, best by held-out loss

A folder is written under another name and renamed when whole; older ones go only then.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cardlab.split.journal_files import put, writing

NAMES = "checkpoints.json"
_ROUND = re.compile(r"round-(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """The rounds that are kept: `last` of those that were due, None where none was; `best` where quality is known."""

    kept: tuple[int, ...]
    last: int | None
    best: int | None


def name_of(number: int) -> str:
    """The folder of a round's adapters."""
    return f"round-{number}"


def kept_rounds(folder: Path) -> tuple[int, ...]:
    """Rounds whose adapters are there, in order."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return tuple(sorted(int(match[1]) for name in names if (match := _ROUND.fullmatch(name))))


def keep_checkpoints(
    folder: Path,
    number: int,
    write: Callable[[Path], object],
    *,
    every: int | None = 1,
    keep: int = 1,
    quality: Mapping[int, float] | None = None,
) -> Checkpoints:
    """Add the adapters of a round, and remove those that are neither among the newest nor the best.

    Args:
        number: of the round.
        write: writes its adapters into the folder that it is given.
        every: rounds after which one is due; others stay as long as they are the best. None: none is due.
        keep: how many of the newest that were due stay.
        quality: by round, the lower the better (held-out loss); the best round that is there stays too.

    Raises DiskError; what was kept before is then still there.
    """
    draft, place = folder / f"{name_of(number)}.part", folder / name_of(number)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("round-*.part"):
            # Of a process that was killed.
            shutil.rmtree(left)
    write(draft)
    with writing(place):
        if place.exists():
            shutil.rmtree(place)
        draft.rename(place)
    there, known = kept_rounds(folder), quality or {}
    judged = [n for n in there if n in known]
    best = min(judged, key=lambda n: (known[n], n)) if judged else None
    due = [n for n in there if every is not None and n % every == 0]
    kept = tuple(n for n in there if n in due[-keep:] or n == best)
    last = due[-1] if due else None
    names = {"last": None if last is None else name_of(last), "best": None if best is None else name_of(best)}
    put(folder / NAMES, json.dumps(names).encode("utf-8"))
    with writing(folder):
        for old in set(there) - set(kept):
            shutil.rmtree(folder / name_of(old))
    return Checkpoints(kept=kept, last=last, best=best)


def best_kept(folder: Path) -> Path | None:
    """The folder of the best round's adapters; None where none is kept."""
    try:
        names = json.loads((folder / NAMES).read_bytes())
    except (OSError, ValueError):
        return None
    best = names.get("best") if isinstance(names, dict) else None
    place = folder / best if isinstance(best, str) and _ROUND.fullmatch(best) else None
    return place if place is not None and place.is_dir() else None
