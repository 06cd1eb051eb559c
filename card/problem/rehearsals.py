"""What a step takes in a run beyond its segments, from the rehearsals of a database (`profile-device`).

    side(c) = segments(c) x (1 + share(c))        share(c) = rehearsed(c) / segments(c) - 1 of the same sitting

A share is of the frequency that was held, and is taken for every other one too. Without a rehearsal a side takes what
its segments take, which the plan lists as assumed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cardlab.card.problem.arrays import Array
from cardlab.card.problem.measured import best_point, device_seconds, server_seconds_at
from cardlab.core.errors import PlanError
from cardlab.core.records.measurement import Profile, RunKind
from cardlab.core.records.rehearsal import ADAPTERS, COMPUTE, DECODE, ENCODE, FIRST, LOAD, Rehearsal
from cardlab.db.store import Store

DEVICE, SERVER = "device", "server"


@dataclass(frozen=True, slots=True)
class _Pair:
    """A rehearsal and the profile that was made in the same sitting."""

    rehearsal: Rehearsal
    profile: Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """What rehearsals say of one party on its side of each cut.

    Attributes:
        side: "device" or "server".
        share: what its steps take beyond its segments, as a fraction of them [C]; None where nothing says.
        error: relative standard error of a step's seconds; 0 where it is not known.
        encode_s, decode_s: of a mini-batch's own tensors without a codec; adapters_s: of a round's adapters [C]; None
            where nothing says.
        first_s: what the very first step takes more; load_s: all that the side holds, fetched from nothing [C]; None
            where nothing says.
        runs: uids of the rehearsals.
    """

    side: str
    share: Array | None = None
    error: float = 0.0
    encode_s: Array | None = None
    decode_s: Array | None = None
    adapters_s: Array | None = None
    first_s: Array | None = None
    load_s: Array | None = None
    runs: tuple[str, ...] = ()

    def said(self, label: str) -> str:
        """One line for a plan's reader."""
        if self.share is None:
            return f"steps of {label} ({self.side}) take as long as their segments (not rehearsed: profile-device)"
        least, most = float(self.share.min()), float(self.share.max())
        span = f"{least:+.1%}" if math.isclose(least, most, abs_tol=5e-4) else f"{least:+.1%} to {most:+.1%}"
        return f"steps of {label} ({self.side}) against the sum of their segments, rehearsed: {span}"


def rehearsed(store: Store, profile: Profile, same: Sequence[Profile], side: str, cuts: Array) -> Rehearsed:
    """What rehearsals of that profile's device, task and execution say at these cuts [C]; `same`: as `same_subject`."""
    run = profile.run
    if run.task is None or run.device.platform == "simulated":
        return Rehearsed(side=side)
    pairs = _pairs(store, profile, same)
    wanted = [float(cut) for cut in cuts]
    shares, errors, used = [], [], []
    for pair in pairs:
        seconds = pair.rehearsal.seconds(side, COMPUTE, wanted)
        own_s = _segments_s(pair.profile, side, cuts)
        if seconds is None or own_s is None:
            continue
        shares.append(np.array(seconds) / own_s - 1.0)
        errors.append(pair.rehearsal.relative_error(side) or 0.0)
        used.append(pair)
    if not shares:
        return Rehearsed(side=side)
    error = math.sqrt(sum(e**2 for e in errors)) / len(errors)
    if len(shares) > 1:
        # What they differ by is known better than what each believes of itself.
        error = max(error, float(np.std([s.mean() for s in shares], ddof=1)) / math.sqrt(len(shares)))

    def mean_of(what: str) -> Array | None:
        found = [pair.rehearsal.seconds(side, what, wanted) for pair in used]
        known = [seconds for seconds in found if seconds is not None]
        return np.maximum(np.mean(known, axis=0), 0.0) if known else None

    return Rehearsed(
        side=side,
        share=np.mean(shares, axis=0),
        error=error,
        encode_s=mean_of(ENCODE),
        decode_s=mean_of(DECODE),
        adapters_s=mean_of(ADAPTERS),
        first_s=mean_of(FIRST),
        load_s=mean_of(LOAD),
        runs=tuple(pair.rehearsal.profile.run.uid for pair in used),
    )


def first_round(device: Rehearsed, server: Rehearsed | None, place: int) -> dict[str, float]:
    """What the first round of a run takes more than the others, seconds by term, at the cut of that index.

    `server`: None where it has served another device before. A term that nothing says is left out.
    """
    sides = [device] if server is None else [device, server]
    found = {of.side: float(of.first_s[place]) for of in sides if of.first_s is not None}
    loads = [of.load_s for of in sides]
    if all(load is not None for load in loads):
        found["switch"] = float(sum(load[place] for load in loads if load is not None))
    return found


def _pairs(store: Store, profile: Profile, same: Sequence[Profile]) -> list[_Pair]:
    run = profile.run
    assert run.task is not None
    found = store.runs.select(kind=RunKind.REHEARSAL, device=run.device.key, task=run.task.uid)
    mine = [r for r in found if r.run.execution.uid == run.execution.uid and r.run.sitting is not None]
    by_sitting = {p.run.sitting: p for p in same if p.best_point is not None}
    return [_Pair(Rehearsal(r), by_sitting[r.run.sitting]) for r in mine if r.run.sitting in by_sitting]


def same_subject(store: Store, profile: Profile) -> list[Profile]:
    """All complete profiles of that profile's device, task, execution and power mode, itself among them.

    Where a frequency was held, what a governor did is another machine.
    """
    run = profile.run
    if run.task is None:
        return [profile]
    return [
        p
        for p in store.runs.select(device=run.device.key, task=run.task.uid)
        if p.complete
        and p.run.execution.uid == run.execution.uid
        and _mode(p) == _mode(profile)
        and p.holds is profile.holds
    ]


def _mode(profile: Profile) -> str | None:
    point = profile.best_point
    return None if point is None or point.operating is None else point.operating.power_mode


def _segments_s(profile: Profile, side: str, cuts: Array) -> Array | None:
    """Sum of the segments of a side [C] at the point that a rehearsal holds; None where a part was not timed."""
    try:
        if side == DEVICE:
            return device_seconds(profile, cuts)
        return server_seconds_at(best_point(profile), profile, cuts)
    except PlanError:
        return None
