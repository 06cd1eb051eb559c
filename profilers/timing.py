"""How often to measure, and what number to believe.

    warm-up x 3 | reference, forward, backward, reset | reference, forward, backward, reset | ...

A fixed reference kernel runs before every sample, so a drift of the machine shows in its record. Garbage
collection is off. Samples are taken until the 95 % interval of every lap is as narrow as wanted, or the
largest number or the budget is reached.

The estimate is the **median of the clean samples**. On a shared two-core host, separate processes agreed
within 1.6 % by it, while the plain median of the same samples spread 77 %. With fewer than 5 clean ones
there is nothing to believe: the lap is `contended` and has no value. An exact number of repeats always gives
a value; if most samples were disturbed it is the 10th percentile of all of them (disturbances only add time;
processes agreed within 2.1 %) and flagged.
"""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from cardlab.identity import new_uid
from cardlab.profilers.clock import Clock, WallClock
from cardlab.profilers.stopwatch import LapSample, Stopwatch
from cardlab.profilers.work import Work
from cardlab.quantity import MEASURED, Estimate, Provenance
from cardlab.records.measurement import Measurement

MIN_CLEAN = 5
CONTENDED = "contended"

# Standard error of a median over that of a mean (normal law), and MAD to standard deviation.
_MEDIAN_EFFICIENCY = 1.2533
_MAD_TO_SIGMA = 1.4826
_LOW_QUANTILE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingPolicy:
    """When to stop.

    Attributes:
        wanted_spread: half width of the 95 % interval over the value, for every lap.
        min_samples, max_samples: iterations taken at least and at most.
        warmups: iterations run first and not recorded.
        repeats: exactly so many iterations; None adapts.
        budget_s: time for one work, warm-up included; None has no limit. At least one sample is taken.
    """

    wanted_spread: float = 0.015
    min_samples: int = 8
    max_samples: int = 40
    warmups: int = 3
    repeats: int | None = None
    budget_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """State of a running measurement.

    Attributes:
        what: segment being measured.
        samples, clean: iterations so far, and the fewest clean samples among its laps.
        spread: widest relative 95 % half width so far, None before there is one.
        seconds_left: for this work at most, None before the first sample.
    """

    what: str
    samples: int
    clean: int
    spread: float | None
    seconds_left: float | None


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LapTiming:
    """What came out for one lap; times are of one occurrence of the segment.

    Attributes:
        phase: of the lap.
        estimate: seconds; None when too few samples were clean.
        contended: most or too many samples were disturbed.
        clean: number of clean samples.
        samples: raw seconds of the whole lap by name: "wall_s", "cpu_s", "clean" (0 or 1).
    """

    phase: str
    estimate: Estimate | None
    contended: bool
    clean: int
    samples: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkTiming:
    """All laps of one work.

    Attributes:
        segment, repeats: of the work; lap samples cover `repeats` occurrences.
        laps: in running order.
        reference_s: wall seconds of the reference kernel before each iteration; empty without one.
        elapsed_s: by the clock, warm-up included.
        timed_s: of it, inside laps, reference kernel and warm-up.
    """

    segment: str
    repeats: int
    laps: tuple[LapTiming, ...]
    reference_s: tuple[float, ...] = ()
    elapsed_s: float = 0.0
    timed_s: float = 0.0

    def lap(self, phase: str) -> LapTiming:
        """The lap of that phase; KeyError if there is none."""
        for lap in self.laps:
            if lap.phase == phase:
                return lap
        raise KeyError(phase)

    @property
    def contended(self) -> bool:
        """Whether any lap is."""
        return any(lap.contended for lap in self.laps)


@dataclass
class _Series:
    """Samples of one work so far."""

    work: Work
    laps: list[list[LapSample]] = field(default_factory=list)
    reference_s: list[float] = field(default_factory=list)
    warm_s: float = 0.0

    def __post_init__(self) -> None:
        self.laps = [[] for _ in self.work.laps]

    @property
    def samples(self) -> int:
        return len(self.laps[0])

    @property
    def clean(self) -> int:
        return min(sum(s.clean for s in lap) for lap in self.laps)

    def spread(self) -> float | None:
        widths = [relative_spread([s.wall_s for s in lap if s.clean]) for lap in self.laps]
        known = [width for width in widths if width is not None]
        return max(known) if len(known) == len(widths) else None


def measure(
    work: Work,
    stopwatch: Stopwatch,
    *,
    reference: Work | None = None,
    policy: TimingPolicy | None = None,
    clock: Clock | None = None,
    on_progress: ProgressCallback | None = None,
    provenance: Provenance = MEASURED,
) -> WorkTiming:
    """Time every lap of a work until the policy is content.

    Args:
        reference: a fixed kernel timed before every sample.
        clock: for the budget and the time left; the wall by default.
        on_progress: called after every sample.
        provenance: of the estimates.
    """
    policy = policy or TimingPolicy()
    clock = clock or WallClock()
    series = _Series(work)
    start_s = clock.now()
    with stopwatch.held(), _gc_off():
        _warm_up(series, stopwatch, policy, clock)
        while not _content(series, policy, clock.now() - start_s):
            _sample(series, stopwatch, reference)
            if on_progress is not None:
                on_progress(_progress(series, policy, clock.now() - start_s))
    laps = tuple(
        _lap_timing(lap.phase, samples, work.repeats, policy, provenance)
        for lap, samples in zip(work.laps, series.laps, strict=True)
    )
    inside_s = math.fsum(s.wall_s for lap in series.laps for s in lap)
    return WorkTiming(
        segment=work.segment,
        repeats=work.repeats,
        laps=laps,
        reference_s=tuple(series.reference_s),
        elapsed_s=clock.now() - start_s,
        timed_s=inside_s + math.fsum(series.reference_s) + series.warm_s,
    )


