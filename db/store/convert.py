"""Rows to records and back, for runs. Samples are packed little-endian float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from cardlab.core.identity import new_uid
from cardlab.core.plain import Document, from_plain, to_plain
from cardlab.core.quantity import Estimate, Provenance
from cardlab.core.records.device import Environment
from cardlab.core.records.measurement import (
    CodecCost,
    Measurement,
    MeterReading,
    OperatingPoint,
    PlannedPoint,
    Point,
    Run,
    RunKind,
)
from cardlab.core.records.task import Execution, Task
from cardlab.core.records.workload import Analysis
from cardlab.db.schema import (
    CodecCostRow,
    DeviceRow,
    EnvironmentRow,
    ExecutionRow,
    MeasurementRow,
    OperatingPointRow,
    PointRow,
    RunRow,
    SampleBlockRow,
    TaskRow,
)
from cardlab.db.store.devices import to_device

_CODEC = tuple(f.name for f in fields(CodecCost))
_OPERATING = tuple(f.name for f in fields(OperatingPoint))


def interval(low: float | None, high: float | None) -> tuple[float, float] | None:
    """Two columns as one interval, None where an end is missing."""
    return None if low is None or high is None else (low, high)


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
        kind=RunKind(row.kind),
        device=to_device(device),
        execution=Execution(
            dtype=execution.dtype,
            attention=execution.attention,
            threads=execution.threads,
            torch=execution.torch,
            accelerator=execution.accelerator,
            quantization=execution.quantization,
        ),
        environment=Environment(versions=environment.versions),
        task=None if task is None else task_record(task, row.task_label),
        workload=row.workload,
        analysis=None if row.analysis is None else from_plain(Analysis, row.analysis),
        planned=tuple(from_plain(PlannedPoint, p) for p in row.planned),
        offered_hz=None if row.offered_hz is None else tuple(float(f) for f in row.offered_hz),
        memory_budget_bytes=row.memory_budget_bytes,
        sitting=row.sitting,
        expected_notes=tuple(row.expected_notes or ()),
        for_plan=row.for_plan,
        options=row.options,
        provenance=Provenance.from_plain(row.provenance),
        started_at=row.started_at,
    )


def measurement_row(point_id: int, position: int, m: Measurement) -> MeasurementRow:
    """A measurement as a row of its point."""
    e, meter = m.estimate, m.meter or MeterReading()
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
        repeats=m.repeats,
        clean=m.clean,
        scope=meter.scope,
        total=meter.total,
        source=meter.source,
        update_s=meter.update_s,
        quantisation_w=meter.quantisation_w,
        check_w=meter.check_w,
        systematic=meter.systematic,
        details=to_plain(m.details),
    )


def sample_rows(measurement_id: int, m: Measurement) -> list[SampleBlockRow]:
    """The raw samples of a measurement, a block a name."""
    return [
        SampleBlockRow(measurement_id=measurement_id, name=name, count=len(values), data=pack(values))
        for name, values in m.samples.items()
    ]


def codec_row(measurement_id: int, cost: CodecCost) -> CodecCostRow:
    """A codec's cost as the row of its measurement."""
    return CodecCostRow(measurement_id=measurement_id, **to_plain(cost))


def measurement_record(
    row: MeasurementRow, blocks: Sequence[SampleBlockRow] = (), codec: CodecCostRow | None = None
) -> Measurement:
    """Row, its sample blocks and its codec's cost to a Measurement."""
    return Measurement(
        uid=row.uid,
        quantity=row.quantity,
        unit=row.unit,
        segment=row.segment,
        phase=row.phase,
        rail=row.rail,
        estimate=_estimate(row),
        flags=tuple(str(flag) for flag in row.flags),
        repeats=row.repeats,
        clean=row.clean,
        meter=_meter(row),
        codec=None if codec is None else _codec(codec),
        samples={block.name: unpack(block.data) for block in blocks},
        details=row.details,
    )


def _meter(row: MeasurementRow) -> MeterReading | None:
    """How a power was read; None where nothing of it is known."""
    found = MeterReading(
        scope=row.scope,
        total=row.total,
        source=row.source,
        update_s=row.update_s,
        quantisation_w=row.quantisation_w,
        check_w=row.check_w,
        systematic=row.systematic,
    )
    return None if found == MeterReading() else found


def _codec(row: CodecCostRow) -> CodecCost:
    return CodecCost(**{name: getattr(row, name) for name in _CODEC})


def _estimate(row: MeasurementRow) -> Estimate | None:
    # A number of unknown origin is no measurement.
    if row.value is None or row.provenance is None:
        return None
    ci95 = interval(row.ci_low, row.ci_high)
    return Estimate(row.value, row.stderr, ci95, row.n, Provenance.from_plain(row.provenance))


def operating_row(point_id: int, operating: OperatingPoint) -> OperatingPointRow:
    """The row that closes a point: the state it was measured in."""
    values = {name: getattr(operating, name) for name in _OPERATING}
    return OperatingPointRow(uid=new_uid(), point_id=point_id, **{**values, "reasons": list(operating.reasons)})


def operating_record(row: OperatingPointRow) -> OperatingPoint:
    """Row to record."""
    values = {name: getattr(row, name) for name in _OPERATING}
    return OperatingPoint(**{**values, "reasons": tuple(str(reason) for reason in row.reasons)})


@dataclass(frozen=True, slots=True, kw_only=True)
class PointRows:
    """Everything of a run's points as it was read, to be dealt out to the points."""

    measured: Sequence[MeasurementRow]
    operating: Sequence[OperatingPointRow]
    blocks: Sequence[SampleBlockRow]
    codecs: Sequence[CodecCostRow]


def point_records(rows: Sequence[PointRow], parts: PointRows) -> tuple[Point, ...]:
    """Points in the order of their rows, each with what is its own."""
    blocks: dict[int, list[SampleBlockRow]] = {}
    for block in parts.blocks:
        blocks.setdefault(block.measurement_id, []).append(block)
    codecs = {row.measurement_id: row for row in parts.codecs}
    measured: dict[int, list[Measurement]] = {}
    for row in parts.measured:
        record = measurement_record(row, blocks.get(row.id, ()), codecs.get(row.id))
        measured.setdefault(row.point_id, []).append(record)
    # The later of two closings counts: two copies of a database may each have finished the point.
    closing = {row.point_id: row for row in parts.operating}
    return tuple(
        Point(
            uid=row.uid,
            index=row.position,
            requested_hz=row.requested_hz,
            memory_requested_hz=row.memory_requested_hz,
            anchor=row.anchor,
            operating=operating_record(closing[row.id]) if row.id in closing else None,
            measurements=tuple(measured.get(row.id, ())),
        )
        for row in rows
    )
