"""What was measured: a run visits operating points and takes measurements at each.

Rows are append-only. A point is announced when it begins and is *done* when its operating point (what
was read back under load) has been recorded; whatever was measured in between is kept either way. A
run is complete when every point it planned is done. Nothing is ever updated, so merging two copies of
a database is a union.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from cardlab.core.quantity import Estimate, Provenance, product, sum_of
from cardlab.core.records.device import Device, Environment
from cardlab.core.records.task import Execution, Task
from cardlab.core.records.workload import FORWARD, PHASES, Analysis, SegmentCost, is_layer
from cardlab.core.tables import Cell, Tabular

# In the order in which a point measures them.
POWERS = ("power", "wait_power", "idle_power")
WHOLE_STEP = "whole_step"
# Of one segment that ran alone under the meter: power of each rail, energy of the whole device for one occurrence.
SEGMENT_POWER, SEGMENT_ENERGY = "segment_power", "segment_energy"


class RunKind(str, Enum):
    """Why a device was visited.

    PROFILE: a task or a load, timed and metered. IMPORT: a sweep from a file. METER: a sensor held against an
    external meter. CODEC: size and time of codecs and of the handling of adapters. ACCURACY: what codecs cost in
    quality. TRAIN: a split run. REHEARSAL: steps of one side of a cut model as a run makes them.
    """

    PROFILE = "profile"
    IMPORT = "import"
    METER = "meter"
    CODEC = "compression"
    ACCURACY = "accuracy"
    TRAIN = "train"
    REHEARSAL = "rehearsal"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPoint:
    """A point the run intends to visit; requested_hz None means the frequency as found: the governor's default."""

    index: int
    requested_hz: float | None = None
    memory_hz: float | None = None
    anchor: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One visit to one device: what was to be measured, with what, on what.

    Attributes:
        uid: identity made where it was measured.
        kind: why the device was visited.
        device, environment, execution: as resolved when the run began.
        task: the fine-tuning task, None for imports and external loads.
        workload: label of an import or an external load, None for a task.
        analysis: static cost of the task, None without a task.
        planned: the points in the order they are to be visited.
        offered_hz: compute frequencies the device offered, ascending; () where it has no frequency control, None
            where that was not recorded.
        memory_budget_bytes: memory that a model could really have when the run began, None if unknown.
        sitting: made once in each process; runs of one sitting share its warm caches, heat and luck.
        expected_notes: of a split run without a plan, what its predictions rest on and lack: marks of their inputs.
        for_plan: name and digest of the scenario whose plan its points were chosen for; None where none was.
        options: resolved options (repeats, readonly...), for people only.
        provenance: of everything measured in it.
        started_at: UTC, ISO 8601.
    """

    uid: str
    kind: RunKind
    device: Device
    execution: Execution
    environment: Environment
    task: Task | None = None
    workload: str | None = None
    analysis: Analysis | None = None
    planned: tuple[PlannedPoint, ...] = ()
    offered_hz: tuple[float, ...] | None = None
    memory_budget_bytes: int | None = None
    sitting: str | None = None
    expected_notes: tuple[str, ...] = ()
    for_plan: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    provenance: Provenance
    started_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """The state a point was measured in, as read back under load; None is not readable here.

    Attributes:
        frequency_hz: mean compute frequency during the measurement.
        memory_hz, cpu_hz: memory and CPU frequency.
        power_mode: name of the power mode (nvpmodel), None without modes.
        cores_active: cores not gated by the power mode.
        temperature_c: mean temperature during the measurement.
        throttled: the frequency or power was limited by the hardware; None if it cannot be known.
        contended: other work disturbed most samples.
        reasons: one line per flag, in words.
        boot: which start of which host it was measured in (a digest); None where nothing real was measured.
        started_at, finished_at: UTC, ISO 8601; None in profiles made before that was recorded.
    """

    frequency_hz: float | None = None
    memory_hz: float | None = None
    cpu_hz: float | None = None
    power_mode: str | None = None
    cores_active: int | None = None
    temperature_c: float | None = None
    throttled: bool | None = None
    contended: bool = False
    reasons: tuple[str, ...] = ()
    boot: str | None = None
    started_at: str | None = None
    finished_at: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterReading:
    """How a power was read.

    Attributes:
        scope: what the rail covers, in words.
        total: the rail covers the whole device; None where that is not known.
        source: sensor or call that was read, None if unknown.
        update_s: interval of the sensor's updates.
        quantisation_w: step of the sensor.
        check_w: mean of a second source over the same window.
        systematic: relative standard deviation of what this sensor is off by, which no repetition removes: what its
            class is known for, until it is calibrated; None where nothing is known of it.
        calibration: uid of what the value was corrected by (`core.records.meter`); None as it was read, and as it is
            stored.
    """

    scope: str | None = None
    total: bool | None = None
    source: str | None = None
    update_s: float | None = None
    quantisation_w: float | None = None
    check_w: float | None = None
    systematic: float | None = None
    calibration: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecCost:
    """What a codec did to one tensor of one mini-batch, or what one side does in a step or with a round's adapters.

    Attributes:
        cut: layers on the device.
        codec, tensor: name with parameters, and "activation" or "gradient"; None for what a side does.
        side: "device" or "server" for what a side does, None for a codec (a codec's cost is the machine's).
        values: of the tensor before encoding, None for adapters and steps.
        encoded_bytes: after encoding; of the device's adapters for their handling, of a packed activation for a step.
        error: |decoded - original| / |original|, Euclidean, None for adapters.
        encode_s, decode_s: median of the passes, None for adapters.
    """

    cut: int
    codec: str | None = None
    tensor: str | None = None
    side: str | None = None
    values: int | None = None
    encoded_bytes: int
    error: float | None = None
    encode_s: float | None = None
    decode_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One quantity at one point, with its raw samples.

    Attributes:
        quantity: "latency", "power", "wait_power", "idle_power", "energy", "memory"...
        unit: SI unit of the value ("s", "W", "J", "bytes").
        segment: model segment, or another named piece of work ("whole_step", "optimizer", "copy").
        phase: "forward", "backward" or None.
        rail: what a power value covers ("board", "VDD_IN"...).
        estimate: the value; None when it was attempted and is not trustworthy (see flags).
        flags: "contended", "throttled"...
        repeats: occurrences of the segment in one timed lap, whose samples are of the whole lap.
        clean: samples that nothing disturbed, None where that was not judged.
        meter: how a power was read.
        codec: of a codec or of the handling of adapters.
        samples: raw float64 samples by name ("wall_s", "cpu_s", "reference_s", "power_w"...).
        details: further facts, for people only.
    """

    uid: str
    quantity: str
    unit: str
    segment: str | None = None
    phase: str | None = None
    rail: str | None = None
    estimate: Estimate | None = None
    flags: tuple[str, ...] = ()
    repeats: int = 1
    clean: int | None = None
    meter: MeterReading | None = None
    codec: CodecCost | None = None
    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A visited point: what was asked for, what was read back, what was measured.

    `operating` is None while the point is not done (still running, or cut short).
    """

    uid: str
    index: int
    requested_hz: float | None
    memory_requested_hz: float | None = None
    anchor: bool = False
    operating: OperatingPoint | None = None
    measurements: tuple[Measurement, ...] = ()

    @property
    def done(self) -> bool:
        """Whether the point was measured to its end."""
        return self.operating is not None

    @property
    def held(self) -> bool:
        """Whether its frequency was held; else the hardware's governor had it."""
        return self.requested_hz is not None

    def find(self, quantity: str, segment: str | None = None, phase: str | None = None) -> Measurement | None:
        """The newest measurement of that quantity, segment and phase, None if there is none."""
        for measurement in reversed(self.measurements):
            key = (measurement.quantity, measurement.segment, measurement.phase)
            if key == (quantity, segment, phase):
                return measurement
        return None

    def latency(self, segment: str, phase: str) -> Estimate | None:
        """Time of one occurrence of a segment in one phase, s; None where it was not measured or cannot be trusted."""
        measurement = self.find("latency", segment, phase)
        return None if measurement is None else measurement.estimate

    def total_power(self, quantity: str = "power") -> Measurement | None:
        """The power reading of the rail that covers the whole device; None without one.

        The newest that can be trusted, else the newest: what it lacks, its flags say. `quantity` is one of POWERS.
        """
        # Rails nest: adding them up would count a watt twice, so only a rail that says it is the total counts.
        found = [m for m in self.measurements if m.quantity == quantity and m.meter is not None and m.meter.total]
        known = [m for m in found if m.estimate is not None]
        chosen = known or found
        return chosen[-1] if chosen else None

    @property
    def times_a_layer(self) -> bool:
        """Whether the time of layers beyond the first is known there, of every kind that was timed."""
        found = {m.segment for m in self.measurements if m.quantity == "latency" and is_layer(m.segment)}
        return bool(found) and all(self.latency(str(segment), FORWARD) is not None for segment in found)

    def sum_of_segments(self, analysis: Analysis, phase: str) -> Estimate | None:
        """Time of one phase of the whole model from its segments, s; None where one is missing.

        Its standard error is unknown where that of a segment is.
        """
        parts = []
        for cost in analysis.segments:
            if phase not in cost.phases:
                continue
            estimate = self.latency(cost.segment, phase)
            # One missing segment makes the sum a lie.
            if estimate is None:
                return None
            parts.append(estimate.scaled(cost.count))
        return sum_of(parts) if parts else None

    def segment_energy(self, cost: SegmentCost) -> Estimate | None:
        """Energy of one forward and backward of a segment, J.

        As metered while that segment ran alone (direct), else power of the whole device x time (derived).
        """
        metered = self.find(SEGMENT_ENERGY, cost.segment)
        if metered is not None and metered.estimate is not None:
            return metered.estimate
        power = self.total_power()
        times = [self.latency(cost.segment, phase) for phase in cost.phases]
        known = [t for t in times if t is not None]
        if power is None or power.estimate is None or len(known) < len(times):
            return None
        return product(power.estimate, sum_of(known))

    @property
    def flagged(self) -> bool:
        """Whether the point ran throttled or among other work, so that what it measured may be off."""
        return self.operating is not None and bool(self.operating.throttled or self.operating.contended)


