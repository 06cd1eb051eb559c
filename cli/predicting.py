"""What `calibrate predict` does: pick the fits, transfer where the task was not measured, print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cardlab.calibrate.transfer import transferred
from cardlab.cli.calibrating import about, stored_fits
from cardlab.cli.console import print_json, print_table
from cardlab.cli.drawing import drawn, save_figure
from cardlab.cli.settings import database
from cardlab.core.errors import NotFoundError, UsageError
from cardlab.core.records.fit import Fit
from cardlab.core.records.task import Task
from cardlab.core.text import NOT_MEASURED, si
from cardlab.db import open_store
from cardlab.db.store import Store
from cardlab.profilers import runtime as engine
from cardlab.profilers.runtime.formula import segment_flop
from cardlab.reports.views.curves import prediction_chart
from cardlab.reports.views.fit import prediction_document

SAME_MEMORY = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictOptions:
    """The options of `calibrate predict`; None was not given."""

    device: str
    frequency_mhz: float
    segment: str | None
    power_mode: str | None
    memory_mhz: float | None
    model: str | None
    batch: int
    sequence: int
    plot: str | None
    db: str | None
    as_json: bool


def predict_at(options: PredictOptions) -> None:
    """Predictions of every chosen fit of a device at one clock."""
    if not options.frequency_mhz > 0:
        raise UsageError(
            f"{options.frequency_mhz:g} MHz is not a clock", remedy="give --frequency-mhz a number above 0"
        )
    with open_store(database(options.db), create=False) as store:
        chosen = [f for f in stored_fits(store, options.device) if f.selected]
        fits = _of_task(store, chosen, options) if options.model else chosen
    fits = [f for f in fits if _wanted(f, options)]
    if not fits:
        raise NotFoundError(
            f"{options.device!r} has no fit for what was asked", remedy="see: calibrate show --device LABEL"
        )
    frequency_hz = options.frequency_mhz * 1e6
    charts = None
    if options.plot is not None:
        charts = [prediction_chart(fit, frequency_hz) for fit in fits if fit.x.min is not None]
        save_figure(charts, options.plot)
    if options.as_json:
        documents = [prediction_document(fit, frequency_hz) for fit in fits]
        print_json({"predictions": documents, **drawn(charts)})
        return
    _print(fits, frequency_hz)


def _wanted(fit: Fit, options: PredictOptions) -> bool:
    memory_hz = None if options.memory_mhz is None else options.memory_mhz * 1e6
    return (
        options.segment in (None, fit.segment)
        and options.power_mode in (None, fit.power_mode)
        and (
            memory_hz is None
            or (fit.memory_hz is not None and abs(fit.memory_hz - memory_hz) <= SAME_MEMORY * memory_hz)
        )
    )


def _of_task(store: Store, chosen: Sequence[Fit], options: PredictOptions) -> list[Fit]:
    """Fits of the named task, else latencies transferred from the measured task with the closest FLOPs."""
    measured = _tasks(store, chosen)
    sources = [t for t in measured.values() if t.model == options.model] or list(measured.values())
    if not sources:
        raise NotFoundError(f"{options.device!r} has no fit of a task", remedy="profile it with a model first")
    lora = sources[-1].lora
    wanted = engine.resolve_task(
        str(options.model),
        batch=options.batch,
        sequence=options.sequence,
        lora_rank=lora.rank,
        lora_alpha=lora.alpha,
        adapter_dtype=lora.dtype,
        optimizer=sources[-1].optimizer,
    )
    if wanted.uid in measured:
        return [f for f in chosen if f.task == wanted.uid]
    source = min(sources, key=lambda t: abs(_layer_flop(t) / _layer_flop(wanted) - 1.0))
    found = []
    for fit in chosen:
        if fit.task == source.uid and fit.quantity == "latency" and fit.segment and fit.phase:
            new, old = (getattr(segment_flop(t, fit.segment), f"{fit.phase}_flop") for t in (wanted, source))
            if new and old:
                found.append(transferred(fit, task=wanted.uid, flop_ratio=new / old))
    return found


def _tasks(store: Store, fits: Sequence[Fit]) -> dict[str, Task]:
    uids = {f.task for f in fits if f.task is not None}
    profiles = [p for f in {f.device for f in fits} for p in store.runs.select(device=f)]
    return {p.run.task.uid: p.run.task for p in profiles if p.run.task is not None and p.run.task.uid in uids}


def _layer_flop(task: Task) -> float:
    return segment_flop(task, "layer").forward_flop or 1.0


def _print(fits: Sequence[Fit], frequency_hz: float) -> None:
    rows = []
    for fit in fits:
        estimate = fit.predict(frequency_hz)
        low_high = [NOT_MEASURED] if estimate.ci95 is None else [si(end, fit.unit) for end in estimate.ci95]
        mark = "extrapolated" if fit.extrapolated(frequency_hz) else ""
        how = mark or estimate.provenance.how.value
        rows.append((about(fit), si(estimate.value, fit.unit), " .. ".join(low_high), fit.law, how))
    title = f"{fits[0].device_name} at {si(frequency_hz, 'Hz')}"
    print_table(title, ("quantity", "value", "95 % interval", "law", "how"), rows)
