"""The `dead_letter_queue` table: what is kept of jobs that failed for good."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, bindparam, delete, func, insert, select

from queue_max.domain.clock import to_text
from queue_max.domain.dead_letters import DeadLetter, Filter
from queue_max.domain.failures import Failure
from queue_max.domain.job import Job, JobStatus
from queue_max.domain.reference import JobRef
from queue_max.repositories.compiled import Compiled, to_be_bound
from queue_max.repositories.jobs import has_status, only
from queue_max.storage.schema import dead_letters, jobs

_payload = select(jobs.c.payload).where(jobs.c.id == bindparam("job_id")).scalar_subquery()
_insert = Compiled(
    insert(dead_letters)
    .inline()
    .values({"payload": _payload, **to_be_bound(dead_letters, but={"id", "payload"})})
)


class DeadLetterRepository:
    """The dead letters of one shard, within one transaction."""

    def __init__(self, connection: Connection, shard_id: int, now: datetime) -> None:
        self._connection = connection
        self._shard_id = shard_id
        self._now = now

    def add(self, job: Job, failure: Failure, reason: str) -> None:
        """Keep a job that failed for good; its payload is copied as it is stored."""
        _insert.run(
            self._connection,
            job_id=job.id,
            error=failure.message,
            error_type=failure.error_type,
            error_stack=failure.stack,
            failed_at=self._now,
            shard_id=self._shard_id,
            uid=job.uid,
            reason=reason,
            task=job.task,
        )

    def list(
        self, chosen: Filter, limit: int, before_id: int | None = None
    ) -> Sequence[DeadLetter]:
        """Read dead letters, the newest first; those before another one, if it is given."""
        query = (
            select(dead_letters)
            .where(*_conditions(chosen))
            .order_by(dead_letters.c.id.desc())
            .limit(limit)
        )
        if before_id is not None:
            query = query.where(dead_letters.c.id < before_id)
        return [self._letter(row) for row in self._connection.execute(query)]

    def newest(self, limit: int) -> Sequence[dict[str, Any]]:
        """Read dead letters, the newest first, under the names of the 0.1 API."""
        return [
            {
                "id": letter.id,
                "original_job_id": letter.job_id,
                "payload": letter.payload,
                "error": letter.error,
                "error_type": letter.error_type,
                "failed_at": letter.failed_at,
                "shard_id": letter.shard_id,
                "reason": letter.reason,
            }
            for letter in self.list(Filter(), limit)
        ]

    def find(self, job: JobRef) -> DeadLetter | None:
        """Read the dead letter of a job, the newest if there are several."""
        query = select(dead_letters).where(_is_of(job)).order_by(dead_letters.c.id.desc()).limit(1)
        row = self._connection.execute(query).one_or_none()
        return None if row is None else self._letter(row)

    def count(self) -> int:
        """Count the dead letters."""
        query = select(func.count()).select_from(dead_letters)
        return self._connection.execute(query).scalar_one()

    def remove(self, letters: Iterable[DeadLetter]) -> None:
        """Remove dead letters."""
        ids = [letter.id for letter in letters]
        self._connection.execute(delete(dead_letters).where(dead_letters.c.id.in_(ids)))

    def has_before(self, moment: datetime) -> bool:
        """Tell whether `remove_before` would find something."""
        query = select(dead_letters.c.id).where(dead_letters.c.failed_at < moment).limit(1)
        return self._connection.execute(query).first() is not None

    def remove_before(self, moment: datetime, limit: int) -> Sequence[JobRef]:
        """Remove dead letters from before that moment, at most `limit`; names their jobs."""
        old = select(dead_letters.c.id).where(dead_letters.c.failed_at < moment).limit(limit)
        statement = (
            delete(dead_letters)
            .where(dead_letters.c.id.in_(old))
            .returning(dead_letters.c.uid, dead_letters.c.job_id)
        )
        return [
            JobRef(self._shard_id, row.uid, row.job_id)
            for row in self._connection.execute(statement)
        ]

    def remove_of_failed(self, job_id: int | None = None) -> None:
        """Remove the dead letters of all failed jobs, or of one, that are to live again."""
        failed = select(jobs.c.id).where(has_status(JobStatus.FAILED), *only(job_id))
        self._connection.execute(delete(dead_letters).where(dead_letters.c.job_id.in_(failed)))

    def _letter(self, row: Row[Any]) -> DeadLetter:
        return DeadLetter(
            id=row.id,
            shard_id=self._shard_id,
            job_id=row.job_id,
            uid=row.uid,
            payload=row.payload,
            error=row.error,
            error_type=row.error_type,
            error_stack=row.error_stack,
            task=row.task,
            reason=row.reason,
            failed_at=to_text(row.failed_at),
        )


def _is_of(job: JobRef) -> ColumnElement[bool]:
    if job.uid is not None:
        return dead_letters.c.uid == job.uid
    return dead_letters.c.job_id == job.job_id


def _conditions(chosen: Filter) -> Iterator[ColumnElement[bool]]:
    if chosen.error_type is not None:
        yield dead_letters.c.error_type == chosen.error_type
    if chosen.before is not None:
        yield dead_letters.c.failed_at < chosen.before
