"""What a series of samples says as records: an estimate of one occurrence of the segment, or that there is none.

Which number is believed is said in board/summary.py, which the agent follows too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cardlab.core.identity import new_uid
from cardlab.core.quantity import Estimate, Provenance
from cardlab.core.records.measurement import Measurement
from cardlab.profilers.board.rules import interval95
from cardlab.profilers.board.summary import CONTENDED, HOST_BOUND, summarise
from cardlab.profilers.board.timer import LapSample


@dataclass(frozen=True, slots=True, kw_only=True)
class LapTiming:
    """What came out for one lap; times are of one occurrence of the segment.

    Attributes:
        phase: of the lap.
        estimate: seconds; None when too few samples were clean.
        contended: most or too many samples were disturbed.
        host_bound: the GPU alone needs much less: the time is that of launching its kernels.
        clean: number of clean samples.
        samples: raw seconds of the whole lap by name: "wall_s", "cpu_s", "queued_s", "clean" (0 or 1).
    """

    phase: str
    estimate: Estimate | None
    contended: bool
    clean: int
    samples: Mapping[str, tuple[float, ...]]
    host_bound: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        """What a reader of the value must know."""
        return (*((CONTENDED,) if self.contended else ()), *((HOST_BOUND,) if self.host_bound else ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkTiming:
    """All laps of one work.

    Attributes:
        segment, repeats: of the work; lap samples cover `repeats` occurrences.
        laps: in running order.
        reference_s: wall seconds of the reference kernel before each iteration; empty without one.
        elapsed_s: by the timer, warm-up included.
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


def lap_timing(
    phase: str,
    samples: Sequence[LapSample],
    repeats: int,
    exact: bool,
    provenance: Provenance,
    queued_s: Sequence[float] = (),
) -> LapTiming:
    """What a series of samples says; `exact` numbers of repeats always give a value."""
    found = summarise(samples, exact, queued_s)
    estimate: Estimate | None = None
    if found.value_s is not None:
        ci95 = None if found.stderr_s is None else interval95(found.value_s, found.stderr_s)
        estimate = Estimate(found.value_s, found.stderr_s, ci95, found.n, provenance).scaled(1.0 / repeats)
    return LapTiming(
        phase=phase,
        estimate=estimate,
        contended=found.contended,
        host_bound=found.host_bound,
        clean=found.clean,
        samples=found.samples,
    )


def measurements(timing: WorkTiming) -> tuple[Measurement, ...]:
    """One "latency" record in seconds per lap, with raw samples and the reference kernel's."""
    records = []
    for lap in timing.laps:
        samples = dict(lap.samples)
        # Stored with each lap, so that a drift of the machine can be found long afterwards.
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
                flags=lap.flags,
                samples=samples,
                repeats=timing.repeats,
                clean=lap.clean,
            )
        )
    return tuple(records)
