"""Predict power and time of a device at a frequency, also of a task that was not measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cardlab.calibrate.freshness import staleness
from cardlab.calibrate.transfer import transferred
from cardlab.core import plausible
from cardlab.core.errors import NotFoundError, UsageError
from cardlab.core.quantity import Estimate
from cardlab.core.records.fit import Fit
from cardlab.core.records.task import Task
from cardlab.core.records.workload import is_layer
from cardlab.core.tables import Cell, Tabular
from cardlab.db.store import Store
from cardlab.reports.views.curves import prediction_chart
from cardlab.reports.views.parts import Bars, Chart
from cardlab.workflows.fit import stored_fits
from cardlab.workflows.options.calibrate import PredictOptions, ShowFitsOptions
from cardlab.workflows.targets import lora_of

# A memory frequency read under load differs from the listed one by rounding; its steps are far wider.
SAME_MEMORY = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions(Tabular):
    """What the chosen fits of a device say at one frequency; `executions`: of those with a task, in words by uid."""

    frequency_hz: float
    fits: tuple[Fit, ...]
    notes: tuple[str, ...] = ()
    executions: Mapping[str, str] = field(default_factory=dict)

    def execution_of(self, fit: Fit) -> str | None:
        """How what a fit is of was computed, in words, where the fits are of several executions; None otherwise."""
        return self.executions.get(fit.execution) if fit.execution is not None and len(self.executions) > 1 else None

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        """Of each fit, in its unit."""
        return tuple(fit.predict(self.frequency_hz) for fit in self.fits)

    def rows(self) -> list[dict[str, Cell]]:
        """A row a fit: value and 95 % interval in the unit that stands beside them."""
        found: list[dict[str, Cell]] = []
        for fit, estimate in zip(self.fits, self.estimates, strict=True):
            low, high = estimate.ci95 or (None, None)
            found.append(
                {
                    "device": fit.device_name,
                    "quantity": fit.quantity,
                    "segment": fit.segment,
                    "phase": fit.phase,
                    "rail": fit.rail,
                    "frequency_hz": self.frequency_hz,
                    "value": estimate.value,
                    "ci95_low": low,
                    "ci95_high": high,
                    "unit": fit.unit,
                    "law": fit.law,
                    "execution": fit.execution,
                    "extrapolated": fit.extrapolated(self.frequency_hz),
                }
            )
        return found

    def charts(self) -> tuple[Chart | Bars, ...]:
        """The curves with the frequency marked, of fits that have a range."""
        return tuple(prediction_chart(fit, self.frequency_hz) for fit in self.fits if fit.x.min is not None)


def check_options(options: PredictOptions) -> None:
    """Raise UsageError for a frequency that is none, and for options without effect."""
    if not (math.isfinite(options.frequency_mhz) and options.frequency_mhz > 0):
        raise UsageError(
            f"{options.frequency_mhz:g} MHz is not a frequency", remedy="give --frequency-mhz a number above 0"
        )
    for flag, mhz in (("--frequency-mhz", options.frequency_mhz), ("--memory-mhz", options.memory_mhz)):
        problem = None if mhz is None else plausible.FREQUENCY.problem(mhz * 1e6)
        if mhz is not None and problem is not None:
            meant = f": {mhz:g} Hz is {mhz / 1e6:g}" if plausible.FREQUENCY.holds(mhz) else ""
            raise UsageError(f"{flag} {mhz:g} {problem}", remedy=f"give {flag} in MHz{meant}")
    if options.model is None and (options.batch, options.sequence) != (None, None):
        raise UsageError(
            "--batch and --seq are of the task that --model names", remedy="add --model, or leave them out"
        )


def predict(store: Store, options: PredictOptions) -> Predictions:
    """Predictions of every chosen fit of a device at one frequency.

    Raises UsageError for a frequency that is none and for options without effect, NotFoundError without a fit.
    """
    check_options(options)
    chosen = [f for f in stored_fits(store, ShowFitsOptions(device=options.device)) if f.selected]
    fits, said = _of_task(store, chosen, options) if options.model else (chosen, ())
    fits = [f for f in fits if _wanted(f, options)]
    if not fits:
        raise NotFoundError(
            f"{options.device!r} has no fit for what was asked", remedy="see: calibrate show --device LABEL"
        )
    return Predictions(
        frequency_hz=options.frequency_mhz * 1e6,
        fits=tuple(fits),
        notes=(*said, *_marks(fits), *staleness(store, fits)),
        executions=_executions(store, fits),
    )


def _executions(store: Store, fits: Sequence[Fit]) -> dict[str, str]:
    """Dtype, form of the weights, attention and threads of the fits' executions by uid."""
    uids = {f.execution for f in fits}
    runs = (p.run for device in {f.device for f in fits} for p in store.runs.select(device=device))
    found = {run.execution.uid: run.execution for run in runs if run.execution.uid in uids}
    return {uid: f"{e.numbers}, {e.attention}, {e.threads} thread(s)" for uid, e in found.items()}


