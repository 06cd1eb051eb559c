"""How far one later round of a run lies from what profiles say: the spread between runs, and between rounds of one.

The interval of a fit is that of a mean: with more samples it becomes as narrow as one likes. A run in another process,
on another day, is not that mean. What differs from sitting to sitting (placement in memory, the host's speed, heat) is
estimated from the profiles of a subject that the database holds, by the logarithm of a whole step in each, and held
together with what is known of the platform:

    s^2 = (nu0 s0^2 + (n - 1) s_n^2) / (nu0 + n - 1)        n sittings, the platform worth nu0 more

The two sides of a run deviate each by itself, also where one machine is both: placement in memory is a process's own.
A platform's own values are measured where `source` says so and assumed where it says that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import mean, variance

from cardlab.core.records.measurement import Profile
from cardlab.core.records.workload import EMBEDDING


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpread:
    """Relative standard deviations of computing times.

    Attributes:
        between: of a run about the mean of all runs.
        within: of one round about its run's mean.
        freedom: degrees of freedom behind `between`.
        source: where it is from, for people.
        sittings: in how many the profiles behind a mean were made.
    """

    between: float
    within: float
    freedom: float
    source: str
    sittings: int = 1

    def from_mean_of(self, sittings: int) -> float:
        """Of a later run about the mean of so many sittings, which is not the mean of all."""
        return self.between * math.sqrt(1.0 + 1.0 / sittings)

    @property
    def said(self) -> str:
        """One line for a plan's reader."""
        return (
            f"one round of a later run: {self.between:.1%} between runs, {self.within:.1%} between rounds"
            f" ({self.source})"
        )


# What is known of a platform counts as much as this many sittings of one's own.
PRIOR_FREEDOM = 4.0
_ASSUMED = RunSpread(between=0.03, within=0.02, freedom=PRIOR_FREEDOM, source="assumed")
_OF_PLATFORM = {
    "cpu": RunSpread(
        between=0.024,
        within=0.025,
        freedom=PRIOR_FREEDOM,
        source="of CPUs, measured on one: docs/measurements/run-spread.md",
    ),
    "nvidia": replace(_ASSUMED, between=0.02, within=0.01, source="of NVIDIA cards, assumed"),
    "jetson": replace(_ASSUMED, between=0.02, within=0.01, source="of Jetson boards, assumed"),
    # Physics of its own, which every process computes alike.
    "simulated": RunSpread(between=0.0, within=0.0, freedom=PRIOR_FREEDOM, source="simulated devices have none"),
}
# Of a message, beside what messages of a measured link differ by: a share of its time, and what hosts add, seconds.
LINK_WITHIN, MESSAGE_WITHIN_S = 0.015, 3e-4


def prior_of(platform: str) -> RunSpread:
    """What is known of a platform."""
    return _OF_PLATFORM.get(platform, replace(_ASSUMED, source=f"of platform {platform}, assumed"))


def spread_of_runs(platform: str, profiles: Iterable[Profile]) -> RunSpread:
    """The spread of one device's runs, from its profiles of one subject (task, execution, state)."""
    prior = prior_of(platform)
    by_sitting: dict[str, list[float]] = {}
    for profile in profiles:
        step_s = step_seconds(profile)
        if step_s is not None:
            by_sitting.setdefault(profile.run.sitting or profile.run.uid, []).append(math.log(step_s))
    values = [mean(own) for own in by_sitting.values()]
    if prior.between == 0.0:
        return prior
    if len(values) < 2:
        return replace(prior, sittings=max(len(values), 1))
    own = len(values) - 1
    freedom = prior.freedom + own
    pooled = math.sqrt((prior.freedom * prior.between**2 + own * variance(values)) / freedom)
    source = f"{len(values)} sittings of its own, with those {prior.source}"
    return replace(prior, between=pooled, freedom=freedom, source=source, sittings=len(values))


def step_seconds(profile: Profile) -> float | None:
    """Seconds of a step of the whole model at a profile's best point; None where a part was not timed."""
    point, analysis = profile.best_point, profile.run.analysis
    if point is None or analysis is None:
        return None
    parts = [
        (cost.count, point.latency(cost.segment, phase))
        for cost in analysis.segments
        if cost.segment != EMBEDDING
        for phase in cost.phases
    ]
    if not parts or any(estimate is None or not estimate.value > 0 for _, estimate in parts):
        return None
    return sum(count * estimate.value for count, estimate in parts if estimate is not None)
