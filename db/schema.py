"""The tables. Every row that was born on a device carries a `uid` made there; integer keys stay here.

Rows are inserted and never updated, so the union of two databases is their merge. Descriptions
(device, task, execution, environment) are content-addressed: their uid is the hash of what they say.
Text times are UTC, ISO 8601 with microseconds and a final Z, so that they sort as text.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from cardlab.core.plain import Document

HEAD_REVISION = "v0_2_0"
# In order of release: an older one can be upgraded, one that is not listed must be newer.
KNOWN_REVISIONS = ("v0_1_0", "v0_2_0")

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

Frequencies = list[float]
Lines = list[str]


class Base(DeclarativeBase):
    """Common metadata with the naming convention that migrations rely on."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {
        # Else None becomes the JSON text null, which IS NULL does not find.
        Document: JSON(none_as_null=True),
        list[Any]: JSON,
        Frequencies: JSON(none_as_null=True),
        Lines: JSON(none_as_null=True),
        bytes: LargeBinary,
        float: Double,
    }


class Row(Base):
    """A row with an integer key for joins inside and a uid for the world outside."""

    __abstract__ = True

    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(String(64), unique=True)


class DeviceRow(Row):
    """One description of a device; `key` is the hardware, the newest run's row gives the label."""

    __tablename__ = "device"

    key: Mapped[str] = mapped_column(String(200), index=True)
    name: Mapped[str] = mapped_column(String(200), index=True)
    platform: Mapped[str] = mapped_column(String(40))
    model: Mapped[str | None] = mapped_column(String(200))
    cores: Mapped[int | None]
    frequency_min_hz: Mapped[float | None]
    frequency_max_hz: Mapped[float | None]
    # Integer has 32 bits on PostgreSQL, and boards have more than 2 GiB.
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    power_limit_w: Mapped[float | None]
    driver: Mapped[str | None] = mapped_column(String(80))
    details: Mapped[Document]


class TaskRow(Row):
    """A task without its label (that stands in the run)."""

    __tablename__ = "task"

    document: Mapped[Document]


class ExecutionRow(Row):
    """How a task is computed."""

    __tablename__ = "execution"

    dtype: Mapped[str] = mapped_column(String(40))
    attention: Mapped[str] = mapped_column(String(40))
    threads: Mapped[int]
    torch: Mapped[str | None] = mapped_column(String(40))
    accelerator: Mapped[str | None] = mapped_column(String(40))
    quantization: Mapped[str | None] = mapped_column(String(40))


class EnvironmentRow(Row):
    """Versions of software and firmware."""

    __tablename__ = "environment"

    versions: Mapped[Document]


class RunRow(Row):
    """One visit to one device."""

    __tablename__ = "run"

    kind: Mapped[str] = mapped_column(String(40), index=True)
    device_id: Mapped[int] = mapped_column(ForeignKey("device.id"), index=True)
    task_id: Mapped[int | None] = mapped_column(ForeignKey("task.id"), index=True)
    execution_id: Mapped[int] = mapped_column(ForeignKey("execution.id"))
    environment_id: Mapped[int] = mapped_column(ForeignKey("environment.id"))
    task_label: Mapped[str | None] = mapped_column(String(200))
    workload: Mapped[str | None] = mapped_column(String(200))
    analysis: Mapped[Document | None]
    planned: Mapped[list[Any]]
    offered_hz: Mapped[Frequencies | None]
    memory_budget_bytes: Mapped[int | None] = mapped_column(BigInteger)
    sitting: Mapped[str | None] = mapped_column(String(64))
    expected_notes: Mapped[Lines | None]
    for_plan: Mapped[str | None] = mapped_column(String(200))
    options: Mapped[Document]
    provenance: Mapped[Document]
    started_at: Mapped[str] = mapped_column(String(40), index=True)


class PointRow(Row):
    """A visited point; it is done when an operating point closes it."""

    __tablename__ = "point"

    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"), index=True)
    position: Mapped[int]
    requested_hz: Mapped[float | None]
    memory_requested_hz: Mapped[float | None]
    anchor: Mapped[bool]


class OperatingPointRow(Row):
    """The state in which a point was measured, as read back under load; it closes the point."""

    __tablename__ = "operating_point"

    # Not unique: two copies of a database may each finish the point, and their union keeps both.
    point_id: Mapped[int] = mapped_column(ForeignKey("point.id"), index=True)
    frequency_hz: Mapped[float | None]
    memory_hz: Mapped[float | None]
    cpu_hz: Mapped[float | None]
    power_mode: Mapped[str | None] = mapped_column(String(80))
    cores_active: Mapped[int | None]
    temperature_c: Mapped[float | None]
    throttled: Mapped[bool | None]
    contended: Mapped[bool]
    reasons: Mapped[list[Any]]
    boot: Mapped[str | None] = mapped_column(String(64))
    started_at: Mapped[str | None] = mapped_column(String(40))
    finished_at: Mapped[str | None] = mapped_column(String(40))


