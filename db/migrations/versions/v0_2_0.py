"""What other rooms compute with becomes columns: operating points, rails, codec costs, links, rounds."""

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

from cardlab.core.plain import Document
from cardlab.db import rows_0_1

revision = "v0_2_0"
down_revision = "v0_1_0"
branch_labels = None
depends_on = None

_COLUMNS: Mapping[str, tuple[tuple[str, Any], ...]] = {
    "device": (("power_limit_w", sa.Double()), ("driver", sa.String(80))),
    "execution": (("quantization", sa.String(40)),),
    "run": (
        ("offered_hz", sa.JSON(none_as_null=True)),
        ("memory_budget_bytes", sa.BigInteger()),
        ("sitting", sa.String(64)),
        ("expected_notes", sa.JSON(none_as_null=True)),
        ("for_plan", sa.String(200)),
    ),
    "measurement": (
        ("repeats", sa.Integer()),
        ("clean", sa.Integer()),
        ("scope", sa.String(200)),
        ("total", sa.Boolean()),
        ("source", sa.String(200)),
        ("update_s", sa.Double()),
        ("quantisation_w", sa.Double()),
        ("check_w", sa.Double()),
        ("systematic", sa.Double()),
    ),
    "fit": (
        ("cut", sa.Integer()),
        ("codec", sa.String(80)),
        ("learnt_from", sa.String(64)),
        ("learnt_first", sa.Integer()),
        ("learnt_last", sa.Integer()),
    ),
    "link": (
        ("message_bytes", sa.BigInteger()),
        *((f"{way}_{end}_bps", sa.Double()) for way in ("uplink", "downlink") for end in ("low", "high")),
        *((f"{way}_power_w", sa.Double()) for way in ("transmit", "receive")),
    ),
    "train_round": (
        ("delay_ci_low", sa.Double()),
        ("delay_ci_high", sa.Double()),
        ("losses", sa.JSON(none_as_null=True)),
        ("elapsed_s", sa.Double()),
        ("waiting_s", sa.Double()),
        ("power_w", sa.Double()),
        ("codec", sa.String(80)),
        ("up_bytes", sa.BigInteger()),
        ("down_bytes", sa.BigInteger()),
        ("adapter_bytes", sa.BigInteger()),
        ("rtt_s", sa.Double()),
        ("rows", sa.BigInteger()),
        ("tokens", sa.BigInteger()),
        ("gradient_norms", sa.JSON(none_as_null=True)),
        *((name, sa.Double()) for name in ("temperature_c", "predicted_energy_j", "predicted_device_energy_j")),
        ("device_held_hz", sa.Double()),
        ("device_refusal", sa.Text()),
        *((f"device_{name}", sa.Double()) for name in ("frequency_hz", "memory_hz", "cpu_hz", "temperature_c")),
        ("device_power_mode", sa.String(80)),
        ("device_throttled", sa.Boolean()),
        *((f"device_{name}", sa.Double()) for name in ("power_w", "energy_j")),
    ),
    "train_phase": (
        ("ci_low", sa.Double()),
        ("ci_high", sa.Double()),
        ("predicted_ratio", sa.Double()),
        ("provenance", sa.JSON(none_as_null=True)),
    ),
}
_CONVERTED: Mapping[str, Callable[[Document], Document]] = {
    "device": rows_0_1.device,
    "run": rows_0_1.run,
    "fit": rows_0_1.fit,
    "link": rows_0_1.link,
    "plan": rows_0_1.plan,
    "train_round": rows_0_1.train_round,
    "train_phase": rows_0_1.train_phase,
}


def upgrade() -> None:
    _new_tables()
    # Nullable at first, since rows of the older release have no value yet; tightened at the end.
    for table, columns in _COLUMNS.items():
        with op.batch_alter_table(table) as batch:
            for name, kind in columns:
                batch.add_column(sa.Column(name, kind, nullable=True))
    connection = op.get_bind()
    # Reflected and not taken from the schema module, which will change when a released migration must not.
    tables = sa.MetaData()
    tables.reflect(connection)
    for name, convert in _CONVERTED.items():
        _rewrite(connection, tables.tables[name], convert)
    _split_measurements(connection, tables)
    with op.batch_alter_table("measurement") as batch:
        batch.alter_column("repeats", existing_type=sa.Integer(), nullable=False)
    with op.batch_alter_table("train_round") as batch:
        batch.alter_column("losses", existing_type=sa.JSON(), nullable=False)
    # Only now: its rows were made anew from this column.
    with op.batch_alter_table("train_phase") as batch:
        batch.drop_column("details")


