"""All columns the design needs beyond 0.1.1, indexes that fit its statements, one form of time.

Rows are carried over into tables made anew: SQLite cannot alter columns in place, and files of
0.1.1 and 0.2.0 differ in their constraints. No job is lost and no number is used again.
"""

from collections.abc import Mapping
from types import MappingProxyType

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIME = sa.Text().with_variant(sa.DateTime(timezone=True), "postgresql")
ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

STATUSES = "'pending', 'scheduled', 'processing', 'completed', 'failed', 'cancelled'"

# Those of 0.1.1 and of 0.2.0.
OLD_INDEXES = (
    "idx_status_priority",
    "idx_next_retry",
    "idx_heartbeat",
    "idx_created_at",
    "idx_status_created",
    "idx_pop_job",
    "idx_dlq_failed_at",
)
NEW_INDEXES = (
    "uq_fila_uid",
    "ix_fila_pending",
    "ix_fila_scheduled",
    "ix_fila_processing",
    "ix_fila_ended",
    "ix_fila_keep_until",
    "ix_dead_letter_queue_failed_at",
    "ix_dead_letter_queue_original_job_id",
)


def upgrade() -> None:
    for index in OLD_INDEXES:
        op.execute(f"DROP INDEX IF EXISTS {index}")
    upgrade_jobs()
    upgrade_dead_letters()
    upgrade_metadata()
    create_attempts()
    create_unique_keys()


def upgrade_jobs() -> None:
    now = moment(now_text())
    due_later = f"{moment('next_retry_at')} > {now}"
    rebuild(
        "fila",
        [
            sa.Column("id", ID, nullable=False),
            sa.Column("pagina_id", sa.BigInteger()),
            sa.Column("payload", sa.Text(), nullable=False),
            sa.Column("status", sa.Text(), server_default="pending", nullable=False),
            sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
            sa.Column("tentativas", sa.Integer(), server_default="0", nullable=False),
            sa.Column("max_tentativas", sa.Integer(), server_default="3", nullable=False),
            sa.Column("retry_delay", sa.BigInteger(), server_default="60", nullable=False),
            sa.Column("last_error", sa.Text()),
            sa.Column("error_type", sa.Text()),
            sa.Column("error_stack", sa.Text()),
            sa.Column("worker_id", sa.Text()),
            sa.Column("heartbeat", TIME),
            sa.Column("created_at", TIME, nullable=False),
            sa.Column("started_at", TIME),
            sa.Column("completed_at", TIME),
            sa.Column("next_retry_at", TIME),
            sa.Column("uid", sa.Text(), nullable=False),
            sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
            sa.Column("queue", sa.Text(), server_default="default", nullable=False),
            sa.Column("task", sa.Text()),
            sa.Column("concurrency_key", sa.Text()),
            sa.Column("rate_key", sa.Text()),
            sa.Column("cost", sa.Integer(), server_default="1", nullable=False),
            sa.Column("breaker", sa.Text()),
            sa.Column("held_by", sa.Text()),
            sa.Column("timeout", sa.Float()),
            sa.Column("retry_policy", sa.Text()),
            sa.Column("checksum", sa.BigInteger()),
            sa.Column("progress", sa.Float(), server_default="0", nullable=False),
            sa.Column("result", sa.Text()),
            sa.Column("keep_result", sa.Float()),
            sa.Column("keep_until", TIME),
            sa.Column("headers", sa.Text()),
            sa.PrimaryKeyConstraint("id", name="pk_fila"),
            sa.CheckConstraint(f"status IN ({STATUSES})", name=op.f("ck_fila_status")),
        ],
        {
            "status": (
                f"CASE WHEN coalesce(status, 'pending') = 'pending' AND {due_later} "
                f"THEN 'scheduled' WHEN coalesce(status, 'pending') IN ({STATUSES}) "
                "THEN coalesce(status, 'pending') ELSE 'failed' END"
            ),
            "priority": "coalesce(priority, 0)",
            "tentativas": "coalesce(tentativas, 0)",
            "max_tentativas": "coalesce(max_tentativas, 3)",
            "retry_delay": "coalesce(retry_delay, 60)",
            # A job that runs has a lease, and one that has ended an end.
            "heartbeat": (
                "CASE WHEN status = 'processing' THEN coalesce("
                f"{moment('heartbeat')}, {moment('started_at')}, {moment('created_at')}, {now}) "
                f"ELSE {moment('heartbeat')} END"
            ),
            "created_at": f"coalesce({moment('created_at')}, {now})",
            "started_at": moment("started_at"),
            "completed_at": (
                "CASE WHEN status IN ('pending', 'scheduled', 'processing') "
                f"THEN NULL ELSE coalesce({moment('completed_at')}, {moment('heartbeat')}, "
                f"{moment('started_at')}, {now}) END"
            ),
            "next_retry_at": moment("next_retry_at"),
            "uid": random_uuid(),
        },
        numbered=True,
    )
    op.create_index("uq_fila_uid", "fila", ["uid"], unique=True)
    create_partial_index(
        "ix_fila_pending", ["queue", sa.text("priority DESC"), "id"], "status = 'pending'"
    )
    create_partial_index("ix_fila_scheduled", ["next_retry_at"], "status = 'scheduled'")
    create_partial_index("ix_fila_processing", ["heartbeat"], "status = 'processing'")
    create_partial_index("ix_fila_ended", ["status", "completed_at"], "completed_at IS NOT NULL")
    create_partial_index("ix_fila_keep_until", ["keep_until"], "keep_until IS NOT NULL")


