"""Points of a file that the store has already: imported twice they would count twice, and errors would shrink.

Told by the numbers themselves and not by the file, whose name, order of rows and comments may have changed; so the
imports of earlier releases are known too. As with merging bundles, what is there is left as it is.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from cardlab.core.errors import BadDataError
from cardlab.core.records.measurement import Measurement, PlannedPoint, Profile, Run, RunKind
from cardlab.db.store import Store
from cardlab.db.store.runs import Visit


def not_yet_stored(
    store: Store, visits: Sequence[tuple[Run, list[Visit]]]
) -> tuple[list[tuple[Run, list[Visit]]], tuple[str, ...]]:
    """The runs that bring something new, and a note for each that does not.

    Raises BadDataError for a run that holds an earlier import and more: which of its points are new, the file says.
    """
    new, notes = [], []
    before: dict[Hashable, list[Profile]] = {}
    # Once for each device, as a file may hold thousands of workloads.
    for key in {run.device.key for run, _ in visits}:
        for profile in store.runs.select(kind=RunKind.IMPORT, device=key):
            before.setdefault(_subject(profile.run), []).append(profile)
    for run, points in visits:
        stored = before.get(_subject(run), [])
        here = {_numbers(planned, measured) for planned, _, measured in points}
        shared = [(profile, there & here) for profile in stored if (there := _stored_numbers(profile)) & here]
        names = ", ".join(profile.run.uid[:12] for profile, _ in shared)
        known = set[Hashable]().union(*(common for _, common in shared))
        if known == here:
            notes.append(
                f"{run.workload!r} of {run.device.name!r} was imported before as run {names}: nothing is added"
            )
            continue
        whole = next((profile for profile, common in shared if common == _stored_numbers(profile)), None)
        if whole is not None:
            raise BadDataError(
                f"{len(known)} of the {len(here)} points of {run.workload!r} were imported before as run {names}, and"
                " would count twice",
                remedy="import a file of the other rows only, or name another --device",
            )
        if known:
            notes.append(
                f"{len(known)} of the {len(here)} points of {run.workload!r} have the very numbers of run {names}:"
                " where they are the same readings, they count twice"
            )
        new.append((run, points))
    return new, tuple(notes)


def _subject(run: Run) -> Hashable:
    return (run.device.key, run.workload, run.execution.uid)


def _stored_numbers(profile: Profile) -> set[Hashable]:
    return {
        _numbers(
            PlannedPoint(index=p.index, requested_hz=p.requested_hz, memory_hz=p.memory_requested_hz), p.measurements
        )
        for p in profile.points
    }


def _numbers(planned: PlannedPoint, measured: Iterable[Measurement]) -> Hashable:
    """What was asked for and what was measured there, without what an import makes anew."""
    values = ((m.quantity, m.rail, None if m.estimate is None else m.estimate.value) for m in measured)
    return (planned.requested_hz, planned.memory_hz, frozenset(values))
