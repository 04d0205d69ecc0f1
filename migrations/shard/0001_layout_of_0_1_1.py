"""The layout of a shard file of 0.1.1, to the letter: such a file starts its history here."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    time = sa.Text() if on_sqlite else sa.DateTime(timezone=True)
    now = sa.text("(datetime('now'))") if on_sqlite else sa.func.now()
    number = sa.Integer() if on_sqlite else sa.BigInteger()
    op.create_table(
        "fila",
        sa.Column("id", number, primary_key=True),
        sa.Column("pagina_id", number),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="pending"),
        sa.Column("priority", sa.Integer(), server_default=sa.text("0")),
        sa.Column("tentativas", sa.Integer(), server_default=sa.text("0")),
        sa.Column("max_tentativas", sa.Integer(), server_default=sa.text("3")),
        sa.Column("retry_delay", sa.Integer(), server_default=sa.text("60")),
        sa.Column("last_error", sa.Text()),
        sa.Column("error_type", sa.Text()),
        sa.Column("error_stack", sa.Text()),
        sa.Column("worker_id", sa.Text()),
        sa.Column("heartbeat", time),
        sa.Column("created_at", time, server_default=now),
        sa.Column("started_at", time),
        sa.Column("completed_at", time),
        sa.Column("next_retry_at", time),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "shard_metadata",
        sa.Column("shard_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1")),
        sa.Column("created_at", time, server_default=now),
        sa.Column("last_vacuum", time),
        sa.Column("total_jobs_processed", number, server_default=sa.text("0")),
        sa.Column("total_jobs_failed", number, server_default=sa.text("0")),
    )
    op.create_table(
        "dead_letter_queue",
        sa.Column("id", number, primary_key=True),
        sa.Column("original_job_id", number),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("error_type", sa.Text(), nullable=False),
        sa.Column("failed_at", time, server_default=now),
        sa.Column("shard_id", sa.Integer()),
        sqlite_autoincrement=True,
    )
    op.create_index("idx_status_priority", "fila", ["status", sa.text("priority DESC")])
    for name, column, status in (
        ("idx_next_retry", "next_retry_at", "pending"),
        ("idx_heartbeat", "heartbeat", "processing"),
    ):
        where = sa.text(f"status = '{status}'")
        op.create_index(name, "fila", [column], sqlite_where=where, postgresql_where=where)
    op.create_index("idx_created_at", "fila", ["created_at"])
    op.create_index("idx_status_created", "fila", ["status", "created_at"])
    op.create_index("idx_dlq_failed_at", "dead_letter_queue", ["failed_at"])


def downgrade() -> None:
    op.drop_table("dead_letter_queue")
    op.drop_table("shard_metadata")
    op.drop_table("fila")