def upgrade_dead_letters() -> None:
    rebuild(
        "dead_letter_queue",
        [
            sa.Column("id", ID, nullable=False),
            sa.Column("original_job_id", sa.BigInteger()),
            sa.Column("payload", sa.Text(), nullable=False),
            sa.Column("error", sa.Text(), nullable=False),
            sa.Column("error_type", sa.Text(), nullable=False),
            sa.Column("failed_at", TIME, nullable=False),
            sa.Column("shard_id", sa.Integer()),
            sa.Column("uid", sa.Text()),
            sa.Column("reason", sa.Text()),
            sa.Column("error_stack", sa.Text()),
            sa.PrimaryKeyConstraint("id", name="pk_dead_letter_queue"),
        ],
        {
            "failed_at": f"coalesce({moment('failed_at')}, {moment(now_text())})",
            "uid": "(SELECT fila.uid FROM fila WHERE fila.id = original_job_id)",
        },
        numbered=True,
    )
    op.create_index("ix_dead_letter_queue_failed_at", "dead_letter_queue", ["failed_at"])
    op.create_index(
        "ix_dead_letter_queue_original_job_id", "dead_letter_queue", ["original_job_id"]
    )


def upgrade_metadata() -> None:
    rebuild(
        "shard_metadata",
        [
            sa.Column("shard_id", sa.Integer(), autoincrement=False, nullable=False),
            sa.Column("version", sa.Integer(), server_default="1", nullable=False),
            sa.Column("created_at", TIME, nullable=False),
            sa.Column("last_vacuum", TIME),
            sa.Column("total_jobs_processed", sa.BigInteger(), server_default="0", nullable=False),
            sa.Column("total_jobs_failed", sa.BigInteger(), server_default="0", nullable=False),
            sa.Column("directory_id", sa.Text()),
            sa.Column("num_shards", sa.Integer()),
            sa.PrimaryKeyConstraint("shard_id", name="pk_shard_metadata"),
        ],
        {
            "version": "coalesce(version, 1)",
            "created_at": f"coalesce({moment('created_at')}, {moment(now_text())})",
            "last_vacuum": moment("last_vacuum"),
            "total_jobs_processed": "coalesce(total_jobs_processed, 0)",
            "total_jobs_failed": "coalesce(total_jobs_failed, 0)",
        },
    )


