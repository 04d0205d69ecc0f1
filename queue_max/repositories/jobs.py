"""The `fila` table: one method for each step in a job's life."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Select,
    Text,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    type_coerce,
    update,
)
from sqlalchemy.dialects import sqlite

from queue_max.checks import LARGEST
from queue_max.domain.clock import later, to_text
from queue_max.domain.failures import Failure
from queue_max.domain.job import Job, JobStatus, Lease, NewJob
from queue_max.domain.reference import JobRef
from queue_max.domain.soundness import checksum, damage_of, without_damage
from queue_max.repositories.compiled import Compiled, is_sqlite
from queue_max.repositories.concurrency_keys import ConcurrencyKeyRepository
from queue_max.storage.schema import (
    CANCELLED,
    PENDING,
    PROCESSING,
    SCHEDULED,
    STATUSES,
    jobs,
)
from queue_max.storage.types import UtcTime

_NOT_IN_A_JOB = {
    *("cost", "keep_until", "headers"),
}
_names = [column.key for column in jobs.c if column.key not in _NOT_IN_A_JOB]
WHOLE_JOB = [
    (
        type_coerce(jobs.c[name], Text) if isinstance(jobs.c[name].type, UtcTime) else jobs.c[name]
    ).label(name)
    for name in _names
]
"""All that a Job has; moments as they are stored, so that a damaged one spoils nothing else."""

ANOTHER_LIFE = {
    "status": PENDING,
    "attempts": 0,
    "next_retry_at": None,
    "completed_at": None,
}
"""What changes in a job that had failed for good, when it is to run again."""

NOBODYS = {"worker_id": None, "heartbeat": None, "held_by": None}
"""What changes in a job when no worker has it any more, and nothing holds it."""

_fence = bindparam("token", type_=BigInteger)
_is_running = and_(
    jobs.c.id == bindparam("job_id"),
    jobs.c.status == PROCESSING,
    # Without a fence, whoever runs the job is meant.
    or_(_fence.is_(None), jobs.c.fence == _fence),
)
_running = select(*WHOLE_JOB).where(_is_running).with_for_update()
_complete = (
    delete(jobs)
    .where(_is_running, jobs.c.keep_result.is_(None))
    .returning(jobs.c.fence, jobs.c.uid, jobs.c.breaker, jobs.c.concurrency_key)
)


# In the order of the table, which is that of the places in the text.
_STORED = (
    *("pagina_id", "payload", "status", "priority", "max_attempts", "retry_delay", "created_at"),
    *("next_retry_at", "uid", "fence", "queue", "task", "concurrency_key", "rate_key", "breaker"),
    *("timeout", "retry_policy", "checksum", "keep_result"),
)
_INSERT = str(
    insert(jobs)
    .inline()
    .compile(dialect=sqlite.dialect(paramstyle="qmark"), column_keys=list(_STORED))
)
_PENDING, _SCHEDULED = str(JobStatus.PENDING), str(JobStatus.SCHEDULED)


@functools.cache
def _release(changed: frozenset[str], is_counted: bool, has_fence: bool) -> Compiled:
    """Take a job from its worker; where the row is damaged, its fence may be, too."""
    held = [jobs.c.fence == bindparam("token", type_=BigInteger)] if has_fence else []
    new: dict[str, Any] = {
        name: bindparam(f"new_{name}", type_=jobs.c[name].type) for name in sorted(changed)
    }
    if not is_counted:
        new["attempts"] = jobs.c.attempts - 1
    condition = (jobs.c.id == bindparam("job_id"), jobs.c.status == PROCESSING, *held)
    return Compiled(update(jobs).where(*condition).values(NOBODYS | new))


class Completed(NamedTuple):
    """A job that is done."""

    lease: Lease
    uid: str | None
    """None where it is kept."""
    breaker: str | None


class JobRepository:
    """The jobs of one shard, within one transaction."""

    def __init__(
        self, connection: Connection, shard_id: int, now: datetime, keys: ConcurrencyKeyRepository
    ) -> None:
        self._connection = connection
        self._shard_id = shard_id
        self._now = now
        self._keys = keys

    def add(self, new: Sequence[NewJob]) -> list[int]:
        """Store jobs; gives their ids, in the same order."""
        for job in new:
            self._keys.note(job.concurrency_key)
        if is_sqlite(self._connection):
            now = to_text(self._now)
            return self._add_in_a_row([self._row(job, now) for job in new])
        rows = [self._row(job, self._now) for job in new]
        values = [dict(zip(_STORED, row, strict=True)) for row in rows]
        added = self._connection.execute(insert(jobs).returning(jobs.c.uid, jobs.c.id), values)
        ids = {row.uid: row.id for row in added}  # RETURNING has no order
        return [ids[job.uid] for job in new]

    def _row(self, job: NewJob, now: datetime | str) -> tuple[Any, ...]:
        """Give what is stored of a new job, in the order of _STORED."""
        at = later(self._now, job.delay) if job.delay else job.run_at
        if at is not None and at <= self._now:
            at = None
        return (
            job.pagina_id,
            job.payload,
            _PENDING if at is None else _SCHEDULED,
            job.priority,
            job.max_attempts,
            job.retry_delay,
            now,
            at if at is None else self._stored(at),
            job.uid,
            job.fence,
            job.queue,
            job.task,
            job.concurrency_key,
            job.rate_key,
            job.breaker,
            job.timeout,
            job.retry_policy,
            checksum(job.uid, job.payload, job.task),
            job.keep_result,
        )

    def _stored(self, moment: datetime) -> datetime | str:
        return to_text(moment) if is_sqlite(self._connection) else moment

    def _add_in_a_row(self, rows: list[tuple[Any, ...]]) -> list[int]:
        """Store rows as SQLite has it: who writes is alone, so that their ids follow each other.

        By the driver's own cursor: what SQLAlchemy does for each row takes longer than SQLite.
        """
        cursor = self._connection.connection.cursor()
        if len(rows) == 1:
            return [cursor.execute(_INSERT, rows[0]).lastrowid]
        cursor.executemany(_INSERT, rows)
        [last] = cursor.execute("SELECT last_insert_rowid()").fetchone()
        return list(range(last - len(rows) + 1, last + 1))

    def running(self, job_id: int, fence: int | None) -> Job | None:
        """Read a job that runs, under that fence if one is given; None when it does not."""
        values = {"job_id": _known(job_id), "token": _known(fence)}
        row = self._connection.execute(_running, values).one_or_none()
        return None if row is None else to_job(row, self._shard_id)

    def complete(
        self, job_id: int, fence: int | None, result: str | None = None
    ) -> Completed | None:
        """Delete a running job that is done, or keep it with its result where that was asked for.

        None if it does not run. `result` is JSON text. What is kept tells also who made it.
        """
        values = {"job_id": _known(job_id), "token": _known(fence)}
        row = self._connection.execute(_complete, values).one_or_none()
        if row is not None:
            self._keys.note(row.concurrency_key)
            return Completed(Lease(self._shard_id, job_id, row.fence), row.uid, row.breaker)
        job = self.running(job_id, fence)
        if job is None or job.keep_result is None:
            return None
        self._release(
            job,
            status=str(JobStatus.COMPLETED),
            worker_id=job.worker_id,
            completed_at=self._now,
            keep_until=later(self._now, job.keep_result),
            result=result,
            progress=100.0,
        )
        return Completed(job.lease, None, job.breaker)

    def cancel(self, job: JobRef, reason: str) -> bool:
        """End a job as cancelled that waits or runs; False for any other."""
        statement = (
            update(jobs)
            .where(is_(job), jobs.c.status.in_((PENDING, SCHEDULED, PROCESSING)))
            .values(
                status=CANCELLED,
                completed_at=self._now,
                next_retry_at=None,
                last_error=reason,
                **NOBODYS,
            )
            .returning(jobs.c.concurrency_key)
        )
        row = self._connection.execute(statement).one_or_none()
        if row is not None:
            self._keys.note(row.concurrency_key)
        return row is not None

    def update_progress(self, job_id: int, fence: int | None, percent: float) -> bool:
        """Note how far a running job is; False when it does not run."""
        statement = update(jobs).where(_is_running).values(progress=percent)
        values = {"job_id": _known(job_id), "token": _known(fence)}
        return self._connection.execute(statement, values).rowcount == 1

    def reschedule(self, job: Job, failure: Failure, at: datetime) -> bool:
        """Let a failed job wait for its next attempt; False when its lease is lost."""
        return self._leave(job, failure, **self._waiting(at))

    def snooze(self, job: Job, at: datetime) -> bool:
        """Let a running job wait as if it had not run; False when its lease is lost."""
        return self._release(job, is_counted=False, **self._waiting(at))

    def cancel_running(self, job: Job, failure: Failure) -> bool:
        """End a running job as cancelled; False when its lease is lost."""
        return self._leave(job, failure, status=str(JobStatus.CANCELLED), completed_at=self._now)

    def give_back(self, job: Job, held_by: str | None = None) -> bool:
        """Make a job pending that was claimed and not started; False when its lease is lost.

        Where something holds it, it is scheduled instead, for no certain time.
        """
        if held_by is None:
            return self.snooze(job, self._now)
        held = {"status": _SCHEDULED, "next_retry_at": None, "held_by": held_by}
        return self._release(job, is_counted=False, **held)

    def fail(self, job: Job, failure: Failure) -> bool:
        """Mark a job as failed for good, beside its dead letter; False when its lease is lost."""
        return self._leave(job, failure, status=str(JobStatus.FAILED), completed_at=self._now)

    def find(self, job: JobRef) -> Job | None:
        """Read a job, whatever state it is in; None when it is not in this shard."""
        row = self._connection.execute(select(*WHOLE_JOB).where(is_(job))).one_or_none()
        return None if row is None else to_job(row, self._shard_id)

    def requeue(self, job: JobRef, payload: str | None = None) -> int | None:
        """Make a failed job pending with a fresh budget, with another payload if one is given.

        Gives its id; None when it is not a failed one.
        """
        statement = (
            update(jobs)
            .where(is_(job), has_status(JobStatus.FAILED))
            .values(ANOTHER_LIFE)
            .returning(jobs.c.id, jobs.c.uid, jobs.c.task, jobs.c.concurrency_key)
        )
        row = self._connection.execute(statement).one_or_none()
        if row is not None:
            self._keys.note(row.concurrency_key)
        if row is not None and payload is not None:
            another = {"payload": payload, "checksum": checksum(row.uid, payload, row.task)}
            self._connection.execute(update(jobs).where(jobs.c.id == row.id).values(another))
        return None if row is None else row.id

    def _waiting(self, at: datetime) -> dict[str, Any]:
        return {"status": _PENDING if at <= self._now else _SCHEDULED, "next_retry_at": at}

    def _leave(self, job: Job, failure: Failure, **changes: Any) -> bool:
        """Take a job from its worker, noting why."""
        return self._release(
            job,
            last_error=failure.message,
            error_type=failure.error_type,
            error_stack=failure.stack,
            **changes,
        )

    def _release(self, job: Job, *, is_counted: bool = True, **changes: Any) -> bool:
        """Take a job from its worker; False when it is not, or no longer, the worker's."""
        self._keys.note(job.concurrency_key)
        statement = _release(frozenset(changes), is_counted, job.damage is None)
        values = {f"new_{name}": value for name, value in changes.items()}
        if job.damage is None:
            values["token"] = job.fence
        return bool(statement.run(self._connection, job_id=job.id, **values).rowcount == 1)


