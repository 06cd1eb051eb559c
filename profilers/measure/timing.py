"""The timing of one work, with progress told and the result as an estimate.

How often to measure is said in board/series.py, and which number to believe in board/summary.py: the agent follows
both too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from cardlab.core.errors import ProfileError
from cardlab.core.quantity import MEASURED, Provenance
from cardlab.profilers.board.series import Series, TimingPolicy, take_series
from cardlab.profilers.board.timer import LapTimer, Timer, WallTimer
from cardlab.profilers.board.work import Work
from cardlab.profilers.devices.errors import said_as
from cardlab.profilers.measure.samples import WorkTiming, lap_timing


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

    Raises ProfileError for work that cannot run.
    """
    policy = policy or tools.policy

    def tell(series: Series) -> None:
        if tools.on_progress is not None:
            tools.on_progress(_progress(series, policy))

    with said_as(ProfileError):
        series = take_series(work, tools.lap_timer, tools.timer, policy, reference, tell)
    laps = tuple(
        lap_timing(lap.phase, samples, work.repeats, policy.repeats is not None, tools.provenance, queued_s)
        for lap, samples, queued_s in zip(work.laps, series.laps, series.queued, strict=True)
    )
    inside_s = math.fsum(s.wall_s for lap in series.laps for s in lap)
    return WorkTiming(
        segment=work.segment,
        repeats=work.repeats,
        laps=laps,
        reference_s=tuple(series.reference_s),
        elapsed_s=series.elapsed_s,
        timed_s=inside_s + math.fsum(series.reference_s) + series.warm_s,
    )


def _progress(series: Series, policy: TimingPolicy) -> Progress:
    return Progress(
        what=series.work.segment,
        samples=series.samples,
        clean=series.clean,
        spread=series.spread(),
        seconds_left=series.seconds_left(policy),
    )
