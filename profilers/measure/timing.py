"""How often to measure, and what number to believe.

    warm-up x 3 | reference, forward, backward, reset | reference, forward, backward, reset | ...

A fixed reference kernel runs before every sample, so a drift of the machine shows in its record. Garbage
collection is off. Samples are taken until the 95 % interval of every lap is as narrow as wanted, or the
largest number or the budget is reached.
Which number is believed is in samples.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from cardlab.core.quantity import MEASURED, Provenance
from cardlab.profilers.board import rules
from cardlab.profilers.board.rules import MIN_CLEAN, relative_spread
from cardlab.profilers.board.timer import LapSample, LapTimer, Timer, WallTimer
from cardlab.profilers.board.work import Work
from cardlab.profilers.measure.samples import WorkTiming, lap_timing


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingPolicy:
    """When to stop.

    Attributes:
        wanted_spread: half width of the 95 % interval over the value, for every lap.
        min_samples, max_samples: iterations taken at least and at most.
        warmups: iterations run first and not recorded.
        repeats: exactly so many iterations; None adapts.
        patience_s: an adaptive series longer than this is content with what it has; without enough clean
            samples it gives up after twice as long.
        budget_s: time for one work, warm-up included; None has no limit. At least one sample is taken.
    """

    wanted_spread: float = rules.WANTED_SPREAD
    min_samples: int = rules.MIN_SAMPLES
    max_samples: int = rules.MAX_SAMPLES
    warmups: int = rules.WARMUPS
    repeats: int | None = None
    patience_s: float = rules.PATIENCE_S
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingTools:
    """What the timings of a session share.

    Attributes:
        lap_timer: times the laps.
        timer: for the budget and the time left.
        policy: when to stop; of a session, its budget_s is for all segments together.
        on_progress: called after every sample.
        provenance: of the estimates.
    """

    lap_timer: LapTimer
    timer: Timer = field(default_factory=WallTimer)
    policy: TimingPolicy = field(default_factory=TimingPolicy)
    on_progress: ProgressCallback | None = None
    provenance: Provenance = MEASURED


def time_work(
    work: Work, tools: TimingTools, *, reference: Work | None = None, policy: TimingPolicy | None = None
) -> WorkTiming:
    """Time every lap of a work until the policy is content.

    Args:
        reference: a fixed kernel timed before every sample.
        policy: in place of the tools' own.
    """
    policy, timer = policy or tools.policy, tools.timer
    series = _Series(work)
    start_s = timer.now()
    with tools.lap_timer.held():
        _warm_up(series, tools.lap_timer, policy, timer)
        while not _content(series, policy, timer.now() - start_s):
            _sample(series, tools.lap_timer, reference)
            if tools.on_progress is not None:
                tools.on_progress(_progress(series, policy, timer.now() - start_s))
    laps = tuple(
        lap_timing(lap.phase, samples, work.repeats, policy.repeats is not None, tools.provenance)
        for lap, samples in zip(work.laps, series.laps, strict=True)
    )
    inside_s = math.fsum(s.wall_s for lap in series.laps for s in lap)
    return WorkTiming(
        segment=work.segment,
        repeats=work.repeats,
        laps=laps,
        reference_s=tuple(series.reference_s),
        elapsed_s=timer.now() - start_s,
        timed_s=inside_s + math.fsum(series.reference_s) + series.warm_s,
    )


def _warm_up(series: _Series, lap_timer: LapTimer, policy: TimingPolicy, timer: Timer) -> None:
    """Run the work a few times; stops early when that alone would use up half the budget."""
    start_s = timer.now()
    for done in range(policy.warmups):
        spent_s = timer.now() - start_s
        if policy.budget_s is not None and done and spent_s > policy.budget_s / 2:
            break
        for lap in series.work.laps:
            lap_timer.time(lap, series.work)
        series.work.reset()
    series.warm_s = timer.now() - start_s


def _sample(series: _Series, lap_timer: LapTimer, reference: Work | None) -> None:
    if reference is not None:
        series.reference_s.append(lap_timer.time(reference.laps[0], reference).wall_s)
    for lap, samples in zip(series.work.laps, series.laps, strict=True):
        samples.append(lap_timer.time(lap, series.work))
    series.work.reset()


def _content(series: _Series, policy: TimingPolicy, elapsed_s: float) -> bool:
    """Whether to stop before the next sample."""
    if policy.repeats is not None:
        return series.samples >= policy.repeats
    if series.samples >= policy.max_samples:
        return True
    if series.samples and policy.budget_s is not None:
        # Warm-up comes once and says nothing of what the next sample takes.
        next_s = (elapsed_s - series.warm_s) / series.samples
        if elapsed_s + next_s > policy.budget_s:
            return True
    if series.samples < policy.min_samples:
        return False
    if series.clean < MIN_CLEAN:
        return elapsed_s > 2 * policy.patience_s
    spread = series.spread()
    return elapsed_s > policy.patience_s or (spread is not None and spread <= policy.wanted_spread)


def _progress(series: _Series, policy: TimingPolicy, elapsed_s: float) -> Progress:
    each_s = (elapsed_s - series.warm_s) / series.samples
    left_s = each_s * max(0, (policy.repeats or policy.max_samples) - series.samples)
    if policy.repeats is None:
        patience_s = policy.patience_s * (1 if series.clean >= MIN_CLEAN else 2)
        limits = [s for s in (policy.budget_s, patience_s) if s is not None]
        left_s = min(left_s, max(0.0, min(limits) - elapsed_s))
    return Progress(
        what=series.work.segment,
        samples=series.samples,
        clean=series.clean,
        spread=series.spread(),
        seconds_left=left_s,
    )
