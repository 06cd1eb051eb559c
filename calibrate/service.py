"""From the store to fits and back: gather the points of each subject, fit, keep.

A subject is one curve: device, task or workload, execution, quantity, segment, phase, rail, power mode
and memory frequency. All finished points of all runs of a subject enter its fit, so a second sweep adds to
the first. Points measured at a frequency that cannot be read make a constant: one value, no extrapolation. Points
whose frequency was left to the governor enter only where none was held: a law is of frequencies that are held.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cardlab.calibrate.constant import constant_fit
from cardlab.calibrate.data import SAME_CLOCK, prepare
from cardlab.calibrate.fit import compare, fit_latency, fit_power
from cardlab.calibrate.fitter import Intervals, Options
from cardlab.core.errors import CalibrationError, NotFoundError, TooFewPointsError
from cardlab.core.laws import laws_of
from cardlab.core.records.fit import Fit, FitSubject
from cardlab.core.records.measurement import Measurement, OperatingPoint, Point, Profile, Run, RunKind
from cardlab.core.records.meter import Meters, metered
from cardlab.db.store import Store
from cardlab.db.store.meters import stored_meters
from cardlab.profilers.board.summary import HOST_BOUND

FITTED_POWERS = ("power", "wait_power")
# What other kinds of runs measured has no frequency to be a law of.
KINDS = (RunKind.PROFILE, RunKind.IMPORT)
# Runs of one device in one state differ by 1 to 3 %.
RUNS_DIFFER = 0.05


@dataclass(frozen=True, slots=True)
class Reading:
    """One measured point of a subject; `meter` is the calibration that its value was corrected by."""

    measurement: str
    meter: str | None
    run: str
    frequency_hz: float | None
    value: float
    stderr: float | None
    quantisation: float | None
    throttled: bool | None
    contended: bool
    host_bound: bool
    held: bool = True


@dataclass(frozen=True, slots=True)
class Group:
    """All points of one subject, in the order they were measured; `governed` more had no frequency held."""

    subject: FitSubject
    readings: tuple[Reading, ...]
    frequency_max_hz: float | None
    governed: int = 0


def fit_store(
    store: Store,
    *,
    device: str | None = None,
    law: str = "auto",
    intervals: Intervals = "covariance",
    created_at: str,
) -> tuple[Fit, ...]:
    """Fit every subject of a device (all devices by default) and store the fits, all or none.

    Args:
        device: key of a device.
        law: "auto" compares all laws; a name fits only that law to the quantities that have it.
        intervals: how far to trust the parameters: by covariance, or by bootstrap of operating points.
        created_at: UTC time in the store's form.

    Raises:
        NotFoundError: nothing was measured yet.
        CalibrationError: a subject cannot be fitted; the message names it.
    """
    groups = gather(store, device=device)
    if not groups:
        raise NotFoundError(f"{store.location} holds no measurement to fit", remedy="measure with profile-device first")
    if law != "auto":
        having = tuple(g for g in groups if any(known.name == law for known in laws_of(g.subject.quantity)))
        # A law of power says nothing of a latency, whose fits stay as they are; one of nothing here is a mistake.
        groups = having or groups
    fitted = [(fit, inputs_of(group)) for group in groups for fit in fit_group(group, law, intervals)]
    if not fitted:
        raise NotFoundError(f"no quantity has a law called {law!r}", remedy="use --law auto")
    store.fits.add(fitted, created_at)
    return tuple(fit for fit, _ in fitted)


def gather(store: Store, *, device: str | None = None) -> tuple[Group, ...]:
    """The points of every subject in the store, subjects in the order they were first measured."""
    readings: dict[tuple[object, ...], list[Reading]] = {}
    newest: dict[tuple[object, ...], FitSubject] = {}
    limits: dict[str, float | None] = {}
    meters = stored_meters(store.runs, device=device)
    for kind in KINDS:
        for profile in store.runs.select(kind=kind, device=device):
            limits[profile.run.device.key] = profile.run.device.frequency_max_hz
            for subject, reading in _readings(profile, meters):
                # By the key alone: a device that was renamed between two runs is still one subject.
                newest[subject.key] = _worst_of(subject, newest.get(subject.key))
                readings.setdefault(subject.key, []).append(reading)
    # The memory's frequency is the governor's too where the compute frequency is, and so makes no other subject here.
    held = {_but_memory(newest[key]) for key, found in readings.items() if any(r.held for r in found)}
    groups = []
    for key, found in readings.items():
        kept = tuple(r for r in found if r.held) if _but_memory(newest[key]) in held else tuple(found)
        if kept:
            left_out = len(found) - len(kept)
            groups.append(Group(newest[key], kept, limits.get(newest[key].device), left_out))
    return tuple(groups)


def _but_memory(subject: FitSubject) -> tuple[object, ...]:
    return replace(subject, memory_hz=None).key


def _worst_of(subject: FitSubject, before: FitSubject | None) -> FitSubject:
    """The newer subject, with the larger systematic error: a sensor is off by more where it reads little."""
    known = [s.meter_systematic for s in (subject, before) if s is not None and s.meter_systematic is not None]
    return replace(subject, meter_systematic=max(known)) if known else subject


def fit_group(group: Group, law: str = "auto", intervals: Intervals = "covariance") -> tuple[Fit, ...]:
    """The fits of one subject: every law tried, the chosen one marked; () if it has no law of that name."""
    runs, spread = len({r.run for r in group.readings}), run_spread(group.readings)
    told = (*_marks(group.readings), *_governed(group.governed), *_changed(runs, spread))
    return tuple(
        replace(fit, warnings=(*fit.warnings, *told), runs=runs, run_spread=spread)
        for fit in _fits_of(group, law, intervals)
    )


def _marks(readings: Sequence[Reading]) -> tuple[str, ...]:
    """A line for each mark that some of the points carry."""
    count = len(readings)
    # Where no point has one it is the fit of what cannot be chosen or read, which says so itself.
    unknown = sum(r.frequency_hz is None for r in readings) % count
    marks = (
        (sum(r.contended for r in readings), "were contended"),
        (sum(r.host_bound for r in readings), "were bound by the host, whose CPU no frequency of the GPU changes"),
        (unknown, "ran at an unknown frequency and are left out"),
    )
    return tuple(f"{marked} of {count} points {words}" for marked, words in marks if marked)


def _governed(count: int) -> tuple[str, ...]:
    return (f"{count} points left to the governor are left out: no frequency was held there",) if count else ()


def _changed(runs: int, spread: float | None) -> tuple[str, ...]:
    """A line where runs differ by more than one machine's runs do: their mean is of no machine that there is."""
    if spread is None or spread <= RUNS_DIFFER:
        return ()
    return (f"its {runs} runs differ by {100 * spread:.0f} % and are fitted together: has the device changed?",)


