"""Hold a split run against its prediction, term by term."""

from __future__ import annotations

from cardlab.core.errors import NotFoundError
from cardlab.core.records.measurement import RunKind
from cardlab.db.store import Store
from cardlab.workflows.report_data import SplitRun, split_run


def validate(store: Store, run: str | None = None) -> SplitRun:
    """The split run of that id (its first digits do), the newest by default, with its checks.

    A run without plan or fit has no predictions and is no error. Raises NotFoundError, or UsageError for a run of
    another kind.
    """
    if run is not None:
        return split_run(store, run)
    runs = store.runs.select(kind=RunKind.TRAIN)
    if not runs:
        raise NotFoundError(f"{store.location} holds no split run", remedy="make one with: card run")
    return split_run(store, runs[-1].run.uid)
