"""What is measured at one operating point, and in which order.

    before the lock   idle power (once a session)
    under the lock    settle - each segment - equivalent step (power) - waiting (power) - whole step

Power is measured on one equivalent step and not per segment: a window needs seconds of whole sensor
updates, a segment lasts milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from cardlab.core.errors import OutOfMemoryError
from cardlab.core.identity import new_uid
from cardlab.core.records.measurement import (
    SEGMENT_ENERGY,
    SEGMENT_POWER,
    WHOLE_STEP,
    Measurement,
    MeterReading,
    OperatingPoint,
)
from cardlab.core.records.workload import PHASES
from cardlab.db.times import utc_now
from cardlab.profilers.board.power import NO_UPDATE, mean_known
from cardlab.profilers.board.rules import on_request
from cardlab.profilers.board.segments import EQUIVALENT_STEP
from cardlab.profilers.board.series import TimingPolicy
from cardlab.profilers.board.summary import CONTENDED
from cardlab.profilers.board.window import idle_window_s
from cardlab.profilers.devices.device import HardwareDevice, State
from cardlab.profilers.measure.deadline import Deadline
from cardlab.profilers.measure.estimate import LEAST_TIMING_S, least_point_s, powers_s
from cardlab.profilers.measure.reading import Reading
from cardlab.profilers.measure.samples import WorkTiming, measurements
from cardlab.profilers.measure.segments import time_segments
from cardlab.profilers.measure.timing import Progress, TimingTools
from cardlab.profilers.measure.window import measure, measure_waiting, settle
from cardlab.profilers.runtime.workbench import Workbench

Batch = tuple[Measurement, ...]
OUT_OF_MEMORY = "out of memory"


class PointMeasurer:
    """Measures points of one session; each batch it yields is to be committed at once.

    Args:
        policy: when to stop; its budget is for all timings of one point.
        whole_step: times a real step of the whole model, None where there is none to be had.
        deadline: when the command's time ends; all methods raise BudgetSpent before what it does not hold.

    Attributes:
        power_per_segment: whether each segment also runs alone under the meter.
    """

    power_per_segment = False

    def __init__(
        self,
        device: HardwareDevice,
        bench: Workbench,
        policy: TimingPolicy,
        on_progress: Callable[[Progress], None],
        whole_step: Callable[[], WorkTiming | None],
        deadline: Deadline | None = None,
    ) -> None:
        self._device = device
        self._bench = bench
        self._whole_step = whole_step
        self._deadline = deadline or Deadline(device.timer)
        self._on_progress = on_progress
        # The bench says how its works are timed; a named load is left to the device.
        self._lap_timer = bench.lap_timer or device.lap_timer
        self._tools = TimingTools(
            lap_timer=self._lap_timer,
            timer=device.timer,
            policy=policy,
            on_progress=self._progressed,
            provenance=device.provenance,
        )
        self._step_fits = True
        self._idle_known = False
        self._started_at: str | None = None
        self._states: list[State] = []
        self._contended: set[str] = set()
        self._reading: Reading | None = None
        self._problems: list[str] = []

    def share_time(self, points: int) -> None:
        """Give the timings of the next point their part of what is left for so many; none without a deadline."""
        left_s = self._deadline.left_s()
        if left_s is None:
            return
        least_s = least_point_s(self._device)
        self._deadline.hold(least_s)
        budget_s = max(left_s / points - least_s, 0.0) + LEAST_TIMING_S
        self._tools = replace(self._tools, policy=self._tools.policy._replace(budget_s=budget_s))

    def before_lock(self, known: Sequence[Measurement]) -> Iterator[Batch]:
        """Idle power at whatever frequency the device rests at; once, and only with a meter."""
        self._started_at = utc_now()
        if self._idle_known or self._device.meter is None:
            return
        self._idle_known = True
        if not _has(known, "idle_power"):
            idle_s = idle_window_s(self._device.meter.update_s, self._device.window_min_s)
            self._deadline.hold(idle_s)
            yield tuple(power_measurements("idle_power", measure_waiting(self._device, idle_s)))

    def under_lock(self, frequency_hz: float | None, known: Sequence[Measurement], whole_step: bool) -> Iterator[Batch]:
        """Everything that is measured with the frequency held; what `known` holds already is left out."""
        self._states, self._contended, self._reading = [], set(), None
        self._problems = list(self._device.lock_problems())
        # Settling goes by the power reading; without a meter the warm-up of each timing has to do.
        if self._device.meter is not None:
            try:
                with self._bench.equivalent_step() as step:
                    settle(self._device, step, frequency_hz, self._lap_timer, self._deadline)
            except OutOfMemoryError:
                # The activations of all layers are kept at once: single segments may fit where they do not.
                self._step_fits = False
        yield from self._segments(known)
        if self._device.meter is not None:
            yield from self._powers(known)
        if whole_step and not _has(known, "latency", "whole_step"):
            yield from self._checked_step()

    def operating_point(self, frequency_hz: float | None) -> OperatingPoint:
        """The state the point was measured in, from what was read under load."""
        states = self._states or [self._device.state()]
        last, reading = states[-1], self._reading
        read_hz = reading.frequency_hz if reading else mean_known(s.frequency_hz for s in states)
        throttled = _any([s.throttled for s in states] + ([reading.throttled] if reading else []))
        said = [r for s in states for r in s.reasons] + list(reading.reasons if reading else ())
        problems = self._problems + list(self._device.lock_problems())
        reasons = list(dict.fromkeys(said + problems))
        if problems:
            throttled = True
        # A frequency that was not reached is a limit of the hardware, whether or not it gave a reason.
        if not on_request(read_hz, frequency_hz):
            throttled = True
            reasons.append(f"ran at {(read_hz or 0) / 1e6:.0f} MHz, not at {(frequency_hz or 0) / 1e6:.0f} MHz")
        if not self._step_fits:
            reasons.append("the step that power is measured on does not fit in memory: power is N/A")
        if self._contended:
            reasons.append(f"contended: {', '.join(sorted(self._contended))}")
        return OperatingPoint(
            frequency_hz=read_hz,
            memory_hz=last.memory_hz,
            cpu_hz=last.cpu_hz,
            power_mode=last.power_mode,
            cores_active=last.cores_active,
            temperature_c=reading.temperature_c if reading else mean_known(s.temperature_c for s in states),
            throttled=throttled,
            contended=bool(self._contended),
            reasons=tuple(reasons),
            boot=self._device.boot(),
            started_at=self._started_at,
            finished_at=utc_now(),
        )

    def _segment_powers(self, known: Sequence[Measurement]) -> Iterator[Batch]:
        """Each segment alone under the meter: power of every rail, and the energy of one occurrence."""
        for name in self._bench.segments:
            if _has(known, SEGMENT_ENERGY, name):
                continue
            self._deadline.hold(powers_s(self._device))
            with self._bench.segment(name) as work:
                reading = measure(self._device, work, lap_timer=self._lap_timer)
            powers = tuple(power_measurements(SEGMENT_POWER, reading, name))
            energy = reading.energy_per_iteration_j
            total = next((m for m in powers if m.meter is not None and m.meter.total), None)
            # Read over the same window that counted the iterations: direct, where power x time of two windows is not.
            estimate = None if energy is None else energy.scaled(1.0 / work.repeats)
            measured = None if estimate is None else replace(estimate, provenance=self._device.provenance)
            yield (
                *powers,
                Measurement(
                    uid=new_uid(),
                    quantity=SEGMENT_ENERGY,
                    unit="J",
                    segment=name,
                    rail=None if total is None else total.rail,
                    estimate=measured,
                    flags=() if measured is not None else (NO_UPDATE,),
                    meter=None if total is None else total.meter,
                ),
            )

    def _checked_step(self) -> Iterator[Batch]:
        """The whole step, or that it does not fit: it only checks the segments, so the point goes on without it."""
        try:
            timing = self._whole_step()
        except OutOfMemoryError:
            yield tuple(
                Measurement(
                    uid=new_uid(),
                    quantity="latency",
                    unit="s",
                    segment=WHOLE_STEP,
                    phase=phase,
                    flags=(OUT_OF_MEMORY,),
                )
                for phase in PHASES
            )
            return
        if timing is not None:
            yield measurements(timing)

    def _progressed(self, progress: Progress) -> None:
        self._on_progress(progress)
        self._deadline.hold(0.0)

    def _segments(self, known: Sequence[Measurement]) -> Iterator[Batch]:
        for timing in time_segments(self._bench, self._tools, skip=_measured(known)):
            self._states.append(self._device.state())
            # A disturbed copy or optimizer step says nothing against the segments, on which plans rest.
            if timing.contended and timing.segment in self._bench.segments:
                self._contended.add(timing.segment)
            yield measurements(timing)

    def _powers(self, known: Sequence[Measurement]) -> Iterator[Batch]:
        if not self._step_fits:
            yield (
                Measurement(uid=new_uid(), quantity="power", unit="W", segment=EQUIVALENT_STEP, flags=(OUT_OF_MEMORY,)),
            )
            return
        self._deadline.hold(powers_s(self._device))
        # Measured anew when resuming: the operating point is closed by this reading.
        with self._bench.equivalent_step() as step:
            self._reading = measure(self._device, step, lap_timer=self._lap_timer)
        if not _has(known, "power"):
            yield tuple(power_measurements("power", self._reading, EQUIVALENT_STEP))
        if self.power_per_segment:
            yield from self._segment_powers(known)
        if not _has(known, "wait_power"):
            yield tuple(power_measurements("wait_power", measure_waiting(self._device)))


def power_measurements(quantity: str, reading: Reading, segment: str | None = None) -> Iterable[Measurement]:
    """One measurement a rail, with the samples of its window."""
    for name, trace in reading.traces.items():
        estimate = reading.power_w if trace.rail.total else trace.mean(reading.seconds_per_iteration.provenance)
        yield Measurement(
            uid=new_uid(),
            quantity=quantity,
            unit="W",
            segment=segment,
            rail=name,
            estimate=estimate,
            flags=() if estimate is not None else (NO_UPDATE,),
            samples={"end_s": trace.end_s, "power_w": trace.power_w},
            meter=MeterReading(
                scope=trace.rail.scope,
                total=trace.rail.total,
                source=trace.source,
                update_s=trace.update_s,
                quantisation_w=trace.quantisation_w,
                check_w=trace.check_w,
                systematic=trace.systematic,
            ),
            details={"temperature_c": reading.temperature_c, **trace.facts},
        )


def _measured(known: Sequence[Measurement]) -> frozenset[str]:
    """Segments that have trustworthy times already."""
    return frozenset(m.segment for m in known if m.segment and _has(known, "latency", m.segment))


def _has(known: Sequence[Measurement], quantity: str, segment: str | None = None) -> bool:
    """Whether a trustworthy value is there already."""
    return any(
        m.quantity == quantity
        and (segment is None or m.segment == segment)
        and m.estimate is not None
        and CONTENDED not in m.flags
        for m in known
    )


def _any(flags: Sequence[bool | None]) -> bool | None:
    known = [flag for flag in flags if flag is not None]
    return any(known) if known else None
