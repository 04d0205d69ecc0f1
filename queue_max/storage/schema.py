"""The tables: Portuguese on disk, English in Python, translated here and nowhere else."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    literal_column,
    text,
)

from queue_max.domain.job import DEFAULT_QUEUE, DEFAULT_RETRY_DELAY, JobStatus
from queue_max.storage.types import UtcTime

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "pk": "pk_%(table_name)s",
}

shard_tables = MetaData(naming_convention=NAMES)
control_tables = MetaData(naming_convention=NAMES)

# SQLite numbers rows by itself only in a column that is called INTEGER.
_Id = BigInteger().with_variant(Integer, "sqlite")

# Statuses go into statements as literals: bound, no planner can match them with the partial
# indexes below (two to three times slower on SQLite, a sequential scan on PostgreSQL).
PENDING = literal_column(f"'{JobStatus.PENDING}'", Text)
SCHEDULED = literal_column(f"'{JobStatus.SCHEDULED}'", Text)
PROCESSING = literal_column(f"'{JobStatus.PROCESSING}'", Text)
COMPLETED = literal_column(f"'{JobStatus.COMPLETED}'", Text)
FAILED = literal_column(f"'{JobStatus.FAILED}'", Text)
CANCELLED = literal_column(f"'{JobStatus.CANCELLED}'", Text)
STATUSES = {
    JobStatus.PENDING: PENDING,
    JobStatus.SCHEDULED: SCHEDULED,
    JobStatus.PROCESSING: PROCESSING,
    JobStatus.COMPLETED: COMPLETED,
    JobStatus.FAILED: FAILED,
    JobStatus.CANCELLED: CANCELLED,
}

jobs = Table(
    "fila",
    shard_tables,
    Column("id", _Id, primary_key=True),
    Column("pagina_id", BigInteger),
    Column("payload", Text, nullable=False),
    Column("status", Text, nullable=False, server_default=JobStatus.PENDING),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("tentativas", Integer, key="attempts", nullable=False, server_default="0"),
    Column("max_tentativas", Integer, key="max_attempts", nullable=False, server_default="3"),
    Column("retry_delay", BigInteger, nullable=False, server_default=str(DEFAULT_RETRY_DELAY)),
    Column("last_error", Text),
    Column("error_type", Text),
    Column("error_stack", Text),
    Column("worker_id", Text),
    Column("heartbeat", UtcTime),
    Column("created_at", UtcTime, nullable=False),
    Column("started_at", UtcTime),
    Column("completed_at", UtcTime),
    Column("next_retry_at", UtcTime),
    # Beyond the 0.1 layout:
    Column("uid", Text, nullable=False),
    Column("fence", BigInteger, nullable=False, server_default="0"),
    Column("queue", Text, nullable=False, server_default=DEFAULT_QUEUE),
    Column("task", Text),
    Column("concurrency_key", Text),
    Column("rate_key", Text),
    Column("cost", Integer, nullable=False, server_default="1"),
    Column("breaker", Text),
    Column("held_by", Text),
    Column("timeout", Float),
    Column("retry_policy", Text),
    Column("checksum", BigInteger),
    Column("progress", Float, nullable=False, server_default="0"),
    Column("result", Text),
    # Seconds for which a completed job is kept with its result; without, it is deleted.
    Column("keep_result", Float),
    Column("keep_until", UtcTime),
    Column("headers", Text),
    CheckConstraint(f"status IN ({', '.join(repr(str(each)) for each in JobStatus)})", "status"),
    sqlite_autoincrement=True,
)

Index("uq_fila_uid", jobs.c.uid, unique=True)
# What a claim walks: only jobs that may run, in the order they are to be taken.
Index(
    "ix_fila_pending",
    jobs.c.queue,
    jobs.c.priority.desc(),
    jobs.c.id,
    sqlite_where=text("status = 'pending'"),
    postgresql_where=text("status = 'pending'"),
)
# What promotion walks: the earliest due first.
Index(
    "ix_fila_scheduled",
    jobs.c.next_retry_at,
    sqlite_where=text("status = 'scheduled'"),
    postgresql_where=text("status = 'scheduled'"),
)
Index(
    "ix_fila_processing",
    jobs.c.heartbeat,
    sqlite_where=text("status = 'processing'"),
    postgresql_where=text("status = 'processing'"),
)
# What is walked when a gate opens: the jobs it holds, in the order they are to be taken.
Index(
    "ix_fila_held",
    jobs.c.held_by,
    jobs.c.priority.desc(),
    jobs.c.id,
    sqlite_where=text("status = 'scheduled' AND held_by IS NOT NULL"),
    postgresql_where=text("status = 'scheduled' AND held_by IS NOT NULL"),
)
# What is counted of a concurrency key: jobs that run, or stand at the head of its line.
Index(
    "ix_fila_concurrency_key",
    jobs.c.concurrency_key,
    jobs.c.status,
    jobs.c.held_by,
    sqlite_where=text(
        "concurrency_key IS NOT NULL AND status IN ('pending', 'scheduled', 'processing')"
    ),
    postgresql_where=text(
        "concurrency_key IS NOT NULL AND status IN ('pending', 'scheduled', 'processing')"
    ),
)
# What listing the failed, and retention, walk; jobs that have not ended are not in it.
Index(
    "ix_fila_ended",
    jobs.c.status,
    jobs.c.completed_at,
    sqlite_where=text("completed_at IS NOT NULL"),
    postgresql_where=text("completed_at IS NOT NULL"),
)
# What retention walks: completed jobs that are kept for a time, and few are.
Index(
    "ix_fila_keep_until",
    jobs.c.keep_until,
    sqlite_where=text("keep_until IS NOT NULL"),
    postgresql_where=text("keep_until IS NOT NULL"),
)

dead_letters = Table(
    "dead_letter_queue",
    shard_tables,
    Column("id", _Id, primary_key=True),
    Column("original_job_id", BigInteger, key="job_id"),
    Column("payload", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("error_type", Text, nullable=False),
    Column("failed_at", UtcTime, nullable=False),
    Column("shard_id", Integer),
    # Beyond the 0.1 layout:
    Column("uid", Text),
    Column("reason", Text),
    Column("error_stack", Text),
    Column("task", Text),
    sqlite_autoincrement=True,
)
Index("ix_dead_letter_queue_failed_at", dead_letters.c.failed_at)
Index("ix_dead_letter_queue_original_job_id", dead_letters.c.job_id)

shard_metadata = Table(
    "shard_metadata",
    shard_tables,
    Column("shard_id", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("created_at", UtcTime, nullable=False),
    Column("last_vacuum", UtcTime),
    Column("total_jobs_processed", BigInteger, key="processed", nullable=False, server_default="0"),
    Column("total_jobs_failed", BigInteger, key="failed", nullable=False, server_default="0"),
    # Beyond the 0.1 layout: a mirror of the control database, so that it can be made anew.
    Column("directory_id", Text),
    Column("num_shards", Integer),
)

attempts = Table(
    "attempts",
    shard_tables,
    Column("id", _Id, primary_key=True),
    Column("uid", Text, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("worker_id", Text),
    Column("started_at", UtcTime),
    Column("ended_at", UtcTime, nullable=False),
    Column("error_type", Text),
    Column("error", Text),
    Column("error_stack", Text),
)
Index("ix_attempts_uid", attempts.c.uid)

unique_keys = Table(
    "unique_keys",
    shard_tables,
    Column("key", Text, primary_key=True),
    Column("uid", Text, nullable=False),
    Column("job_id", BigInteger, nullable=False),
    # None: for as long as the job lives.
    Column("until", UtcTime),
)
Index("ix_unique_keys_until", unique_keys.c.until)

directory = Table(
    "directory",
    control_tables,
    Column("id", Text, primary_key=True),
    Column("created_at", UtcTime, nullable=False),
)

shard_map = Table(
    "shard_map",
    control_tables,
    Column("shard_id", Integer, primary_key=True, autoincrement=False),
    # A file beside the control database, by its name.
    Column("location", Text, nullable=False),
    # True until the shard's database has been made: only then may a missing one be created.
    Column("is_new", Integer, nullable=False),
    Column("added_at", UtcTime, nullable=False),
)

schedules = Table(
    "schedules",
    control_tables,
    Column("name", Text, primary_key=True),
    Column("task", Text, nullable=False),
    Column("payload", Text, nullable=False),
    # Seconds; None where there is a cron expression.
    Column("interval", Float),
    Column("cron", Text),
    Column("tz", Text, nullable=False),
    Column("misfire", Text, nullable=False),
    Column("misfire_cap", Integer, nullable=False),
    Column("overlap", Text, nullable=False),
    # Of its jobs, as JSON.
    Column("options", Text, nullable=False),
    Column("is_paused", Integer, nullable=False),
    Column("next_at", UtcTime, nullable=False),
    # The last tick that was fired, and the key of its job.
    Column("last_at", UtcTime),
    Column("last_job", Text),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("revision", BigInteger, nullable=False),
)
Index("ix_schedules_next_at", schedules.c.next_at)

limits = Table(
    "limits",
    control_tables,
    # "all", "queue:NAME", "task:NAME" or "key:KEY"; it may end in * for all that begin so.
    Column("scope", Text, primary_key=True),
    # What was set by hand, and goes before what the code declares; None: nothing was.
    Column("rate", Text),
    Column("concurrency", Integer),
    Column("declared_rate", Text),
    Column("declared_concurrency", Integer),
    Column("updated_at", UtcTime, nullable=False),
)

# Soft: what has happened lately, in all processes that keep a log.
events = Table(
    "events",
    control_tables,
    Column("id", _Id, primary_key=True),
    Column("at", UtcTime, nullable=False),
    Column("event", Text, nullable=False),
    # As JSON.
    Column("facts", Text, nullable=False),
    # What was deleted must not give its number away: readers ask for what came after it.
    sqlite_autoincrement=True,
)

# Soft: what was granted lately. A row that is missing stands for a full bucket.
buckets = Table(
    "buckets",
    control_tables,
    Column("scope", Text, primary_key=True),
    # The time of the rate.
    Column("seconds", Integer, primary_key=True, autoincrement=False),
    # In shares of a token, a whole number: as text, since it may have more than 63 bits.
    Column("level", Text, nullable=False),
    # Nanoseconds of the clock of that name, which ends when the host does.
    Column("at", BigInteger, nullable=False),
    Column("clock", Text, nullable=False),
)

breakers = Table(
    "breakers",
    control_tables,
    Column("name", Text, primary_key=True),
    Column("state", Text, nullable=False),
    # In a row.
    Column("failures", Integer, nullable=False),
    # Rises with each change of state; a probe speaks for the one it was let through under.
    Column("generation", BigInteger, nullable=False),
    Column("changed_at", UtcTime, nullable=False),
    # From when on a probe may pass; None where it is opened by hand, until it is closed so.
    Column("probe_at", BigInteger),
    # The run that is the probe, as "shard-id-fence", and until when it is taken to be alive.
    Column("probe", Text),
    Column("probe_until", BigInteger, nullable=False),
    # The clock of both, as that of a bucket.
    Column("clock", Text, nullable=False),
    Column("last_error", Text),
)

pauses = Table(
    "pauses",
    control_tables,
    # "queue:NAME", "task:NAME" or "shard:NUMBER".
    Column("scope", Text, primary_key=True),
    Column("reason", Text),
    Column("paused_at", UtcTime, nullable=False),
)

# Who runs under a limit that goes over several shards: counted, never added up.
permits = Table(
    "permits",
    control_tables,
    Column("scope", Text, primary_key=True),
    Column("shard_id", Integer, primary_key=True, autoincrement=False),
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    Column("fence", BigInteger, nullable=False),
    Column("taken_at", UtcTime, nullable=False),
)

# Soft: which processes take jobs, and what they can run.
workers = Table(
    "workers",
    control_tables,
    Column("identity", Text, primary_key=True),
    # JSON: names of queues, and of what it can run, as `held_by` names them.
    Column("queues", Text, nullable=False),
    Column("abilities", Text, nullable=False),
    Column("places", Integer, nullable=False),
    Column("began_at", UtcTime, nullable=False),
    Column("seen_at", UtcTime, nullable=False),
)
