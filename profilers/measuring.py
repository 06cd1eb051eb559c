"""What is measured at one operating point, and in which order.

    before the lock   idle power (once a session)
    under the lock    settle - each segment - equivalent step (power) - waiting (power) - whole step

Power is measured on one equivalent step and not per segment: a window needs seconds of whole sensor
updates, a segment lasts milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from cardlab.identity import new_uid
from cardlab.profilers.platforms.base import Platform, State, on_request
from cardlab.profilers.platforms.reading import Reading
from cardlab.profilers.timing import CONTENDED, Progress, TimingPolicy, measure, measurements
from cardlab.profilers.workbench import Workbench
from cardlab.records.measurement import Measurement, OperatingPoint

IDLE_S = 10.0
EQUIVALENT_STEP = "equivalent_step"

Batch = tuple[Measurement, ...]


class PointMeasurer:
    """Measures points of one session; each batch it yields is to be committed at once.

    Args:
        budget_s: time for the timings of one point, shared among its segments; None has no limit.
    """

    def __init__(
        self,
        platform: Platform,
        bench: Workbench,
        policy: TimingPolicy,
        budget_s: float | None,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._platform = platform
        self._bench = bench
        self._policy = policy
        self._budget_s = budget_s
        self._on_progress = on_progress
        self._idle_known = False
        self._states: list[State] = []
        self._contended: set[str] = set()
        self._reading: Reading | None = None

    def before_lock(self, known: Sequence[Measurement]) -> Iterator[Batch]:
        """Idle power at whatever clock the device rests at; once, and only with a meter."""
        if self._idle_known or self._platform.meter is None:
            return
        self._idle_known = True
        if not _has(known, "idle_power"):
            yield tuple(power_measurements("idle_power", self._platform.measure_waiting(IDLE_S)))

    def under_lock(
        self, frequency_hz: float | None, known: Sequence[Measurement], whole_step: bool
    ) -> Iterator[Batch]:
        """Everything that is measured with the clock held; what `known` holds already is left out."""
        self._states, self._contended, self._reading = [], set(), None
        if self._platform.meter is not None:
            with self._bench.equivalent_step() as step:
                self._platform.settle(step, frequency_hz)
        yield from self._segments(known)
        if self._platform.meter is not None:
            yield from self._powers(known)
        if whole_step and not _has(known, "latency", "whole_step"):
            timing = self._bench.whole_step(self._policy)
            if timing is not None:
                yield measurements(timing)

    def operating_point(self, frequency_hz: float | None) -> OperatingPoint:
        """The state the point was measured in, from what was read under load."""
        states = self._states or [self._platform.state()]
        last, reading = states[-1], self._reading
        read_hz = reading.frequency_hz if reading else _mean(s.frequency_hz for s in states)
        throttled = _any([s.throttled for s in states] + ([reading.throttled] if reading else []))
        reasons = list(dict.fromkeys(r for s in states for r in s.reasons))
        if not on_request(read_hz, frequency_hz):
            throttled = True
            reasons.append(
                f"ran at {(read_hz or 0) / 1e6:.0f} MHz, not at {(frequency_hz or 0) / 1e6:.0f} MHz"
            )
        if self._contended:
            reasons.append(f"contended: {', '.join(sorted(self._contended))}")
        return OperatingPoint(
            frequency_hz=read_hz,
            memory_hz=last.memory_hz,
            cpu_hz=last.cpu_hz,
            power_mode=last.power_mode,
            cores_active=last.cores_active,
            temperature_c=reading.temperature_c if reading else _mean(s.temperature_c for s in states),
            throttled=throttled,
            contended=bool(self._contended),
            reasons=tuple(reasons),
        )

    def _segments(self, known: Sequence[Measurement]) -> Iterator[Batch]:
        clock = self._platform.clock
        end_s = None if self._budget_s is None else clock.now() + self._budget_s
        pending = [s for s in self._bench.segments if not _has(known, "latency", s)]
        reference = self._bench.reference() if pending else None
        for number, segment in enumerate(pending):
            policy = self._policy
            if end_s is not None:
                share_s = max(0.0, end_s - clock.now()) / (len(pending) - number)
                policy = replace(policy, budget_s=share_s)
            with self._bench.segment(segment) as work:
                timing = measure(
                    work,
                    self._platform.stopwatch,
                    reference=reference,
                    policy=policy,
                    clock=clock,
                    on_progress=self._on_progress,
                    provenance=self._platform.provenance,
                )
                self._states.append(self._platform.state())
            if timing.contended:
                self._contended.add(segment)
            yield measurements(timing)

    def _powers(self, known: Sequence[Measurement]) -> Iterator[Batch]:
        # Measured anew when resuming: the operating point is closed by this reading.
        with self._bench.equivalent_step() as step:
            self._reading = self._platform.measure(step)
        if not _has(known, "power"):
            yield tuple(power_measurements("power", self._reading, EQUIVALENT_STEP))
        if not _has(known, "wait_power"):
            yield tuple(power_measurements("wait_power", self._platform.measure_waiting()))


def power_measurements(quantity: str, reading: Reading, segment: str | None = None) -> Iterable[Measurement]:
    """One measurement a rail, with the samples of its window."""
    for name, trace in reading.traces.items():
        estimate = (
            reading.power_w if trace.rail.total else trace.mean(reading.seconds_per_iteration.provenance)
        )
        yield Measurement(
            uid=new_uid(),
            quantity=quantity,
            unit="W",
            segment=segment,
            rail=name,
            estimate=estimate,
            flags=() if estimate is not None else ("no whole sensor update",),
            samples={"end_s": trace.end_s, "power_w": trace.power_w},
            details={
                "total": trace.rail.total,
                "scope": trace.rail.scope,
                "source": trace.source,
                "update_s": trace.update_s,
                "quantisation_w": trace.quantisation_w,
                "temperature_c": reading.temperature_c,
            },
        )


def _has(known: Sequence[Measurement], quantity: str, segment: str | None = None) -> bool:
    """Whether a trustworthy value is there already."""
    return any(
        m.quantity == quantity
        and (segment is None or m.segment == segment)
        and m.estimate is not None
        and CONTENDED not in m.flags
        for m in known
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _any(flags: Sequence[bool | None]) -> bool | None:
    known = [flag for flag in flags if flag is not None]
    return any(known) if known else None
