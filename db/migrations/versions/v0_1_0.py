"""The first released schema."""

import sqlalchemy as sa
from alembic import op

revision = "v0_1_0"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "device",
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("platform", sa.String(length=40), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=True),
        sa.Column("cores", sa.Integer(), nullable=True),
        sa.Column("frequency_min_hz", sa.Double(), nullable=True),
        sa.Column("frequency_max_hz", sa.Double(), nullable=True),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device")),
        sa.UniqueConstraint("uid", name=op.f("uq_device_uid")),
    )
    op.create_index(op.f("ix_device_key"), "device", ["key"], unique=False)
    op.create_index(op.f("ix_device_name"), "device", ["name"], unique=False)
    op.create_table(
        "environment",
        sa.Column("versions", sa.JSON(), nullable=False),
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_environment")),
        sa.UniqueConstraint("uid", name=op.f("uq_environment_uid")),
    )
    op.create_table(
        "execution",
        sa.Column("dtype", sa.String(length=40), nullable=False),
        sa.Column("attention", sa.String(length=40), nullable=False),
        sa.Column("threads", sa.Integer(), nullable=False),
        sa.Column("torch", sa.String(length=40), nullable=True),
        sa.Column("accelerator", sa.String(length=40), nullable=True),
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_execution")),
        sa.UniqueConstraint("uid", name=op.f("uq_execution_uid")),
    )
    op.create_table(
        "link",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("uplink_bps", sa.Double(), nullable=True),
        sa.Column("downlink_bps", sa.Double(), nullable=True),
        sa.Column("rtt_s", sa.Double(), nullable=True),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.Column("measured_at", sa.String(length=40), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_link")),
        sa.UniqueConstraint("uid", name=op.f("uq_link_uid")),
    )
    op.create_index(op.f("ix_link_name"), "link", ["name"], unique=False)
    op.create_table(
        "plan",
        sa.Column("scheme", sa.String(length=40), nullable=False),
        sa.Column("created_at", sa.String(length=40), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plan")),
        sa.UniqueConstraint("uid", name=op.f("uq_plan_uid")),
    )
    op.create_index(op.f("ix_plan_created_at"), "plan", ["created_at"], unique=False)
    op.create_table(
        "task",
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task")),
        sa.UniqueConstraint("uid", name=op.f("uq_task_uid")),
    )
    op.create_table(
        "fit",
        sa.Column("device_id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=True),
        sa.Column("execution_id", sa.Integer(), nullable=True),
        sa.Column("workload", sa.String(length=200), nullable=True),
        sa.Column("quantity", sa.String(length=40), nullable=False),
        sa.Column("segment", sa.String(length=80), nullable=True),
        sa.Column("phase", sa.String(length=40), nullable=True),
        sa.Column("rail", sa.String(length=80), nullable=True),
        sa.Column("power_mode", sa.String(length=80), nullable=True),
        sa.Column("memory_hz", sa.Double(), nullable=True),
        sa.Column("law", sa.String(length=80), nullable=False),
        sa.Column("selected", sa.Boolean(), nullable=False),
        sa.Column("data_hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.String(length=40), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("draws", sa.LargeBinary(), nullable=True),
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_fit_device_id_device")),
        sa.ForeignKeyConstraint(["execution_id"], ["execution.id"], name=op.f("fk_fit_execution_id_execution")),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name=op.f("fk_fit_task_id_task")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fit")),
        sa.UniqueConstraint("uid", name=op.f("uq_fit_uid")),
    )
    op.create_index(op.f("ix_fit_created_at"), "fit", ["created_at"], unique=False)
    op.create_index(op.f("ix_fit_device_id"), "fit", ["device_id"], unique=False)
    op.create_index(op.f("ix_fit_quantity"), "fit", ["quantity"], unique=False)
    op.create_index(op.f("ix_fit_task_id"), "fit", ["task_id"], unique=False)
    op.create_table(
        "run",
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("device_id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=True),
        sa.Column("execution_id", sa.Integer(), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("task_label", sa.String(length=200), nullable=True),
        sa.Column("workload", sa.String(length=200), nullable=True),
        sa.Column("analysis", sa.JSON(), nullable=True),
        sa.Column("planned", sa.JSON(), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.Column("started_at", sa.String(length=40), nullable=False),
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_run_device_id_device")),
        sa.ForeignKeyConstraint(["environment_id"], ["environment.id"], name=op.f("fk_run_environment_id_environment")),
        sa.ForeignKeyConstraint(["execution_id"], ["execution.id"], name=op.f("fk_run_execution_id_execution")),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name=op.f("fk_run_task_id_task")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run")),
        sa.UniqueConstraint("uid", name=op.f("uq_run_uid")),
    )
    op.create_index(op.f("ix_run_device_id"), "run", ["device_id"], unique=False)
    op.create_index(op.f("ix_run_kind"), "run", ["kind"], unique=False)
    op.create_index(op.f("ix_run_started_at"), "run", ["started_at"], unique=False)
    op.create_index(op.f("ix_run_task_id"), "run", ["task_id"], unique=False)
    op.create_table(
        "plan_input",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("plan_id", sa.Integer(), nullable=False),
        sa.Column("fit_id", sa.Integer(), nullable=True),
        sa.Column("run_id", sa.Integer(), nullable=True),
        sa.Column("link_id", sa.Integer(), nullable=True),
        sa.CheckConstraint(
            "(CASE WHEN fit_id IS NULL THEN 0 ELSE 1 END) + (CASE WHEN run_id IS NULL THEN 0 ELSE 1 END)"
            " + (CASE WHEN link_id IS NULL THEN 0 ELSE 1 END) = 1",
            name=op.f("ck_plan_input_one_input"),
        ),
        sa.ForeignKeyConstraint(["fit_id"], ["fit.id"], name=op.f("fk_plan_input_fit_id_fit")),
        sa.ForeignKeyConstraint(["link_id"], ["link.id"], name=op.f("fk_plan_input_link_id_link")),
        sa.ForeignKeyConstraint(["plan_id"], ["plan.id"], name=op.f("fk_plan_input_plan_id_plan")),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_plan_input_run_id_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plan_input")),
        sa.UniqueConstraint("plan_id", "fit_id", "run_id", "link_id", name=op.f("uq_plan_input_plan_id")),
    )
    op.create_index(op.f("ix_plan_input_fit_id"), "plan_input", ["fit_id"], unique=False)
    op.create_index(op.f("ix_plan_input_link_id"), "plan_input", ["link_id"], unique=False)
    op.create_index(op.f("ix_plan_input_run_id"), "plan_input", ["run_id"], unique=False)
    op.create_table(
        "point",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("requested_hz", sa.Double(), nullable=True),
        sa.Column("memory_requested_hz", sa.Double(), nullable=True),
        sa.Column("anchor", sa.Boolean(), nullable=False),
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_point_run_id_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_point")),
        sa.UniqueConstraint("uid", name=op.f("uq_point_uid")),
    )
    op.create_index(op.f("ix_point_run_id"), "point", ["run_id"], unique=False)
    op.create_table(
        "train_round",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("plan_id", sa.Integer(), nullable=True),
        sa.Column("device_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("cut", sa.Integer(), nullable=False),
        sa.Column("frequency_hz", sa.Double(), nullable=True),
        sa.Column("loss", sa.Double(), nullable=True),
        sa.Column("delay_s", sa.Double(), nullable=True),
        sa.Column("energy_j", sa.Double(), nullable=True),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_train_round_device_id_device")),
        sa.ForeignKeyConstraint(["plan_id"], ["plan.id"], name=op.f("fk_train_round_plan_id_plan")),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_train_round_run_id_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_train_round")),
        sa.UniqueConstraint("uid", name=op.f("uq_train_round_uid")),
    )
    op.create_index(op.f("ix_train_round_plan_id"), "train_round", ["plan_id"], unique=False)
    op.create_index(op.f("ix_train_round_run_id"), "train_round", ["run_id"], unique=False)
    op.create_table(
        "measurement",
        sa.Column("point_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("quantity", sa.String(length=40), nullable=False),
        sa.Column("unit", sa.String(length=20), nullable=False),
        sa.Column("segment", sa.String(length=80), nullable=True),
        sa.Column("phase", sa.String(length=40), nullable=True),
        sa.Column("rail", sa.String(length=80), nullable=True),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("stderr", sa.Double(), nullable=True),
        sa.Column("ci_low", sa.Double(), nullable=True),
        sa.Column("ci_high", sa.Double(), nullable=True),
        sa.Column("n", sa.Integer(), nullable=True),
        sa.Column("provenance", sa.JSON(), nullable=True),
        sa.Column("flags", sa.JSON(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["point_id"], ["point.id"], name=op.f("fk_measurement_point_id_point")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_measurement")),
        sa.UniqueConstraint("uid", name=op.f("uq_measurement_uid")),
    )
    op.create_index(op.f("ix_measurement_point_id"), "measurement", ["point_id"], unique=False)
    op.create_index(op.f("ix_measurement_quantity"), "measurement", ["quantity"], unique=False)
    op.create_table(
        "train_phase",
        sa.Column("train_round_id", sa.Integer(), nullable=False),
        sa.Column("term", sa.String(length=40), nullable=False),
        sa.Column("observed_s", sa.Double(), nullable=True),
        sa.Column("predicted_s", sa.Double(), nullable=True),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["train_round_id"], ["train_round.id"], name=op.f("fk_train_phase_train_round_id_train_round")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_train_phase")),
        sa.UniqueConstraint("uid", name=op.f("uq_train_phase_uid")),
    )
    op.create_index(op.f("ix_train_phase_train_round_id"), "train_phase", ["train_round_id"], unique=False)
    op.create_table(
        "fit_input",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("fit_id", sa.Integer(), nullable=False),
        sa.Column("measurement_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["fit_id"], ["fit.id"], name=op.f("fk_fit_input_fit_id_fit")),
        sa.ForeignKeyConstraint(
            ["measurement_id"], ["measurement.id"], name=op.f("fk_fit_input_measurement_id_measurement")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fit_input")),
        sa.UniqueConstraint("fit_id", "measurement_id", name=op.f("uq_fit_input_fit_id")),
    )
    op.create_index(op.f("ix_fit_input_measurement_id"), "fit_input", ["measurement_id"], unique=False)
    op.create_table(
        "sample_block",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("measurement_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["measurement_id"], ["measurement.id"], name=op.f("fk_sample_block_measurement_id_measurement")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sample_block")),
        sa.UniqueConstraint("measurement_id", "name", name=op.f("uq_sample_block_measurement_id")),
    )
