"""How often to measure: warm-up, then samples until the policy is content.

    warm-up x 3 | reference, forward, backward, reset | reference, forward, backward, reset | ...

A fixed reference kernel runs before every sample, so a drift of the machine shows in its record. Samples are taken
until the 95 % interval of every lap is as narrow as wanted, or the largest number or the budget is reached. Which
number is believed is in summary.py.
"""

from typing import Callable, List, NamedTuple, Optional

from .rules import (
    MAX_SAMPLES,
    MIN_CLEAN,
    MIN_SAMPLES,
    PATIENCE_S,
    QUEUED_LONGEST_S,
    QUEUED_SAMPLES,
    WANTED_SPREAD,
    WARMUPS,
    median,
    relative_spread,
)
from .timer import LapSample, LapTimer, Timer
from .work import Work


class TimingPolicy(NamedTuple):
    """When to stop.

    Attributes:
        wanted_spread: half width of the 95 % interval over the value, for every lap.
        min_samples, max_samples: iterations taken at least and at most.
        warmups: iterations run first and not recorded.
        repeats: exactly so many iterations; None adapts.
        patience_s: an adaptive series longer than this is content with what it has; without enough clean
            samples it gives up after twice as long.
        budget_s: time for one work, warm-up included; None has no limit. As many samples as make a value are taken.
    """

    wanted_spread: float = WANTED_SPREAD
    min_samples: int = MIN_SAMPLES
    max_samples: int = MAX_SAMPLES
    warmups: int = WARMUPS
    repeats: Optional[int] = None
    patience_s: float = PATIENCE_S
    budget_s: Optional[float] = None


class Series:
    """Samples of one work so far.

    Attributes:
        laps: samples by lap, in running order.
        queued: by lap, seconds that the processor which computes needs alone; empty where the timer cannot tell.
        reference_s: wall seconds of the reference kernel before each sample; empty without one.
        warm_s: seconds of the warm-up.
        elapsed_s: seconds since the series began, warm-up included.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.laps: List[List[LapSample]] = [[] for _ in work.laps]
        self.queued: List[List[float]] = [[] for _ in work.laps]
        self.reference_s: List[float] = []
        self.warm_s = 0.0
        self.elapsed_s = 0.0

    @property
    def samples(self) -> int:
        """Iterations taken."""
        return len(self.laps[0])

    @property
    def clean(self) -> int:
        """Clean samples of the lap that has the fewest."""
        return min(sum(sample.clean for sample in lap) for lap in self.laps)

    def spread(self) -> Optional[float]:
        """Widest relative 95 % half width of the laps, None before every one has one."""
        widths = [relative_spread([sample.wall_s for sample in lap if sample.clean]) for lap in self.laps]
        known = [width for width in widths if width is not None]
        return max(known) if len(known) == len(widths) else None

    def seconds_left(self, policy: TimingPolicy) -> float:
        """Time until the policy will be content at the latest."""
        left_s = self._each_s() * max(0, (policy.repeats or policy.max_samples) - self.samples)
        if policy.repeats is None:
            limits = [seconds for seconds in (policy.budget_s, self._patience_s(policy)) if seconds is not None]
            left_s = min(left_s, max(0.0, min(limits) - self.elapsed_s))
        return left_s

    def content(self, policy: TimingPolicy) -> bool:
        """Whether to stop before the next sample."""
        if policy.repeats is not None:
            return self.samples >= policy.repeats
        if self.samples >= policy.max_samples:
            return True
        # With fewer there is no value to be content with, whatever the budget says.
        enough = self.samples >= MIN_CLEAN
        if enough and policy.budget_s is not None and self.elapsed_s + self._each_s() > policy.budget_s:
            return True
        if self.samples < policy.min_samples:
            return False
        if self.elapsed_s > self._patience_s(policy):
            return True
        spread = self.spread()
        return self.clean >= MIN_CLEAN and spread is not None and spread <= policy.wanted_spread

    def _each_s(self) -> float:
        # Warm-up comes once and says nothing of what the next sample takes.
        return (self.elapsed_s - self.warm_s) / self.samples

    def _patience_s(self, policy: TimingPolicy) -> float:
        # On a busy host clean samples are rare: twice as long, since without enough of them there is no value at all.
        return policy.patience_s if self.clean >= MIN_CLEAN else 2 * policy.patience_s


def take_series(
    work: Work,
    lap_timer: LapTimer,
    timer: Timer,
    policy: TimingPolicy,
    reference: Optional[Work] = None,
    on_sample: Optional[Callable[[Series], None]] = None,
) -> Series:
    """Time every lap of a work until the policy is content.

    Args:
        timer: for budget and patience.
        reference: a fixed kernel timed before every sample.
        on_sample: called after every sample.
    """
    series = Series(work)
    start_s = timer.now()
    with lap_timer.held():
        _warm_up(series, lap_timer, policy, timer)
        series.elapsed_s = timer.now() - start_s
        while not series.content(policy):
            _sample(series, lap_timer, reference)
            series.elapsed_s = timer.now() - start_s
            if on_sample is not None:
                on_sample(series)
        _queue(series, lap_timer, policy)
        series.elapsed_s = timer.now() - start_s
    return series


def _warm_up(series: Series, lap_timer: LapTimer, policy: TimingPolicy, timer: Timer) -> None:
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


def _queue(series: Series, lap_timer: LapTimer, policy: TimingPolicy) -> None:
    """The laps a few times more, launched ahead, where the timer can do that and they are short enough to matter."""
    queued = getattr(lap_timer, "queued", None)
    lead_s = [median([sample.wall_s for sample in lap]) for lap in series.laps if lap]
    if queued is None or len(lead_s) < len(series.laps) or sum(lead_s) > QUEUED_LONGEST_S:
        return
    if policy.budget_s is not None and series.elapsed_s + 3 * QUEUED_SAMPLES * sum(lead_s) > policy.budget_s:
        return
    for _ in range(QUEUED_SAMPLES):
        for lap, lead, seconds in zip(series.work.laps, lead_s, series.queued):
            found = queued(lap, series.work, 1.5 * lead)
            if found is not None:
                seconds.append(found)
        series.work.reset()


def _sample(series: Series, lap_timer: LapTimer, reference: Optional[Work]) -> None:
    if reference is not None:
        series.reference_s.append(lap_timer.time(reference.laps[0], reference).wall_s)
    for lap, samples in zip(series.work.laps, series.laps):
        samples.append(lap_timer.time(lap, series.work))
    series.work.reset()
