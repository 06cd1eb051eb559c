"""Removing what is no longer wanted, and nothing that something else rests on.

A run is removed with its points, measurements and samples. Fits made of them, and plans made of those fits or
runs, rest on it: they are named and the removal is refused, unless they are to go with it. A plan that a split
run followed stays with that run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cardlab.core.errors import NotFoundError, StoreError
from cardlab.db.schema import (
    CodecCostRow,
    DeviceRow,
    FitInputRow,
    FitRow,
    MeasurementRow,
    OperatingPointRow,
    PlanInputRow,
    PlanRow,
    PointRow,
    RunRow,
    SampleBlockRow,
    TrainPhaseRow,
    TrainQualityRow,
    TrainRoundRow,
)
from cardlab.db.store import Store
from cardlab.db.store.fits import subject_columns

Ids = frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What to remove; a run has to meet every condition that is given.

    Attributes:
        runs: uids or their first digits.
        device: key.
        before: UTC date or time; runs that began earlier.
        samples_only: keep the runs and their values, remove the raw samples.
        superseded_fits: fits that a later fit of the same subject replaced and no plan rests on.
        with_dependents: also the fits and plans that rest on the runs.
    """

    runs: tuple[str, ...] = ()
    device: str | None = None
    before: str | None = None
    samples_only: bool = False
    superseded_fits: bool = False
    with_dependents: bool = False

    @property
    def names_runs(self) -> bool:
        """Whether any condition on runs is given."""
        return bool(self.runs or self.device or self.before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """How many rows went, or would go."""

    runs: int = 0
    points: int = 0
    measurements: int = 0
    samples: int = 0
    fits: int = 0
    plans: int = 0


def prune(store: Store, selection: Selection, *, apply: bool) -> Removal:
    """Remove what is selected, all or nothing; without `apply` only count it.

    Raises NotFoundError when a named run is not there, StoreError when something rests on a run.
    """
    with store.connection(write=apply) as connection:
        runs = _selected_runs(connection, selection) if selection.names_runs else frozenset()
        fits = _superseded(connection) if selection.superseded_fits else frozenset()
        plans: Ids = frozenset()
        # Nothing rests on raw samples: the values made of them stay, and so do the fits.
        if runs and not selection.samples_only:
            resting, plans = _dependents(connection, runs)
            _refuse_dependents(connection, selection, resting, plans)
            fits |= resting
        removal = _counted(connection, selection, runs, fits, plans)
        if apply:
            _remove(connection, selection, runs, fits, plans)
    return removal


def _selected_runs(connection: Connection, selection: Selection) -> Ids:
    query = sa.select(RunRow.id).join(DeviceRow, DeviceRow.id == RunRow.device_id)
    if selection.device is not None:
        query = query.where(DeviceRow.key == selection.device)
    if selection.before is not None:
        # Times are texts that sort, and a bare date sorts before every time of its day.
        query = query.where(RunRow.started_at < selection.before)
    if selection.runs:
        # Each by itself: a prefix that fits two runs would take one along that nobody meant.
        for prefix in selection.runs:
            named = sa.select(RunRow.id).where(RunRow.uid.startswith(prefix, autoescape=True))
            if len(connection.scalars(named).all()) != 1:
                raise NotFoundError(
                    f"{prefix!r} is not the id of one run", remedy="list them with: profile-device show --all"
                )
        query = query.where(sa.or_(*(RunRow.uid.startswith(p, autoescape=True) for p in selection.runs)))
    return frozenset(connection.scalars(query))


def _superseded(connection: Connection) -> Ids:
    """Fits older than the newest of their subject that no plan uses."""
    # Laws that were compared with each other share their time, so those that lost the newest comparison stay. A
    # window and no join: subjects have null columns, which never equal each other in a join.
    newest = sa.func.max(FitRow.created_at).over(partition_by=subject_columns()).label("newest")
    ranked = sa.select(FitRow.id, FitRow.created_at, newest).subquery()
    used = sa.select(PlanInputRow.fit_id).where(PlanInputRow.fit_id.is_not(None))
    query = sa.select(ranked.c.id).where(ranked.c.created_at < ranked.c.newest, ranked.c.id.not_in(used))
    return frozenset(connection.scalars(query))


def _dependents(connection: Connection, runs: Ids) -> tuple[Ids, Ids]:
    """Fits made of measurements of these runs, and plans made of those fits or runs."""
    fits = frozenset(
        connection.scalars(
            sa.select(FitInputRow.fit_id)
            .join(MeasurementRow, MeasurementRow.id == FitInputRow.measurement_id)
            .join(PointRow, PointRow.id == MeasurementRow.point_id)
            .where(PointRow.run_id.in_(runs))
            .distinct()
        )
    )
    uses = sa.or_(PlanInputRow.run_id.in_(runs), PlanInputRow.fit_id.in_(fits))
    plans = frozenset(connection.scalars(sa.select(PlanInputRow.plan_id).where(uses).distinct()))
    return fits, plans


def _refuse_dependents(connection: Connection, selection: Selection, fits: Ids, plans: Ids) -> None:
    if (fits or plans) and not selection.with_dependents:
        raise StoreError(
            f"{len(fits)} fit(s) and {len(plans)} plan(s) rest on these runs",
            remedy="add --with-dependents to remove them too, or --samples to remove raw samples only",
        )
    # Asked even with --with-dependents: the rounds of that run point at the plan.
    followed = connection.scalar(
        sa.select(PlanRow.uid).join(TrainRoundRow, TrainRoundRow.plan_id == PlanRow.id).where(PlanRow.id.in_(plans))
    )
    if followed is not None:
        raise StoreError(
            f"a split run followed plan {followed[:12]}, which rests on these runs",
            remedy="remove that run first: profile-device show --all lists it",
        )


def _point_ids(runs: Ids) -> sa.Select[Any]:
    return sa.select(PointRow.id).where(PointRow.run_id.in_(runs))


def _measurement_ids(runs: Ids) -> sa.Select[Any]:
    return sa.select(MeasurementRow.id).where(MeasurementRow.point_id.in_(_point_ids(runs)))


def _counted(connection: Connection, selection: Selection, runs: Ids, fits: Ids, plans: Ids) -> Removal:
    def count(query: sa.Select[Any]) -> int:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(query.subquery())) or 0)

    samples = count(sa.select(SampleBlockRow.id).where(SampleBlockRow.measurement_id.in_(_measurement_ids(runs))))
    if selection.samples_only:
        return Removal(samples=samples, fits=len(fits))
    return Removal(
        runs=len(runs),
        points=count(_point_ids(runs)),
        measurements=count(_measurement_ids(runs)),
        samples=samples,
        fits=len(fits),
        plans=len(plans),
    )