def _new_tables() -> None:
    op.create_table(
        "operating_point",
        sa.Column("point_id", sa.Integer(), nullable=False),
        sa.Column("frequency_hz", sa.Double(), nullable=True),
        sa.Column("memory_hz", sa.Double(), nullable=True),
        sa.Column("cpu_hz", sa.Double(), nullable=True),
        sa.Column("power_mode", sa.String(length=80), nullable=True),
        sa.Column("cores_active", sa.Integer(), nullable=True),
        sa.Column("temperature_c", sa.Double(), nullable=True),
        sa.Column("throttled", sa.Boolean(), nullable=True),
        sa.Column("contended", sa.Boolean(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("boot", sa.String(length=64), nullable=True),
        sa.Column("started_at", sa.String(length=40), nullable=True),
        sa.Column("finished_at", sa.String(length=40), nullable=True),
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["point_id"], ["point.id"], name=op.f("fk_operating_point_point_id_point")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operating_point")),
        sa.UniqueConstraint("uid", name=op.f("uq_operating_point_uid")),
    )
    op.create_index(op.f("ix_operating_point_point_id"), "operating_point", ["point_id"], unique=False)
    op.create_table(
        "codec_cost",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("measurement_id", sa.Integer(), nullable=False),
        sa.Column("cut", sa.Integer(), nullable=False),
        sa.Column("codec", sa.String(length=80), nullable=True),
        sa.Column("tensor", sa.String(length=40), nullable=True),
        sa.Column("side", sa.String(length=40), nullable=True),
        sa.Column("values", sa.BigInteger(), nullable=True),
        sa.Column("encoded_bytes", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.Double(), nullable=True),
        sa.Column("encode_s", sa.Double(), nullable=True),
        sa.Column("decode_s", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["measurement_id"], ["measurement.id"], name=op.f("fk_codec_cost_measurement_id_measurement")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_codec_cost")),
        sa.UniqueConstraint("measurement_id", name=op.f("uq_codec_cost_measurement_id")),
    )
    op.create_table(
        "train_quality",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("device_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("cut", sa.Integer(), nullable=False),
        sa.Column("loss", sa.Double(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("correct", sa.BigInteger(), nullable=False),
        sa.Column("elapsed_s", sa.Double(), nullable=False),
        sa.Column("up_bytes", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_train_quality_device_id_device")),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_train_quality_run_id_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_train_quality")),
        sa.UniqueConstraint("uid", name=op.f("uq_train_quality_uid")),
    )
    op.create_index(op.f("ix_train_quality_run_id"), "train_quality", ["run_id"], unique=False)


def _rewrite(connection: sa.Connection, table: sa.Table, convert: Callable[..., Document]) -> None:
    """Every row as `convert` makes it; only what changed is written."""
    for row in connection.execute(sa.select(table)).mappings().all():
        before = dict(row)
        new = convert(before)
        changed = {name: value for name, value in new.items() if name in table.c and before[name] != value}
        if changed:
            connection.execute(sa.update(table).where(table.c.id == before["id"]).values(**changed))


def _split_measurements(connection: sa.Connection, tables: sa.MetaData) -> None:
    measurement = tables.tables["measurement"]
    closings: list[Document] = []
    costs: list[Document] = []
    gone: list[int] = []
    # Read to the end first, because rows are added to the same table below.
    for row in connection.execute(sa.select(measurement)).mappings().all():
        parts = rows_0_1.measurement(dict(row))
        if parts.operating is not None:
            closings.append(parts.operating)
            gone.append(row["id"])
        elif parts.measurement is not None:
            new = parts.measurement
            changed = {n: v for n, v in new.items() if n in measurement.c and row[n] != v}
            connection.execute(sa.update(measurement).where(measurement.c.id == row["id"]).values(**changed))
        if parts.residual is not None:
            connection.execute(sa.insert(measurement).values(**parts.residual))
        if parts.codec is not None:
            costs.append({**parts.codec, "measurement_id": row["id"]})
    if closings:
        connection.execute(sa.insert(tables.tables["operating_point"]), closings)
    # SQLite before 3.32 binds at most 999 values in a statement.
    for start in range(0, len(gone), 500):
        connection.execute(sa.delete(measurement).where(measurement.c.id.in_(gone[start : start + 500])))
    if costs:
        connection.execute(sa.insert(tables.tables["codec_cost"]), costs)
