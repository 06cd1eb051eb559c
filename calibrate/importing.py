"""Sweeps measured elsewhere, brought into the store as runs of kind "import".

One run for each workload of the file; one point for each row, in the order of the file. Everything in it
carries the origin `imported`, whatever instrument it came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cardlab import __version__
from cardlab.calibrate.importers.csv import read_csv
from cardlab.calibrate.importers.kernel_tuner import read_kernel_tuner
from cardlab.calibrate.importers.rows import ImportedRow
from cardlab.core.identity import imported_key, new_uid
from cardlab.core.quantity import Estimate, Origin, Provenance
from cardlab.core.records.device import Device, Environment
from cardlab.core.records.measurement import Measurement, MeterReading, OperatingPoint, PlannedPoint, Run, RunKind
from cardlab.core.records.task import Execution
from cardlab.db.store import Store
from cardlab.db.store.runs import Visit

IMPORTED = Provenance.of(Origin.IMPORTED)
UNKNOWN_EXECUTION = Execution(dtype="unknown", attention="unknown")


def read_file(path: str | Path, *, device: str, imported_at: str) -> list[tuple[Run, list[Visit]]]:
    """A CSV or Kernel Tuner JSON file as runs with their points, to be stored whole.

    Args:
        device: label of the device; its key is `imported:LABEL`.
        imported_at: UTC time in the store's form.

    Raises BadDataError naming the row of whatever cannot be used.
    """
    read = read_kernel_tuner if Path(path).suffix.lower() == ".json" else read_csv
    return as_runs(read(path), device=device, source=Path(path).name, imported_at=imported_at)


def import_file(store: Store, path: str | Path, *, device: str, imported_at: str) -> tuple[Run, ...]:
    """Read a file and store all of it, or nothing; see `read_file`."""
    visits = read_file(path, device=device, imported_at=imported_at)
    store.runs.add_whole(visits)
    return tuple(run for run, _ in visits)


def as_runs(
    rows: Sequence[ImportedRow], *, device: str, source: str, imported_at: str
) -> list[tuple[Run, list[Visit]]]:
    """Rows as runs with their points, a run a workload in the order of first appearance."""
    # Sweeps of two workloads in one file are two subjects.
    workloads = list(dict.fromkeys(row.workload for row in rows))
    return [
        _run([row for row in rows if row.workload == workload], workload, device, source, imported_at)
        for workload in workloads
    ]


def _run(
    rows: Sequence[ImportedRow], workload: str | None, device: str, source: str, imported_at: str
) -> tuple[Run, list[Visit]]:
    clocks = [row.frequency_hz for row in rows]
    planned = tuple(
        PlannedPoint(index=i, requested_hz=row.frequency_hz, memory_hz=row.memory_hz) for i, row in enumerate(rows)
    )
    run = Run(
        uid=new_uid(),
        kind=RunKind.IMPORT,
        device=Device(
            key=imported_key(device),
            name=device,
            platform="imported",
            frequency_min_hz=min(clocks),
            frequency_max_hz=max(clocks),
        ),
        execution=UNKNOWN_EXECUTION,
        environment=Environment(versions={"cardlab": __version__}),
        workload=workload or "imported",
        planned=planned,
        offered_hz=tuple(sorted(set(clocks))),
        options={"file": source},
        provenance=IMPORTED,
        started_at=imported_at,
    )
    return run, [(p, _operating(row), _measurements(row)) for p, row in zip(planned, rows, strict=True)]


def _operating(row: ImportedRow) -> OperatingPoint:
    return OperatingPoint(frequency_hz=row.frequency_hz, memory_hz=row.memory_hz)


def _measurements(row: ImportedRow) -> list[Measurement]:
    found = []
    if row.power_w is not None:
        found.append(_measurement(row, "power", "W", row.power_w, row.rail or "board", MeterReading(total=True)))
    if row.latency_s is not None:
        found.append(_measurement(row, "latency", "s", row.latency_s, None, None))
    return found


def _measurement(
    row: ImportedRow, quantity: str, unit: str, value: float, rail: str | None, meter: MeterReading | None
) -> Measurement:
    return Measurement(
        uid=new_uid(),
        quantity=quantity,
        unit=unit,
        rail=rail,
        estimate=Estimate(value, n=1, provenance=IMPORTED),
        meter=meter,
        details={"row": row.line},
    )