def create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("id", ID, nullable=False),
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.Text()),
        sa.Column("started_at", TIME),
        sa.Column("ended_at", TIME, nullable=False),
        sa.Column("error_type", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.Column("error_stack", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_attempts"),
    )
    op.create_index("ix_attempts_uid", "attempts", ["uid"])


def create_unique_keys() -> None:
    op.create_table(
        "unique_keys",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("until", TIME),
        sa.PrimaryKeyConstraint("key", name="pk_unique_keys"),
    )
    op.create_index("ix_unique_keys_until", "unique_keys", ["until"])


def downgrade() -> None:
    """Go back to the layout of 0.1.1; what only 0002 can hold is dropped."""
    op.drop_table("unique_keys")
    op.drop_table("attempts")
    for index in NEW_INDEXES:
        op.drop_index(index)
    rebuild(
        "fila",
        [
            sa.Column("id", ID, primary_key=True),
            sa.Column("pagina_id", ID),
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
            sa.Column("heartbeat", TIME),
            sa.Column("created_at", TIME, server_default=default_now()),
            sa.Column("started_at", TIME),
            sa.Column("completed_at", TIME),
            sa.Column("next_retry_at", TIME),
        ],
        {"status": "CASE status WHEN 'scheduled' THEN 'pending' ELSE status END"},
        numbered=True,
    )
    rebuild(
        "dead_letter_queue",
        [
            sa.Column("id", ID, primary_key=True),
            sa.Column("original_job_id", ID),
            sa.Column("payload", sa.Text(), nullable=False),
            sa.Column("error", sa.Text(), nullable=False),
            sa.Column("error_type", sa.Text(), nullable=False),
            sa.Column("failed_at", TIME, server_default=default_now()),
            sa.Column("shard_id", sa.Integer()),
        ],
        numbered=True,
    )
    rebuild(
        "shard_metadata",
        [
            sa.Column("shard_id", sa.Integer(), primary_key=True, autoincrement=False),
            sa.Column("version", sa.Integer(), server_default=sa.text("1")),
            sa.Column("created_at", TIME, server_default=default_now()),
            sa.Column("last_vacuum", TIME),
            sa.Column("total_jobs_processed", ID, server_default=sa.text("0")),
            sa.Column("total_jobs_failed", ID, server_default=sa.text("0")),
        ],
    )
    op.create_index("idx_status_priority", "fila", ["status", sa.text("priority DESC")])
    create_partial_index("idx_next_retry", ["next_retry_at"], "status = 'pending'")
    create_partial_index("idx_heartbeat", ["heartbeat"], "status = 'processing'")
    op.create_index("idx_created_at", "fila", ["created_at"])
    op.create_index("idx_status_created", "fila", ["status", "created_at"])
    op.create_index("idx_dlq_failed_at", "dead_letter_queue", ["failed_at"])


def rebuild(
    name: str,
    definition: list[sa.Column | sa.Constraint],
    changed: Mapping[str, str] = MappingProxyType({}),
    *,
    numbered: bool = False,
) -> None:
    """Make a table anew and carry its rows over.

    A column that was there keeps its values, unless `changed` has an expression for it over the
    old table; a new one takes its default.
    """
    old = f"{name}_before"
    op.rename_table(name, old)
    if not on_sqlite():  # there, names of keys and sequences are taken once a schema
        op.execute(f"ALTER TABLE {old} RENAME CONSTRAINT pk_{name} TO pk_{old}")
        if numbered:
            op.execute(f"ALTER SEQUENCE {name}_id_seq RENAME TO {old}_id_seq")
    before = {column["name"] for column in sa.inspect(op.get_bind()).get_columns(old)}
    after = {column.name for column in definition if isinstance(column, sa.Column)}
    values = {column: column for column in sorted(before & after)} | dict(changed)
    op.create_table(name, *definition, sqlite_autoincrement=numbered)
    op.execute(
        f"INSERT INTO {name} ({', '.join(values)}) "  # noqa: S608 - constants of this file
        f"SELECT {', '.join(values.values())} FROM {old}"
    )
    if numbered:
        carry_numbering_over(old, name)
    op.drop_table(old)


def carry_numbering_over(old: str, new: str) -> None:
    """Go on counting where the old table was: a number must never name two jobs."""
    if on_sqlite():
        op.execute(f"DELETE FROM sqlite_sequence WHERE name = '{new}'")  # noqa: S608
        op.execute(
            f"INSERT INTO sqlite_sequence (name, seq) "  # noqa: S608
            f"SELECT '{new}', seq FROM sqlite_sequence WHERE name = '{old}'"
        )
    else:
        op.execute(
            f"SELECT setval('{new}_id_seq', last_value, is_called) FROM {old}_id_seq"  # noqa: S608
        )


def create_partial_index(name: str, columns: list[object], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, "fila", columns, sqlite_where=condition, postgresql_where=condition)


def on_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def moment(expression: str) -> str:
    """Bring both forms of time that 0.1.1 wrote to one; what is no time becomes NULL."""
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', {expression})" if on_sqlite() else expression


def now_text() -> str:
    return "'now'" if on_sqlite() else "clock_timestamp()"


def default_now() -> sa.TextClause:
    return sa.text("(datetime('now'))" if on_sqlite() else "now()")


def random_uuid() -> str:
    """Make a UUID of version 4 in SQL."""
    if not on_sqlite():
        return "CAST(gen_random_uuid() AS text)"
    return (
        "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || "
        "substr(hex(randomblob(2)), 2) || '-a' || substr(hex(randomblob(2)), 2) || '-' || "
        "hex(randomblob(6)))"
    )