def read_jobs(connection: Connection, shard_id: int, statement: Select[Any]) -> list[Job]:
    """Run a statement that selects whole rows."""
    return [to_job(row, shard_id) for row in connection.execute(statement)]


def to_job(row: Row[Any], shard_id: int) -> Job:
    """Read a whole row, as `whole_job` does."""
    return whole_job(dict(zip(_names, row, strict=True)), shard_id)


def whole_job(stored: dict[str, Any], shard_id: int) -> Job:
    """Make a job of all its columns; takes the dict over.

    A damaged one comes with an empty payload, and says what is wrong.
    """
    damage = damage_of(stored)
    if damage is None:
        try:
            return Job.from_sound(stored, shard_id)
        except (ValueError, RecursionError):
            damage = "its payload is not JSON"
    return replace(Job.from_row(without_damage(stored), shard_id), damage=damage)


def listed(name: str) -> Select[tuple[int]]:
    """Select the numbers of a JSON array that is bound to that name; for SQLite."""
    return select(func.json_each(bindparam(name, type_=Text)).table_valued("value").c.value)


def has_status(status: JobStatus) -> ColumnElement[bool]:
    """Ask for a state in the words that the partial indexes know."""
    condition = jobs.c.status == STATUSES[status]
    ended = status in {JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}
    return and_(condition, jobs.c.completed_at.is_not(None)) if ended else condition


def is_(job: JobRef) -> ColumnElement[bool]:
    """Ask for one job by what names it."""
    return jobs.c.uid == job.uid if job.uid is not None else jobs.c.id == _known(job.job_id)


def only(job_id: int | None) -> list[ColumnElement[bool]]:
    """Ask for one job, or for any."""
    return [] if job_id is None else [jobs.c.id == _known(job_id)]


def _known(number: int | None) -> int | None:
    """Give 0, which is no job's, for a number that no column can hold."""
    return number if number is None or -LARGEST <= number <= LARGEST else 0