def run_spread(readings: Sequence[Reading]) -> float | None:
    """Relative standard deviation between runs at one frequency, pooled; None where no frequency has two runs.

    It does not shrink with more samples in a run, so it is no part of the law's own uncertainty.
    """
    by_frequency: dict[int | None, dict[str, list[float]]] = {}
    for r in readings:
        # Rounded to 0.3 %: what a device reads back of one requested frequency differs by less.
        place = None if r.frequency_hz is None else round(math.log(r.frequency_hz) / SAME_CLOCK)
        by_frequency.setdefault(place, {}).setdefault(r.run, []).append(r.value)
    squares, freedom = 0.0, 0
    for runs in by_frequency.values():
        means = [sum(values) / len(values) for values in runs.values()]
        if len(means) > 1:
            centre = sum(means) / len(means)
            squares += sum((m / centre - 1.0) ** 2 for m in means)
            freedom += len(means) - 1
    return math.sqrt(squares / freedom) if freedom else None


def _fits_of(group: Group, law: str, intervals: Intervals) -> tuple[Fit, ...]:
    known = [r for r in group.readings if r.frequency_hz is not None]
    if not known:
        fit = constant_fit([(r.value, r.stderr) for r in group.readings], group.subject)
        if intervals == "bootstrap":
            told = "intervals by covariance: without a frequency there are no operating points to resample"
            fit = replace(fit, warnings=(*fit.warnings, told))
        return (fit,) if law in ("auto", "constant") else ()
    try:
        return _fit_known(group, known, law, intervals)
    except TooFewPointsError as error:
        raise TooFewPointsError(f"{_name(group.subject)}: {error.message}", remedy=error.remedy) from error
    except CalibrationError as error:
        raise CalibrationError(f"{_name(group.subject)}: {error.message}", remedy=error.remedy) from error


