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

from cardlab.core.quantity import Estimate, Provenance
from cardlab.core.records.device import Device, Environment
from cardlab.core.records.task import Execution, Task
from cardlab.core.records.workload import Analysis


class RunKind(str, Enum):
    """Why a device was visited.

    PROFILE: a task or a load, timed and metered. IMPORT: a sweep from a file. METER: a sensor held against an
    external meter. CODEC: size and time of codecs and of the handling of adapters. ACCURACY: what codecs cost in
    quality. TRAIN: a split run.
    """

    PROFILE = "profile"
    IMPORT = "import"
    METER = "meter"
    CODEC = "compression"
    ACCURACY = "accuracy"
    TRAIN = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPoint:
    """A point the run intends to visit; requested_hz None means the clock as found."""

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
    options: Mapping[str, object] = field(default_factory=dict)
    provenance: Provenance
    started_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """The state a point was measured in, as read back under load; None is not readable here.

    Attributes:
        frequency_hz: mean compute clock during the measurement.
        memory_hz, cpu_hz: memory and CPU clock.
        power_mode: name of the power mode (nvpmodel), None without modes.
        cores_active: cores not gated by the power mode.
        temperature_c: mean temperature during the measurement.
        throttled: the clock or power was limited by the hardware; None if it cannot be known.
        contended: other work disturbed most samples.
        reasons: one line per flag, in words.
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
    """

    scope: str | None = None
    total: bool | None = None
    source: str | None = None
    update_s: float | None = None
    quantisation_w: float | None = None
    check_w: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecCost:
    """What a codec did to one tensor of one mini-batch, or what one side does with a round's adapters.

    Attributes:
        cut: layers on the device.
        codec, tensor: name with parameters, and "activation" or "gradient"; None for the handling of adapters.
        side: "device" or "server" for the handling of adapters, None for a codec (a codec's cost is the machine's).
        values: of the tensor before encoding, None for adapters.
        encoded_bytes: after encoding; of the device's adapters for their handling.
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

    def find(self, quantity: str, segment: str | None = None, phase: str | None = None) -> Measurement | None:
        """The newest measurement of that quantity, segment and phase, None if there is none."""
        for measurement in reversed(self.measurements):
            key = (measurement.quantity, measurement.segment, measurement.phase)
            if key == (quantity, segment, phase):
                return measurement
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A run with everything it measured so far."""

    run: Run
    points: tuple[Point, ...]

    @property
    def complete(self) -> bool:
        """Whether every planned point is done."""
        done = {point.index for point in self.points if point.done}
        return all(planned.index in done for planned in self.run.planned)
