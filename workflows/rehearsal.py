"""Rehearse both sides of a split step after a profile and store what they took as a run of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cardlab.core.errors import CardlabError
from cardlab.core.identity import SITTING, new_uid
from cardlab.core.quantity import MEASURED, Estimate
from cardlab.core.records.measurement import (
    CodecCost,
    Measurement,
    OperatingPoint,
    PlannedPoint,
    Profile,
    Run,
    RunKind,
)
from cardlab.core.records.rehearsal import ADAPTERS, COMPUTE, DECODE, ENCODE, FIRST, LOAD, REHEARSAL
from cardlab.core.records.workload import Analysis
from cardlab.db.store import Store
from cardlab.db.times import utc_now
from cardlab.profilers.devices import HardwareDevice
from cardlab.profilers.measure.deadline import BudgetSpent, Deadline
from cardlab.profilers.measure.environment import gather_environment
from cardlab.profilers.measure.runtimes import open_runtime
from cardlab.workflows.connect import Say

if TYPE_CHECKING:
    from cardlab.split.rehearsal import SideReading

# What is free is never all there for one process.
_FREE_SHARE = 0.8


def rehearse(store: Store, profile: Profile, platform: HardwareDevice, say: Say, deadline: Deadline) -> str | None:
    """Make steps of each side as a run does, at its least and at its largest cut that fits, and keep their times.

    A plan takes what they take beyond a profile's segments from there. Returns the uid of the run; None where nothing
    could be rehearsed, which is said.
    """
    run = profile.run
    analysis = run.analysis
    if run.task is None or analysis is None or platform.torch_device is None:
        return None
    cuts = {side: found for side in ("device", "server") if (found := _cuts(analysis, side, platform))}
    planned = [(side, cut) for side, found in cuts.items() for cut in found]
    if not planned:
        say("not rehearsed: neither side of a cut fits in the free memory")
        return None
    point = profile.best_point
    kept = _Kept(store, profile, platform, planned)
    try:
        deadline.hold(0.0)
        with _held(platform, None if point is None else point.requested_hz):
            for reading in _readings(profile, platform, cuts, deadline):
                kept.keep(reading)
                if reading.compute.estimate is None:
                    side = f"the {reading.side}'s steps at cut {reading.cut}"
                    say(f"rehearsed among other work: {side} have no time, and plans take its segments")
    except BudgetSpent:
        say("not rehearsed to the end: the budget was spent")
    except CardlabError as error:
        # The profile is there: what cannot be rehearsed is left out, and plans say so.
        say(f"not rehearsed: {error.message}")
    return kept.uid


def _cuts(analysis: Analysis, side: str, platform: HardwareDevice) -> tuple[int, ...]:
    """The cuts with the fewest and the most layers on that side of those that fit; one where they are the same."""
    free = platform.memory_available_bytes()
    name = f"{side}_memory_bytes"
    fitting = [
        cut.cut
        for cut in analysis.cuts
        if free is None or getattr(cut, name) is None or getattr(cut, name) <= _FREE_SHARE * free
    ]
    if not fitting:
        return ()
    ends = (min(fitting), max(fitting))
    return tuple(dict.fromkeys(ends if side == "device" else ends[::-1]))


@contextmanager
def _held(platform: HardwareDevice, frequency_hz: float | None) -> Iterator[None]:
    """The frequency of the profile's best point, where that was held."""
    from cardlab.split.frequency import HeldFrequency

    frequency = HeldFrequency(platform)
    try:
        frequency.hold(frequency_hz)
        yield
    finally:
        frequency.release()


def _readings(
    profile: Profile, platform: HardwareDevice, cuts: dict[str, tuple[int, ...]], deadline: Deadline
) -> Iterator[SideReading]:
    from cardlab.profilers.board.cpu_timer import CpuLapTimer
    from cardlab.profilers.runtime.execution import import_torch
    from cardlab.split.rehearsal import Subject, rehearse
    from cardlab.split.weights import open_weights

    run = profile.run
    where = platform.torch_device
    assert run.task is not None and where is not None
    import_torch().set_num_threads(run.execution.threads)
    # A run pins nothing and collects its garbage.
    timer = (
        CpuLapTimer(threads=max(1, run.execution.threads), pin=False)
        if where == "cpu"
        else open_runtime(platform).lap_timer(run.execution.threads)
    )
    assert timer is not None
    subject = Subject(
        task=run.task, execution=run.execution, weights=open_weights(run.task, 0), torch_device=where, timer=timer
    )
    for side, own in cuts.items():
        yield from rehearse(subject, side, own, lambda: deadline.hold(0.0))


class _Kept:
    """The run that readings are stored in; it begins with the first of them."""

    def __init__(
        self, store: Store, profile: Profile, platform: HardwareDevice, planned: Sequence[tuple[str, int]]
    ) -> None:
        self._store, self._platform, self._places = store, platform, list(planned)
        of = profile.run
        self._run = Run(
            uid=new_uid(),
            kind=RunKind.REHEARSAL,
            device=platform.identity,
            execution=of.execution,
            environment=gather_environment(platform),
            task=of.task,
            planned=tuple(PlannedPoint(index=n) for n in range(len(planned))),
            sitting=SITTING,
            provenance=MEASURED,
            started_at=utc_now(),
        )
        self.uid: str | None = None
        self._since = self._run.started_at

    def keep(self, reading: SideReading) -> None:
        """Store the readings of one side at one cut."""
        if self.uid is None:
            self._store.runs.begin(self._run)
            self.uid = self._run.uid
        planned = self._run.planned[self._places.index((reading.side, reading.cut))]
        point = self._store.runs.begin_point(self.uid, planned)
        state = self._platform.state()
        operating = OperatingPoint(
            frequency_hz=state.frequency_hz,
            memory_hz=state.memory_hz,
            power_mode=state.power_mode,
            throttled=state.throttled,
            contended=reading.compute.contended,
            boot=self._platform.boot(),
            started_at=self._since,
            finished_at=utc_now(),
        )
        self._store.runs.finish_point(point, operating, *_measurements(reading))
        self._since = utc_now()


def _measurements(found: SideReading) -> list[Measurement]:
    timed = {COMPUTE: found.compute, ENCODE: found.encode, DECODE: found.decode, ADAPTERS: found.handling}
    rows = [
        Measurement(
            uid=new_uid(),
            quantity=REHEARSAL,
            unit="s",
            segment=name,
            estimate=timing.estimate,
            flags=timing.flags,
            clean=timing.clean,
            samples=timing.samples,
            codec=CodecCost(
                cut=found.cut,
                side=found.side,
                encoded_bytes=found.adapter_bytes if name == ADAPTERS else found.smashed_bytes,
            ),
        )
        for name, timing in timed.items()
    ]
    rows += [
        Measurement(
            uid=new_uid(),
            quantity=REHEARSAL,
            unit="s",
            segment=name,
            estimate=Estimate(seconds, n=1, provenance=MEASURED),
            codec=CodecCost(cut=found.cut, side=found.side, encoded_bytes=found.smashed_bytes),
        )
        for name, seconds in ((LOAD, found.load_s), (FIRST, found.first_more_s))
    ]
    return rows
