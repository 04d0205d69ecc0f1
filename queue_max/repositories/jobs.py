"""The `fila` table: one method for each step in a job's life."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    insert,
    or_,
    select,
    tuple_,
    update,
)

from queue_max.checks import LARGEST
from queue_max.domain.failures import Failure
from queue_max.domain.job import Job, JobStatus, Lease, NewJob
from queue_max.exceptions import ShardDamagedError
from queue_max.storage.schema import (
    FAILED,
    PENDING,
    PROCESSING,
    SCHEDULED,
    STATUSES,
    jobs,
)

PROMOTED_AT_ONCE = 500
"""How many due jobs one claim makes pending: more would hold the lock for too long."""

_is_due = and_(jobs.c.status == SCHEDULED, jobs.c.next_retry_at <= bindparam("now"))
_is_claimable = and_(jobs.c.status == PENDING, jobs.c.queue == bindparam("queue_name"))

_has_due = select(or_(exists().where(_is_claimable), exists().where(_is_due)))

_due = (
    select(jobs.c.id)
    .where(_is_due)
    .order_by(jobs.c.next_retry_at)
    .limit(PROMOTED_AT_ONCE)
    .with_for_update(skip_locked=True)  # for PostgreSQL; SQLite has one writer and omits it
    # Within the subquery: a statement that begins with WITH has no rowcount in sqlite3.
    .cte("due", nesting=True)
    # Else PostgreSQL may run it once a row, and then it has no limit.
    .prefix_with("MATERIALIZED", dialect="postgresql")
)
_promote = update(jobs).where(jobs.c.id.in_(select(_due.c.id))).values(status=PENDING, held_by=None)

_claim = (
    update(jobs)
    .where(
        jobs.c.id
        == select(jobs.c.id)
        .where(_is_claimable)
        .order_by(jobs.c.priority.desc(), jobs.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    .values(
        status=PROCESSING,
        attempts=jobs.c.attempts + 1,
        fence=jobs.c.fence + 1,
        worker_id=bindparam("claimant"),
        started_at=bindparam("now"),
        heartbeat=bindparam("now"),
        held_by=bindparam("holder"),
        completed_at=None,
        next_retry_at=None,
    )
    .returning(jobs)
)

_fence = bindparam("token", type_=BigInteger)
_is_running = and_(
    jobs.c.id == bindparam("job_id"),
    jobs.c.status == PROCESSING,
    # Without a fence, whoever runs the job is meant.
    or_(_fence.is_(None), jobs.c.fence == _fence),
)
_running = select(jobs).where(_is_running).with_for_update()
_complete = delete(jobs).where(_is_running).returning(jobs.c.fence, jobs.c.uid)


class JobRepository:
    """The jobs of one shard, within one transaction."""

    def __init__(self, connection: Connection, shard_id: int, now: datetime) -> None:
        self._connection = connection
        self._shard_id = shard_id
        self._now = now

    def add(self, new: Sequence[NewJob]) -> list[int]:
        """Store jobs, due at once; gives their ids, in the same order."""
        rows = [
            {
                "payload": job.payload,
                "uid": job.uid,
                "pagina_id": job.pagina_id,
                "priority": job.priority,
                "max_attempts": job.max_attempts,
                "retry_delay": job.retry_delay,
                "queue": job.queue,
                "created_at": self._now,
            }
            for job in new
        ]
        added = self._connection.execute(insert(jobs).returning(jobs.c.uid, jobs.c.id), rows)
        ids = {row.uid: row.id for row in added}  # RETURNING has no order
        return [ids[job.uid] for job in new]

    def has_due(self, queue: str) -> bool:
        """Tell whether a claim would find something."""
        values = {"queue_name": queue, "now": self._now}
        return bool(self._connection.execute(_has_due, values).scalar_one())

    def promote_due(self) -> int:
        """Make jobs pending whose time has come, the earliest first; a bounded number."""
        return self._connection.execute(_promote, {"now": self._now}).rowcount

    def claim_next(self, queue: str, worker_id: str, holder: str | None = None) -> Job | None:
        """Give the most urgent pending job to a worker, under a new fence.

        `holder` is the identity of the worker's process, where others can tell whether it lives.
        """
        values = {
            "queue_name": queue,
            "claimant": worker_id,
            "holder": holder,
            "now": self._now,
        }
        row = self._connection.execute(_claim, values).one_or_none()
        return None if row is None else _to_job(row, self._shard_id)

    def running(self, job_id: int, fence: int | None) -> Job | None:
        """Read a job that runs, under that fence if one is given; None when it does not."""
        values = {"job_id": _known(job_id), "token": _known(fence)}
        row = self._connection.execute(_running, values).one_or_none()
        return None if row is None else _to_job(row, self._shard_id)

    def complete(self, job_id: int, fence: int | None) -> tuple[Lease, str] | None:
        """Delete a running job that is done; gives its lease and uid, None if it does not run."""
        values = {"job_id": _known(job_id), "token": _known(fence)}
        row = self._connection.execute(_complete, values).one_or_none()
        return None if row is None else (Lease(self._shard_id, job_id, row.fence), row.uid)

    def reschedule(self, job: Job, failure: Failure, at: datetime) -> None:
        """Let a failed job wait for its next attempt."""
        due = PENDING if at <= self._now else SCHEDULED
        self._leave(job, failure, status=due, next_retry_at=at)

    def give_back(self, job: Job) -> None:
        """Make a job pending again that was claimed and not started: the attempt counts not."""
        self._release(job, status=PENDING, attempts=jobs.c.attempts - 1)

    def fail(self, job: Job, failure: Failure) -> None:
        """Mark a job as failed for good; its dead letter is added beside it."""
        self._leave(job, failure, status=FAILED, next_retry_at=None, completed_at=self._now)

    def requeue_failed(self, job_id: int | None = None) -> int:
        """Make all failed jobs, or one, pending with a fresh budget; gives their number."""
        statement = (
            update(jobs)
            .where(has_status(JobStatus.FAILED), *only(job_id))
            .values(status=PENDING, attempts=0, next_retry_at=None, completed_at=None)
        )
        return self._connection.execute(statement).rowcount

    def renew(self, leases: Collection[Lease]) -> int:
        """Prolong leases; those that are lost already stay lost."""
        held = [(lease.job_id, lease.fence) for lease in leases]
        statement = (
            update(jobs)
            .where(jobs.c.status == PROCESSING, tuple_(jobs.c.id, jobs.c.fence).in_(held))
            .values(heartbeat=self._now)
        )
        return self._connection.execute(statement).rowcount

    def renew_of_worker(self, worker_id: str) -> int:
        """Prolong the leases of all jobs that a worker runs."""
        statement = (
            update(jobs)
            .where(jobs.c.status == PROCESSING, jobs.c.worker_id == worker_id)
            .values(heartbeat=self._now)
        )
        return self._connection.execute(statement).rowcount

    def silent_since(self, moment: datetime, limit: int) -> list[Job]:
        """Find running jobs whose lease was last prolonged before that moment."""
        statement = (
            select(jobs)
            .where(jobs.c.status == PROCESSING, jobs.c.heartbeat < moment)
            .order_by(jobs.c.heartbeat)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return read_jobs(self._connection, self._shard_id, statement)

    def held_by(self, identity: str, limit: int) -> list[Job]:
        """Find running jobs that a process holds."""
        statement = (
            select(jobs)
            .where(jobs.c.status == PROCESSING, jobs.c.held_by == identity)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return read_jobs(self._connection, self._shard_id, statement)

    def leases(self) -> dict[Lease, datetime]:
        """Read all leases, with the moment when each was last prolonged."""
        statement = select(jobs.c.id, jobs.c.fence, jobs.c.heartbeat).where(
            jobs.c.status == PROCESSING
        )
        return {
            Lease(self._shard_id, row.id, row.fence): row.heartbeat
            for row in self._connection.execute(statement)
        }

    def _leave(self, job: Job, failure: Failure, **changes: Any) -> None:
        """Take a job from its worker, noting why."""
        self._release(
            job,
            last_error=failure.message,
            error_type=failure.error_type,
            error_stack=failure.stack,
            **changes,
        )

    def _release(self, job: Job, **changes: Any) -> None:
        self._connection.execute(
            update(jobs)
            .where(jobs.c.id == job.id, jobs.c.status == PROCESSING, jobs.c.fence == job.fence)
            .values(worker_id=None, heartbeat=None, held_by=None, **changes)
        )


def read_jobs(connection: Connection, shard_id: int, statement: Select[Any]) -> list[Job]:
    """Run a statement that selects whole rows."""
    return [_to_job(row, shard_id) for row in connection.execute(statement)]


def _to_job(row: Row[Any], shard_id: int) -> Job:
    try:
        return Job.from_row(dict(row._mapping), shard_id)  # by the names on disk
    except ValueError as error:
        raise ShardDamagedError(shard_id, f"job {row.id} cannot be read: {error}") from error


def has_status(status: JobStatus) -> ColumnElement[bool]:
    """Ask for a state in the words that the partial indexes know."""
    condition = jobs.c.status == STATUSES[status]
    ended = status in {JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}
    return and_(condition, jobs.c.completed_at.is_not(None)) if ended else condition


def only(job_id: int | None) -> list[ColumnElement[bool]]:
    """Ask for one job, or for any."""
    return [] if job_id is None else [jobs.c.id == _known(job_id)]


def _known(number: int | None) -> int | None:
    """Give 0, which is no job's, for a number that no column can hold."""
    return number if number is None or -LARGEST <= number <= LARGEST else 0