def _speed(point: Point) -> tuple[float, float, float]:
    """What ranks points: compute frequency to 1 MHz, then the memory's, where one was read."""
    state = point.operating or OperatingPoint()
    hz = state.frequency_hz or 0.0
    return round(hz / 1e6), state.memory_hz or 0.0, hz


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCheck:
    """The sum of the segments beside a real whole step, s by phase; None where either was not measured."""

    sum_of_segments: Mapping[str, Estimate | None]
    whole_step: Mapping[str, Estimate | None]

    @staticmethod
    def total_s(phases: Mapping[str, Estimate | None]) -> float | None:
        """Both phases together; None where one is missing."""
        known = [e.value for e in phases.values() if e is not None]
        return sum(known) if known and len(known) == len(phases) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile(Tabular):
    """A run with everything it measured so far."""

    run: Run
    points: tuple[Point, ...]

    @property
    def run_id(self) -> str:
        """Identity of the run."""
        return self.run.uid

    @property
    def device(self) -> Device:
        """What was measured."""
        return self.run.device

    def rows(self) -> list[dict[str, Cell]]:
        """A row a point and segment: times of one occurrence (s), power of the whole device (W), energy (J)."""
        found: list[dict[str, Cell]] = []
        for point in self.points:
            power = point.total_power()
            state = point.operating or OperatingPoint()
            head: dict[str, Cell] = {
                "point": point.index,
                "requested_hz": point.requested_hz,
                "frequency_hz": state.frequency_hz,
                "power_mode": state.power_mode,
                "temperature_c": state.temperature_c,
                "throttled": state.throttled,
                "contended": state.contended,
                "power_w": None if power is None or power.estimate is None else power.estimate.value,
            }
            for cost in () if self.run.analysis is None else self.run.analysis.segments:
                forward, backward = (point.latency(cost.segment, phase) for phase in PHASES)
                energy = point.segment_energy(cost)
                found.append(
                    {
                        **head,
                        "segment": cost.segment,
                        "count": cost.count,
                        "forward_s": None if forward is None else forward.value,
                        "backward_s": None if backward is None else backward.value,
                        "energy_j": None if energy is None else energy.value,
                    }
                )
        return found

    @property
    def complete(self) -> bool:
        """Whether every planned point is done."""
        done = {point.index for point in self.points if point.done}
        return all(planned.index in done for planned in self.run.planned)

    @property
    def best_point(self) -> Point | None:
        """The point at the highest compute frequency that was not throttled; None if no time can be trusted.

        A contended point that --repeats kept is better than none, and worse than any clean one. Where frequencies were
        held, only points of those count.
        """
        good = [p for p in self._swept if p.operating is not None and not p.operating.throttled and p.times_a_layer]
        # Better a disturbed time than none, where --repeats kept one.
        quiet = [p for p in good if not p.flagged] or good
        return max(quiet, key=_speed, default=None)

    @property
    def holds(self) -> bool:
        """Whether a frequency was held at any of its points."""
        return any(point.held for point in self.points)

    @property
    def _swept(self) -> tuple[Point, ...]:
        # What a governor did says nothing of a frequency that is held, and a plan holds frequencies.
        return tuple(p for p in self.points if p.held or not self.holds)

    @property
    def governed_point(self) -> Point | None:
        """The newest finished point with the frequency left to the governor, one with times first; None without one."""
        found = [p for p in self.points if p.done and not p.held]
        timed = [p for p in found if p.times_a_layer] or found
        return timed[-1] if timed else None

    @property
    def memory_limit_bytes(self) -> int | None:
        """Memory that a model could really have when the run began, else the device's own; None if neither is known."""
        # A driver that knows no memory of its own (unified memory) may say 0.
        return self.run.memory_budget_bytes or self.run.device.memory_bytes or None

    @property
    def total_rail(self) -> str | None:
        """Name of the rail that covers the whole device, None without one."""
        return next((m.rail for p in self.points if (m := p.total_power()) is not None), None)

    @property
    def idle_power(self) -> Estimate | None:
        """Power of the whole device with nothing to do, W; None if it was not measured."""
        found = (m.estimate for p in self.points if (m := p.total_power("idle_power")) is not None)
        return next((e for e in found if e is not None), None)

    @property
    def layer_load(self) -> Estimate | None:
        """Time to fetch one layer's weights, s: what moving the cut by one costs; None if it was not measured."""
        point = self.best_point
        return None if point is None else point.latency("layer_load", "load")

    @property
    def step_check(self) -> StepCheck:
        """At the point where a whole step was measured, else at the finished point of the highest frequency."""
        point, analysis = self._checked_point(), self.run.analysis
        return StepCheck(
            sum_of_segments={
                phase: None if point is None or analysis is None else point.sum_of_segments(analysis, phase)
                for phase in PHASES
            },
            whole_step={phase: None if point is None else point.latency(WHOLE_STEP, phase) for phase in PHASES},
        )

    def _checked_point(self) -> Point | None:
        # The whole step is measured at the last point of a sweep only.
        stepped = [p for p in self.points if p.find("latency", WHOLE_STEP, "forward") is not None]
        done = [p for p in self.points if p.done]
        return stepped[-1] if stepped else max(done, key=lambda p: p.requested_hz or 0.0, default=None)

    def fits_on_device(self, cut: int) -> bool | None:
        """Whether the device's side of a cut fits the memory that the run found; None where either is unknown."""
        needed = None if self.run.analysis is None else self.run.analysis.cut(cut).device_memory_bytes
        limit = self.memory_limit_bytes
        return None if needed is None or limit is None else needed <= limit