def _marks(fits: Sequence[Fit]) -> tuple[str, ...]:
    """Warnings of the fits, the same words once."""
    said: dict[str, int] = {}
    for fit in fits:
        for warning in fit.warnings:
            said[warning] = said.get(warning, 0) + 1
    return tuple(f"{count} of {len(fits)} fits: {warning}" for warning, count in said.items())


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


def _of_task(store: Store, chosen: Sequence[Fit], options: PredictOptions) -> tuple[list[Fit], tuple[str, ...]]:
    """Fits of the named task, else latencies transferred from the measured task with the closest FLOPs; and what was
    assumed."""
    measured = _tasks(store, chosen)
    sources = [t for t in measured.values() if t.model == options.model] or list(measured.values())
    if not sources:
        raise NotFoundError(f"{options.device!r} has no fit of a task", remedy="profile it with a model first")
    # The command names model, batch and sequence only: the rest is that of what was measured last. Names of modules are
    # of one model; another has its family's usual ones.
    last = sources[-1]
    adapters = lora_of(last.lora)
    said: tuple[str, ...] = ()
    if last.model == options.model:
        adapters["lora_targets"] = last.lora.targets
    elif last.lora.rank_pattern is not None:
        adapters["lora_rank_pattern"] = None
        said = (f"assumed: rank {last.lora.rank} everywhere; the rank pattern measured last is of {last.model}",)
    from cardlab.profilers import runtime as engine
    from cardlab.profilers.runtime.flops import flop_of

    wanted = engine.resolve_task(
        str(options.model),
        batch=1 if options.batch is None else options.batch,
        sequence=512 if options.sequence is None else options.sequence,
        **adapters,
        optimizer=last.optimizer,
    )
    if wanted.uid in measured:
        return [f for f in chosen if f.task == wanted.uid], said
    alike = [t for t in sources if set(t.architecture.segments) == set(wanted.architecture.segments)]
    if not alike:
        kinds = ", ".join(s for s in wanted.architecture.segments if is_layer(s))
        raise NotFoundError(
            f"{options.device!r} has no measured task with the kinds of layers of {options.model} ({kinds})",
            remedy=f"profile it: profile-device --model {options.model}",
        )
    # Efficiency changes with the size of the work, so the task of the most similar size tells most.
    source = min(alike, key=lambda t: abs(_layer_flop(t) / _layer_flop(wanted) - 1.0))
    found = []
    for fit in chosen:
        if fit.task == source.uid and fit.quantity == "latency" and fit.segment and fit.phase:
            new, old = (getattr(flop_of(t, fit.segment), f"{fit.phase}_flop", None) for t in (wanted, source))
            if new and old:
                found.append(transferred(fit, task=wanted.uid, flop_ratio=new / old))
    return found, said


def _tasks(store: Store, fits: Sequence[Fit]) -> dict[str, Task]:
    uids = {f.task for f in fits if f.task is not None}
    profiles = [p for f in {f.device for f in fits} for p in store.runs.select(device=f)]
    return {p.run.task.uid: p.run.task for p in profiles if p.run.task is not None and p.run.task.uid in uids}


def _layer_flop(task: Task) -> float:
    """Of the layers beyond the first, their mean."""
    from cardlab.profilers.runtime.flops import flop_of

    layers = task.architecture.layer_segments[1:]
    counts = {name: flop_of(task, name) for name in dict.fromkeys(layers)}
    return sum(getattr(counts[name], "forward_flop", None) or 1.0 for name in layers) / len(layers)