def _remove(connection: Connection, selection: Selection, runs: Ids, fits: Ids, plans: Ids) -> None:
    """From what refers to what is referred to, so that no moment breaks a reference."""

    def delete(row: type, condition: sa.ColumnElement[bool]) -> None:
        connection.execute(sa.delete(row).where(condition))

    delete(PlanInputRow, PlanInputRow.plan_id.in_(plans))
    delete(PlanRow, PlanRow.id.in_(plans))
    delete(FitInputRow, FitInputRow.fit_id.in_(fits))
    delete(FitRow, FitRow.id.in_(fits))
    delete(SampleBlockRow, SampleBlockRow.measurement_id.in_(_measurement_ids(runs)))
    if selection.samples_only:
        return
    rounds = sa.select(TrainRoundRow.id).where(TrainRoundRow.run_id.in_(runs))
    delete(TrainPhaseRow, TrainPhaseRow.train_round_id.in_(rounds))
    delete(TrainRoundRow, TrainRoundRow.run_id.in_(runs))
    delete(TrainQualityRow, TrainQualityRow.run_id.in_(runs))
    delete(CodecCostRow, CodecCostRow.measurement_id.in_(_measurement_ids(runs)))
    delete(MeasurementRow, MeasurementRow.point_id.in_(_point_ids(runs)))
    delete(OperatingPointRow, OperatingPointRow.point_id.in_(_point_ids(runs)))
    delete(PointRow, PointRow.run_id.in_(runs))
    delete(RunRow, RunRow.id.in_(runs))


def vacuum(store: Store) -> None:
    """Give freed space back to the file system, and refresh the planner's statistics."""
    # The checkpoint comes last: VACUUM writes the whole new file into the journal, which would keep that size.
    statements: Sequence[str] = ("VACUUM", "ANALYZE", "PRAGMA wal_checkpoint(TRUNCATE)")
    if store.backend == "postgresql":
        statements = ("VACUUM (ANALYZE)",)
    store.run_outside_transactions(statements)
