"""Rows to records and back, for runs. Samples are packed little-endian float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cardlab.core.identity import new_uid
from cardlab.core.plain import from_plain, to_plain
from cardlab.core.quantity import Estimate, Provenance
from cardlab.core.records.device import Environment
from cardlab.core.records.measurement import Measurement, OperatingPoint, PlannedPoint, Point, Run
from cardlab.core.records.task import Execution, Task
from cardlab.core.records.workload import Analysis
from cardlab.db.schema import (
    DeviceRow,
    Document,
    EnvironmentRow,
    ExecutionRow,
    MeasurementRow,
    PointRow,
    RunRow,
    SampleBlockRow,
    TaskRow,
)
from cardlab.db.store.devices import to_device

OPERATING_POINT = "operating_point"


def pack(values: Sequence[float]) -> bytes:
    """Float64 values as little-endian bytes."""
    return np.asarray(values, dtype="<f8").tobytes()


def unpack(data: bytes) -> tuple[float, ...]:
    """Inverse of pack."""
    return tuple(np.frombuffer(data, dtype="<f8").tolist())


def task_document(task: Task) -> Document:
    """The task without its label, which is no part of its identity."""
    document: Document = to_plain(task)
    del document["model"]
    return document


def task_record(row: TaskRow, label: str | None) -> Task:
    """Row and the label of a run to a task."""
    return from_plain(Task, {**row.document, "model": label or "unnamed"})


def run_record(
    row: RunRow,
    device: DeviceRow,
    task: TaskRow | None,
    execution: ExecutionRow,
    environment: EnvironmentRow,
) -> Run:
    """Rows to a Run."""
    return Run(
        uid=row.uid,
        kind=row.kind,
        device=to_device(device),
        execution=Execution(
            dtype=execution.dtype,
            attention=execution.attention,
            threads=execution.threads,
            torch=execution.torch,
            accelerator=execution.accelerator,
        ),
        environment=Environment(versions=environment.versions),
        task=None if task is None else task_record(task, row.task_label),
        workload=row.workload,
        analysis=None if row.analysis is None else from_plain(Analysis, row.analysis),
        planned=tuple(from_plain(PlannedPoint, p) for p in row.planned),
        options=row.options,
        provenance=Provenance.from_plain(row.provenance),
        started_at=row.started_at,
    )


def measurement_row(point_id: int, position: int, m: Measurement) -> MeasurementRow:
    """A measurement as a row of its point."""
    e = m.estimate
    return MeasurementRow(
        uid=m.uid,
        point_id=point_id,
        position=position,
        quantity=m.quantity,
        unit=m.unit,
        segment=m.segment,
        phase=m.phase,
        rail=m.rail,
        value=None if e is None else e.value,
        stderr=None if e is None else e.stderr,
        ci_low=None if e is None or e.ci95 is None else e.ci95[0],
        ci_high=None if e is None or e.ci95 is None else e.ci95[1],
        n=None if e is None else e.n,
        provenance=None if e is None else e.provenance.as_plain(),
        flags=list(m.flags),
        details=to_plain(m.details),
    )


def sample_rows(measurement_id: int, m: Measurement) -> list[SampleBlockRow]:
    """The raw samples of a measurement, a block a name."""
    return [
        SampleBlockRow(measurement_id=measurement_id, name=name, count=len(values), data=pack(values))
        for name, values in m.samples.items()
    ]


def measurement_record(row: MeasurementRow, blocks: Sequence[SampleBlockRow] = ()) -> Measurement:
    """Row and its sample blocks to a Measurement."""
    return Measurement(
        uid=row.uid,
        quantity=row.quantity,
        unit=row.unit,
        segment=row.segment,
        phase=row.phase,
        rail=row.rail,
        estimate=_estimate(row),
        flags=tuple(str(flag) for flag in row.flags),
        samples={block.name: unpack(block.data) for block in blocks},
        details=row.details,
    )


def _estimate(row: MeasurementRow) -> Estimate | None:
    if row.value is None or row.provenance is None:
        return None
    ci95 = None if row.ci_low is None or row.ci_high is None else (row.ci_low, row.ci_high)
    return Estimate(row.value, row.stderr, ci95, row.n, Provenance.from_plain(row.provenance))


def closing_measurement(operating: OperatingPoint) -> Measurement:
    """The measurement that closes a point: the state it was measured in."""
    return Measurement(uid=new_uid(), quantity=OPERATING_POINT, unit="1", details=to_plain(operating))


def point_record(row: PointRow, measured: Sequence[MeasurementRow], blocks: Sequence[SampleBlockRow]) -> Point:
    """A point with those of the measurements and blocks that are its own."""
    mine = [m for m in measured if m.point_id == row.id]
    by_measurement: dict[int, list[SampleBlockRow]] = {}
    for block in blocks:
        by_measurement.setdefault(block.measurement_id, []).append(block)
    closing = [m for m in mine if m.quantity == OPERATING_POINT]
    return Point(
        uid=row.uid,
        index=row.position,
        requested_hz=row.requested_hz,
        memory_requested_hz=row.memory_requested_hz,
        anchor=row.anchor,
        operating=from_plain(OperatingPoint, closing[-1].details) if closing else None,
        measurements=tuple(
            measurement_record(m, by_measurement.get(m.id, ())) for m in mine if m.quantity != OPERATING_POINT
        ),
    )