@contextmanager
def _gc_off() -> Iterator[None]:
    """Collect once, then not again until the block ends."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _warm_up(series: _Series, stopwatch: Stopwatch, policy: TimingPolicy, clock: Clock) -> None:
    """Run the work a few times; stops early when that alone would use up half the budget."""
    start_s = clock.now()
    for done in range(policy.warmups):
        spent_s = clock.now() - start_s
        if policy.budget_s is not None and done and spent_s > policy.budget_s / 2:
            break
        for lap in series.work.laps:
            stopwatch.time(lap, series.work)
        series.work.reset()
    series.warm_s = clock.now() - start_s


def _sample(series: _Series, stopwatch: Stopwatch, reference: Work | None) -> None:
    if reference is not None:
        series.reference_s.append(stopwatch.time(reference.laps[0], reference).wall_s)
    for lap, samples in zip(series.work.laps, series.laps, strict=True):
        samples.append(stopwatch.time(lap, series.work))
    series.work.reset()


def _content(series: _Series, policy: TimingPolicy, elapsed_s: float) -> bool:
    """Whether to stop before the next sample."""
    if policy.repeats is not None:
        return series.samples >= policy.repeats
    if series.samples >= policy.max_samples:
        return True
    if series.samples and policy.budget_s is not None:
        next_s = (elapsed_s - series.warm_s) / series.samples
        if elapsed_s + next_s > policy.budget_s:
            return True
    if series.samples < policy.min_samples or series.clean < MIN_CLEAN:
        return False
    spread = series.spread()
    return spread is not None and spread <= policy.wanted_spread


def _progress(series: _Series, policy: TimingPolicy, elapsed_s: float) -> Progress:
    each_s = (elapsed_s - series.warm_s) / series.samples
    left_s = each_s * max(0, (policy.repeats or policy.max_samples) - series.samples)
    if policy.budget_s is not None and policy.repeats is None:
        left_s = min(left_s, max(0.0, policy.budget_s - elapsed_s))
    return Progress(
        what=series.work.segment,
        samples=series.samples,
        clean=series.clean,
        spread=series.spread(),
        seconds_left=left_s,
    )


def relative_spread(values: Sequence[float]) -> float | None:
    """Half width of the 95 % interval of the median over the median; None below three values."""
    if len(values) < 3:
        return None
    return 1.96 * _median_stderr(values) / statistics.median(values)


def _median_stderr(values: Sequence[float]) -> float:
    """Standard error of the median from the median absolute deviation."""
    center = statistics.median(values)
    deviation = statistics.median(abs(value - center) for value in values)
    return _MEDIAN_EFFICIENCY * _MAD_TO_SIGMA * deviation / math.sqrt(len(values))


def _lap_timing(
    phase: str, samples: Sequence[LapSample], repeats: int, policy: TimingPolicy, provenance: Provenance
) -> LapTiming:
    clean = [s.wall_s for s in samples if s.clean]
    exact = policy.repeats is not None
    contended = 2 * len(clean) < len(samples) if exact else len(clean) < MIN_CLEAN
    estimate: Estimate | None = None
    if not contended:
        estimate = _estimate(clean, statistics.median(clean), provenance)
    elif exact:
        every = sorted(s.wall_s for s in samples)
        estimate = _estimate(every, every[int(_LOW_QUANTILE * (len(every) - 1))], provenance)
    return LapTiming(
        phase=phase,
        estimate=None if estimate is None else estimate.scaled(1.0 / repeats),
        contended=contended,
        clean=len(clean),
        samples=_raw(samples),
    )


def _estimate(values: Sequence[float], value_s: float, provenance: Provenance) -> Estimate:
    n = len(values)
    if n < 2:
        return Estimate(value_s, None, None, n, provenance)
    stderr_s = _median_stderr(values)
    return Estimate(value_s, stderr_s, (value_s - 1.96 * stderr_s, value_s + 1.96 * stderr_s), n, provenance)


def _raw(samples: Sequence[LapSample]) -> dict[str, tuple[float, ...]]:
    raw = {
        "wall_s": tuple(s.wall_s for s in samples),
        "clean": tuple(float(s.clean) for s in samples),
    }
    cpu_s = tuple(s.cpu_s for s in samples if s.cpu_s is not None)
    return {**raw, "cpu_s": cpu_s} if len(cpu_s) == len(samples) else raw


def measurements(timing: WorkTiming) -> tuple[Measurement, ...]:
    """One "latency" record in seconds per lap, with raw samples and the reference kernel's."""
    records = []
    for lap in timing.laps:
        samples = dict(lap.samples)
        if timing.reference_s:
            samples["reference_s"] = timing.reference_s
        records.append(
            Measurement(
                uid=new_uid(),
                quantity="latency",
                unit="s",
                segment=timing.segment,
                phase=lap.phase,
                estimate=lap.estimate,
                flags=(CONTENDED,) if lap.contended else (),
                samples=samples,
                details={"repeats": timing.repeats, "clean": lap.clean},
            )
        )
    return tuple(records)
