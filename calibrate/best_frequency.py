"""The frequency of least energy of a step, found with as few points as it takes.

    first points -> measured -> believed -> known within 2 % at 95 %?  yes: the answer
                       ^------ the point that tells most <------------  no

A frequency that a device does not keep (power cap, heat) is no choice, and none above it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from cardlab.calibrate.data import SAME_CLOCK
from cardlab.calibrate.next_point import Belief, StepPoint, believe, first_points
from cardlab.calibrate.open_decisions import OpenDecisions
from cardlab.core.errors import BadDataError
from cardlab.core.quantity import Estimate, Provenance, sum_of, union_of
from cardlab.core.records.measurement import PlannedPoint, Point, Profile
from cardlab.core.records.workload import PHASES, Analysis
from cardlab.core.tables import Cell, Tabular

# What a search believes after some points of a profile, at the frequencies that the device keeps.
Believed = Belief | OpenDecisions
Judge = Callable[[Profile, tuple[float, ...]], Believed | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BestFrequency(Tabular):
    """The frequency at which a step spends least energy, among those that a device offers and keeps.

    Attributes:
        frequency_hz: the choice.
        regret95: it spends at most this much more than the true best, as a share, at 95 %.
        known: whether that is within 2 %.
        saving: share of the energy at the highest frequency that it saves; saving_ci95 its interval.
        slower: share by which a step takes longer there than at the highest frequency.
        highest_hz: the highest frequency that is kept.
        measured: frequencies that were measured, of `offered`.
        curve: (frequency Hz, energy of a step J, its 2.5 % and 97.5 % bounds J), ascending.
        provenance: of the points that it rests on.
    """

    frequency_hz: float
    regret95: float
    known: bool
    saving: float
    saving_ci95: tuple[float, float]
    slower: float
    highest_hz: float
    measured: int
    offered: int
    curve: tuple[tuple[float, float, float, float], ...]
    provenance: Provenance

    def rows(self) -> list[dict[str, Cell]]:
        """A row an offered frequency: energy of a step with its interval (J)."""
        return [
            {"frequency_hz": hz, "energy_j": energy, "energy_low_j": low, "energy_high_j": high}
            for hz, energy, low, high in self.curve
        ]


def best_frequency(profile: Profile) -> BestFrequency:
    """What a profile says of the frequency of least energy.

    Raises BadDataError where it has no power or fewer than two frequencies that were kept.
    """
    offered, readings = kept_hz(profile), tuple(_points(profile))
    used = [reading for reading in readings if reading.point.frequency_hz in offered]
    belief = believe(offered, [reading.point for reading in used])
    mean, low, high = belief.saving()
    seconds = belief.seconds[:, belief.best] / belief.seconds[:, -1]
    bounds = np.quantile(belief.energies_j, (0.025, 0.975), axis=0)
    curve = zip(belief.offered_hz, belief.energies_j.mean(axis=0), *bounds, strict=True)
    return BestFrequency(
        frequency_hz=belief.best_hz,
        regret95=belief.regret95,
        known=belief.known,
        saving=mean,
        saving_ci95=(low, high),
        slower=float(seconds.mean()) - 1.0,
        highest_hz=float(belief.offered_hz[-1]),
        measured=int(belief.measured.sum()),
        offered=len(profile.run.offered_hz or ()),
        curve=tuple((float(hz), float(mid), float(a), float(b)) for hz, mid, a, b in curve),
        provenance=union_of(reading.provenance for reading in used),
    )


def begin_search(offered_hz: tuple[float, ...]) -> tuple[PlannedPoint, ...]:
    """The points to begin with."""
    return tuple(PlannedPoint(index=n, requested_hz=hz) for n, hz in enumerate(first_points(offered_hz)))


def believed(profile: Profile, offered_hz: tuple[float, ...]) -> Belief | None:
    """What a profile says of the energy of a step; None where fewer than two frequencies say something."""
    points = [reading.point for reading in _points(profile) if reading.point.frequency_hz in offered_hz]
    return believe(offered_hz, points) if len({point.frequency_hz for point in points}) > 1 else None


def following(
    profile: Profile, judge: Judge = believed, allowed_hz: tuple[float, ...] | None = None
) -> PlannedPoint | None:
    """The point to measure next; None where all is known, or nothing is left that would tell more.

    `judge` says what is believed after some points, and `allowed_hz` which frequencies count (all that are offered).
    """
    offered, visited = kept_hz(profile, allowed_hz), {point.requested_hz for point in profile.points if point.done}
    index = max((point.index for point in profile.points), default=-1) + 1
    begun = next((p for p in profile.points if not p.done and p.requested_hz not in visited), None)
    if begun is not None:
        return PlannedPoint(index=begun.index, requested_hz=begun.requested_hz)
    if not offered:
        return None
    # Beyond the points nothing is known: the ends of what is kept come first.
    for end in (offered[-1], offered[0]):
        if end not in visited:
            return PlannedPoint(index=index, requested_hz=end)
    found = judge(profile, offered)
    if found is None:
        return None
    belief = _without(found, visited)
    wanted = None if belief.known else belief.next_hz()
    return None if wanted is None else PlannedPoint(index=index, requested_hz=wanted)


def _without(belief: Believed, visited: set[float | None]) -> Believed:
    """The same where what was visited and gave no number is not asked for again."""
    return replace(belief, measured=belief.measured | np.isin(belief.offered_hz, [hz for hz in visited if hz]))


def kept_hz(profile: Profile, allowed_hz: tuple[float, ...] | None = None) -> tuple[float, ...]:
    """Offered frequencies (of those allowed) that are kept, as far as the points say, ascending."""
    throttled = [point for point in profile.points if point.operating is not None and point.operating.throttled]
    caps = [p.operating.frequency_hz for p in throttled if p.operating and p.operating.frequency_hz is not None]
    cap = min(caps, default=float("inf")) * (1.0 + SAME_CLOCK)
    # One that was throttled is no choice even where its clock was read as asked for: between two reads it was not.
    lost = min((p.requested_hz for p in throttled if p.requested_hz is not None), default=float("inf"))
    every = (profile.run.offered_hz or ()) if allowed_hz is None else allowed_hz
    return tuple(sorted(hz for hz in every if hz <= cap and hz < lost))


@dataclass(frozen=True, slots=True)
class _Reading:
    point: StepPoint
    provenance: Provenance


def _points(profile: Profile) -> Iterator[_Reading]:
    """Power and time of a step at each done point that kept its frequency."""
    for point in profile.points:
        if not kept(point) or point.requested_hz is None:
            continue
        power, seconds = point.total_power(), step_time(profile.run.analysis, point)
        if power is None or power.estimate is None or seconds is None:
            continue
        found = StepPoint(
            frequency_hz=point.requested_hz,
            power_w=power.estimate.value,
            seconds=seconds.value,
            power_error=relative_error(power.estimate),
            seconds_error=relative_error(seconds),
        )
        yield _Reading(found, union_of((power.estimate.provenance, seconds.provenance)))


def kept(point: Point) -> bool:
    """Whether it was measured to its end at the frequency that was asked for."""
    return point.requested_hz is not None and point.operating is not None and not point.operating.throttled


def step_time(analysis: Analysis | None, point: Point) -> Estimate | None:
    """Time of a whole step there, s; None where a part of it is missing."""
    if analysis is None:
        parts = [m.estimate for m in point.measurements if m.quantity == "latency"]
    else:
        parts = [point.sum_of_segments(analysis, phase) for phase in PHASES]
    known = [part for part in parts if part is not None]
    return sum_of(known) if known and len(known) == len(parts) else None


def relative_error(estimate: Estimate) -> float:
    """Standard error as a share of the value, 0 where it is not known."""
    return 0.0 if estimate.stderr is None else estimate.stderr / estimate.value


def check_choosable(offered_hz: tuple[float, ...], name: str) -> None:
    """Raise BadDataError for a device whose frequency cannot be held."""
    if not offered_hz:
        raise BadDataError(
            f"--frequencies best has nothing to choose: the frequency of {name} cannot be held",
            remedy="leave it out, or see what is lacking: profile-device doctor",
        )


def check_searchable(offered_hz: tuple[float, ...], has_meter: bool, name: str) -> None:
    """Raise BadDataError for a device whose energy over its frequencies cannot be measured."""
    check_choosable(offered_hz, name)
    if not has_meter:
        raise BadDataError(
            f"--frequencies best looks for least energy, and {name} has no power meter",
            remedy="leave it out, or see what is lacking: profile-device doctor",
        )