class MeasurementRow(Row):
    """One quantity at one point; value is null when it was attempted and cannot be trusted."""

    __tablename__ = "measurement"

    point_id: Mapped[int] = mapped_column(ForeignKey("point.id"), index=True)
    position: Mapped[int]
    quantity: Mapped[str] = mapped_column(String(40), index=True)
    unit: Mapped[str] = mapped_column(String(20))
    segment: Mapped[str | None] = mapped_column(String(80))
    phase: Mapped[str | None] = mapped_column(String(40))
    rail: Mapped[str | None] = mapped_column(String(80))
    value: Mapped[float | None]
    stderr: Mapped[float | None]
    ci_low: Mapped[float | None]
    ci_high: Mapped[float | None]
    n: Mapped[int | None]
    provenance: Mapped[Document | None]
    flags: Mapped[list[Any]]
    repeats: Mapped[int]
    clean: Mapped[int | None]
    scope: Mapped[str | None] = mapped_column(String(200))
    total: Mapped[bool | None]
    source: Mapped[str | None] = mapped_column(String(200))
    update_s: Mapped[float | None]
    quantisation_w: Mapped[float | None]
    check_w: Mapped[float | None]
    systematic: Mapped[float | None]
    details: Mapped[Document]


class CodecCostRow(Base):
    """What a codec did to one tensor, or what a side does; one row a measurement of either."""

    __tablename__ = "codec_cost"
    __table_args__ = (UniqueConstraint("measurement_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    measurement_id: Mapped[int] = mapped_column(ForeignKey("measurement.id"))
    cut: Mapped[int]
    codec: Mapped[str | None] = mapped_column(String(80))
    tensor: Mapped[str | None] = mapped_column(String(40))
    side: Mapped[str | None] = mapped_column(String(40))
    values: Mapped[int | None] = mapped_column(BigInteger)
    encoded_bytes: Mapped[int] = mapped_column(BigInteger)
    error: Mapped[float | None]
    encode_s: Mapped[float | None]
    decode_s: Mapped[float | None]


class SampleBlockRow(Base):
    """Raw samples of one measurement, packed little-endian float64."""

    __tablename__ = "sample_block"
    __table_args__ = (UniqueConstraint("measurement_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    measurement_id: Mapped[int] = mapped_column(ForeignKey("measurement.id"))
    name: Mapped[str] = mapped_column(String(80))
    count: Mapped[int]
    data: Mapped[bytes]


class FitRow(Row):
    """A fitted law with its draws (packed float64, draws x parameters)."""

    __tablename__ = "fit"

    device_id: Mapped[int] = mapped_column(ForeignKey("device.id"), index=True)
    task_id: Mapped[int | None] = mapped_column(ForeignKey("task.id"), index=True)
    execution_id: Mapped[int | None] = mapped_column(ForeignKey("execution.id"))
    workload: Mapped[str | None] = mapped_column(String(200))
    quantity: Mapped[str] = mapped_column(String(40), index=True)
    segment: Mapped[str | None] = mapped_column(String(80))
    phase: Mapped[str | None] = mapped_column(String(40))
    rail: Mapped[str | None] = mapped_column(String(80))
    cut: Mapped[int | None]
    codec: Mapped[str | None] = mapped_column(String(80))
    power_mode: Mapped[str | None] = mapped_column(String(80))
    memory_hz: Mapped[float | None]
    law: Mapped[str] = mapped_column(String(80))
    selected: Mapped[bool]
    data_hash: Mapped[str] = mapped_column(String(64))
    # The run that taught it and the rounds it rests on; all None for what was measured.
    learnt_from: Mapped[str | None] = mapped_column(String(64))
    learnt_first: Mapped[int | None]
    learnt_last: Mapped[int | None]
    created_at: Mapped[str] = mapped_column(String(40), index=True)
    document: Mapped[Document]
    draws: Mapped[bytes | None]


class FitInputRow(Base):
    """Which measurements a fit was made of."""

    __tablename__ = "fit_input"
    __table_args__ = (UniqueConstraint("fit_id", "measurement_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    fit_id: Mapped[int] = mapped_column(ForeignKey("fit.id"))
    measurement_id: Mapped[int] = mapped_column(ForeignKey("measurement.id"), index=True)


class LinkRow(Row):
    """A measured or imported link."""

    __tablename__ = "link"

    name: Mapped[str] = mapped_column(String(200), index=True)
    uplink_bps: Mapped[float | None]
    downlink_bps: Mapped[float | None]
    rtt_s: Mapped[float | None]
    message_bytes: Mapped[int | None] = mapped_column(BigInteger)
    provenance: Mapped[Document]
    measured_at: Mapped[str] = mapped_column(String(40))
    uplink_low_bps: Mapped[float | None]
    uplink_high_bps: Mapped[float | None]
    downlink_low_bps: Mapped[float | None]
    downlink_high_bps: Mapped[float | None]
    transmit_power_w: Mapped[float | None]
    receive_power_w: Mapped[float | None]
    document: Mapped[Document]


class PlanRow(Row):
    """A plan as it was made, whole."""

    __tablename__ = "plan"

    scheme: Mapped[str] = mapped_column(String(40))
    created_at: Mapped[str] = mapped_column(String(40), index=True)
    document: Mapped[Document]


class PlanInputRow(Base):
    """Which fit, run or link a plan was made of: exactly one of the three a row."""

    __tablename__ = "plan_input"
    __table_args__ = (
        # CASE, because PostgreSQL does not add up truth values.
        CheckConstraint(
            "(CASE WHEN fit_id IS NULL THEN 0 ELSE 1 END) + (CASE WHEN run_id IS NULL THEN 0 ELSE 1 END)"
            " + (CASE WHEN link_id IS NULL THEN 0 ELSE 1 END) = 1",
            name="one_input",
        ),
        # Nulls differ from each other, so this refuses nothing; it names the columns by which a merge knows a
        # row.
        UniqueConstraint("plan_id", "fit_id", "run_id", "link_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    plan_id: Mapped[int] = mapped_column(ForeignKey("plan.id"))
    fit_id: Mapped[int | None] = mapped_column(ForeignKey("fit.id"), index=True)
    run_id: Mapped[int | None] = mapped_column(ForeignKey("run.id"), index=True)
    link_id: Mapped[int | None] = mapped_column(ForeignKey("link.id"), index=True)


class TrainRoundRow(Row):
    """One finished round of one device in a split run."""

    __tablename__ = "train_round"

    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"), index=True)
    plan_id: Mapped[int | None] = mapped_column(ForeignKey("plan.id"), index=True)
    device_id: Mapped[int] = mapped_column(ForeignKey("device.id"))
    number: Mapped[int]
    cut: Mapped[int]
    frequency_hz: Mapped[float | None]
    loss: Mapped[float | None]
    delay_s: Mapped[float | None]
    energy_j: Mapped[float | None]
    delay_ci_low: Mapped[float | None]
    delay_ci_high: Mapped[float | None]
    losses: Mapped[list[Any]]
    elapsed_s: Mapped[float | None]
    waiting_s: Mapped[float | None]
    power_w: Mapped[float | None]
    codec: Mapped[str | None] = mapped_column(String(80))
    up_bytes: Mapped[int | None] = mapped_column(BigInteger)
    down_bytes: Mapped[int | None] = mapped_column(BigInteger)
    adapter_bytes: Mapped[int | None] = mapped_column(BigInteger)
    rtt_s: Mapped[float | None]
    rows: Mapped[int | None] = mapped_column(BigInteger)
    tokens: Mapped[int | None] = mapped_column(BigInteger)
    gradient_norms: Mapped[list[Any] | None]
    temperature_c: Mapped[float | None]
    predicted_energy_j: Mapped[float | None]
    predicted_device_energy_j: Mapped[float | None]
    # What the device read of itself; all of them None where it sent nothing.
    device_held_hz: Mapped[float | None]
    device_refusal: Mapped[str | None] = mapped_column(Text)
    device_frequency_hz: Mapped[float | None]
    device_memory_hz: Mapped[float | None]
    device_cpu_hz: Mapped[float | None]
    device_temperature_c: Mapped[float | None]
    device_power_mode: Mapped[str | None] = mapped_column(String(80))
    device_throttled: Mapped[bool | None]
    device_power_w: Mapped[float | None]
    device_energy_j: Mapped[float | None]
    document: Mapped[Document]


class TrainQualityRow(Row):
    """How well the adapters after a round predict the held-out rows of one device."""

    __tablename__ = "train_quality"

    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"), index=True)
    device_id: Mapped[int] = mapped_column(ForeignKey("device.id"))
    number: Mapped[int]
    cut: Mapped[int]
    loss: Mapped[float]
    tokens: Mapped[int] = mapped_column(BigInteger)
    correct: Mapped[int] = mapped_column(BigInteger)
    elapsed_s: Mapped[float]
    up_bytes: Mapped[int] = mapped_column(BigInteger)


class TrainPhaseRow(Row):
    """One term of a round: what was observed beside what was predicted."""

    __tablename__ = "train_phase"

    train_round_id: Mapped[int] = mapped_column(ForeignKey("train_round.id"), index=True)
    term: Mapped[str] = mapped_column(String(40))
    observed_s: Mapped[float | None]
    predicted_s: Mapped[float | None]
    predicted_ratio: Mapped[float | None]
    provenance: Mapped[Document | None]
    ci_low: Mapped[float | None]
    ci_high: Mapped[float | None]
