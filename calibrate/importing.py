"""Sweeps measured elsewhere, brought into the store as runs of kind "import".

One run for each workload of the file; one point for each row, in the order of the file. Everything in it
carries the origin `imported`, whatever instrument it came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cardlab import __version__
from cardlab.calibrate.capped import capped_rows
from cardlab.calibrate.importers.csv import read_csv
from cardlab.calibrate.importers.kernel_tuner import read_kernel_tuner
from cardlab.calibrate.importers.rows import ImportedRow
from cardlab.core.identity import imported_key, new_uid
from cardlab.core.quantity import Estimate, Origin, Provenance
from cardlab.core.records.device import Device, Environment
from cardlab.core.records.measurement import Measurement, MeterReading, OperatingPoint, PlannedPoint, Run, RunKind
from cardlab.core.records.task import Execution
from cardlab.db.store.runs import Visit

IMPORTED = Provenance.of(Origin.IMPORTED)
UNKNOWN_EXECUTION = Execution(dtype="unknown", attention="unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A file as runs with their points, not stored yet; `notes` says what was left out, averaged or chosen."""

    visits: list[tuple[Run, list[Visit]]]
    notes: tuple[str, ...]


def read_file(path: str | Path, *, device: str, imported_at: str) -> Read:
    """A CSV, nvidia-smi log or Kernel Tuner JSON file as runs with their points, to be stored whole.

    Args:
        device: label of the device; its key is `imported:LABEL`.
        imported_at: UTC time in the store's form.

    Raises BadDataError naming the row of whatever cannot be used.
    """
    read = read_kernel_tuner if Path(path).suffix.lower() == ".json" else read_csv
    found = read(path)
    # Sweeps of two workloads in one file are two subjects.
    workloads = list(dict.fromkeys(row.workload for row in found.rows))
    alone = len({(row.workload, row.memory_hz) for row in found.rows}) == 1
    visits, notes = [], list(found.notes)
    for workload in workloads:
        rows = [row for row in found.rows if row.workload == workload]
        capped = capped_rows(rows)
        notes += [_capped_note(group, workload, alone) for group in capped]
        visits.append(
            _run(rows, workload, device, Path(path).name, imported_at, [row for group in capped for row in group])
        )
    return Read(visits=visits, notes=tuple(notes))


def _capped_note(capped: Sequence[ImportedRow], workload: str | None, alone: bool) -> str:
    low, high = (pick(row.frequency_hz for row in capped) / 1e6 for pick in (min, max))
    memory_hz = capped[0].memory_hz
    # Which sweep it was, where the file holds several.
    words = [] if alone or workload is None else [workload]
    words += [] if alone or memory_hz is None else [f"memory at {memory_hz / 1e6:g} MHz"]
    of = f" ({', '.join(words)})" if words else ""
    ran = (
        "stood still in power and time though the frequency that was read rose"
        if all(row.frequency_read for row in capped)
        else "ran at one real frequency below what was asked (power and time stand still)"
    )
    return (
        f"{len(capped)} points{of}, {low:g} to {high:g} MHz, {ran}: marked as held by the power limit, and fits leave"
        " them out"
    )


def _run(
    rows: Sequence[ImportedRow],
    workload: str | None,
    device: str,
    source: str,
    imported_at: str,
    capped: Sequence[ImportedRow],
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
    held = {row.line for row in capped}
    visits: list[Visit] = [
        (point, _operating(row, row.line in held), _measurements(row)) for point, row in zip(planned, rows, strict=True)
    ]
    return run, visits


def _operating(row: ImportedRow, capped: bool) -> OperatingPoint:
    if not capped:
        return OperatingPoint(frequency_hz=row.frequency_hz, memory_hz=row.memory_hz)
    # Which frequency it really ran at is in the file only where it was read back.
    frequency_hz = row.frequency_hz if row.frequency_read else None
    return OperatingPoint(frequency_hz=frequency_hz, memory_hz=row.memory_hz, throttled=True, reasons=("power cap",))


def _measurements(row: ImportedRow) -> list[Measurement]:
    found = []
    if row.power_w is not None:
        power = _estimate(row.power_w, row.power_stderr_w, row.samples)
        found.append(_measurement(row, "power", "W", power, row.rail or "board", MeterReading(total=True)))
    if row.latency_s is not None:
        latency = _estimate(row.latency_s, row.latency_stderr_s, row.samples)
        found.append(_measurement(row, "latency", "s", latency, None, None))
    return found


def _estimate(value: float, stderr: float | None, samples: int) -> Estimate:
    ci95 = None if stderr is None else (value - 1.96 * stderr, value + 1.96 * stderr)
    return Estimate(value, stderr, ci95, samples, IMPORTED)


def _measurement(
    row: ImportedRow, quantity: str, unit: str, estimate: Estimate, rail: str | None, meter: MeterReading | None
) -> Measurement:
    return Measurement(
        uid=new_uid(),
        quantity=quantity,
        unit=unit,
        rail=rail,
        estimate=estimate,
        meter=meter,
        details={"row": row.line},
    )