def _fit_known(group: Group, known: Sequence[Reading], law: str, intervals: Intervals) -> tuple[Fit, ...]:
    clocks = [r.frequency_hz for r in known if r.frequency_hz is not None]
    values = [r.value for r in known]
    errors = [r.stderr for r in known if r.stderr is not None]
    # Half-known errors would weigh points by whether somebody repeated them.
    stderr = errors if len(errors) == len(known) else None
    throttled = [r.throttled for r in known]
    # Points of one subject may come from two meters: the coarser one bounds what can be told apart.
    steps = {r.quantisation for r in known if r.quantisation is not None}
    quantisation = max(steps) if steps else None
    if law == "auto":
        data = prepare(
            clocks,
            values,
            y_name=f"{group.subject.quantity}",
            stderr=stderr,
            quantisation=quantisation,
            throttled=throttled,
        )
        options = Options(intervals=intervals)
        return compare(data, group.subject, options=options, frequency_max_hz=group.frequency_max_hz).fits
    if group.subject.quantity in FITTED_POWERS:
        fit = fit_power(
            clocks,
            values,
            law,
            stderr_w=stderr,
            quantisation_w=quantisation,
            throttled=throttled,
            frequency_max_hz=group.frequency_max_hz,
            intervals=intervals,
            subject=group.subject,
        )
        return (fit,)
    fit = fit_latency(
        clocks,
        values,
        law,
        stderr_s=stderr,
        throttled=throttled,
        frequency_max_hz=group.frequency_max_hz,
        intervals=intervals,
        subject=group.subject,
    )
    return (fit,)


def _readings(profile: Profile, meters: Meters) -> Iterable[tuple[FitSubject, Reading]]:
    run = profile.run
    # Identities are made of whole documents: once a run, and not once a reading.
    task, execution = None if run.task is None else run.task.uid, run.execution.uid
    for point in metered(profile, meters).points:
        # A point that was cut short has no state to belong to.
        if point.operating is None:
            continue
        for measurement in point.measurements:
            if measurement.quantity in (*FITTED_POWERS, "latency") and measurement.estimate is not None:
                subject = _subject(run, task, execution, point.operating, measurement)
                # Of an import it is not said who held what: its frequencies are as the file has them.
                held = point.held or run.kind is RunKind.IMPORT
                yield subject, _reading(run.uid, point, measurement, held)


def _subject(run: Run, task: str | None, execution: str, state: OperatingPoint, m: Measurement) -> FitSubject:
    return FitSubject(
        device=run.device.key,
        device_name=run.device.name,
        task=task,
        workload=run.workload,
        execution=execution,
        quantity=m.quantity,
        segment=m.segment if m.quantity == "latency" else None,
        phase=m.phase,
        rail=m.rail,
        power_mode=state.power_mode,
        memory_hz=state.memory_hz,
        provenance=run.provenance,
        # What the class of the sensor is known for, until an external meter says more of this one.
        meter_systematic=None if m.meter is None else m.meter.systematic,
    )


def _reading(run: str, point: Point, m: Measurement, held: bool) -> Reading:
    state, estimate = point.operating, m.estimate
    assert state is not None and estimate is not None
    return Reading(
        measurement=m.uid,
        meter=None if m.meter is None else m.meter.calibration,
        run=run,
        frequency_hz=state.frequency_hz,
        value=estimate.value,
        stderr=estimate.stderr,
        quantisation=None if m.meter is None else m.meter.quantisation_w,
        throttled=state.throttled,
        contended=state.contended,
        host_bound=HOST_BOUND in m.flags,
        held=held,
    )


def inputs_of(group: Group) -> tuple[str, ...]:
    """Measurements that a fit of the group rests on, calibrations of sensors among them."""
    meters = dict.fromkeys(r.meter for r in group.readings if r.meter is not None)
    return (*(r.measurement for r in group.readings), *meters)


def _name(subject: FitSubject) -> str:
    parts = (subject.device_name, subject.quantity, subject.segment, subject.phase, subject.rail)
    return " ".join(part for part in parts if part)
