"""The `dead_letter_queue` table: what is kept of jobs that failed for good."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from queue_max.domain.clock import to_text
from queue_max.domain.failures import Failure
from queue_max.domain.job import Job, JobStatus
from queue_max.repositories.jobs import has_status, only
from queue_max.storage.schema import dead_letters, jobs


class DeadLetterRepository:
    """The dead letters of one shard, within one transaction."""

    def __init__(self, connection: Connection, shard_id: int, now: datetime) -> None:
        self._connection = connection
        self._shard_id = shard_id
        self._now = now

    def add(self, job: Job, failure: Failure, reason: str) -> None:
        """Keep a job that failed for good; its payload is copied as it is stored."""
        payload = select(jobs.c.payload).where(jobs.c.id == job.id).scalar_subquery()
        self._connection.execute(
            insert(dead_letters).values(
                job_id=job.id,
                payload=payload,
                error=failure.message,
                error_type=failure.error_type,
                error_stack=failure.stack,
                failed_at=self._now,
                shard_id=self._shard_id,
                uid=job.uid,
                reason=reason,
            )
        )

    def newest(self, limit: int) -> list[dict[str, Any]]:
        """Read dead letters, the newest first, under the names of the 0.1 API."""
        query = select(dead_letters).order_by(dead_letters.c.id.desc()).limit(limit)
        return [
            {
                "id": row.id,
                "original_job_id": row.job_id,
                "payload": row.payload,
                "error": row.error,
                "error_type": row.error_type,
                "failed_at": to_text(row.failed_at),
                "shard_id": row.shard_id,
                "reason": row.reason,
            }
            for row in self._connection.execute(query)
        ]

    def count(self) -> int:
        """Count the dead letters."""
        query = select(func.count()).select_from(dead_letters)
        return self._connection.execute(query).scalar_one()

    def remove_of_failed(self, job_id: int | None = None) -> None:
        """Remove the dead letters of all failed jobs, or of one, that are to live again."""
        failed = select(jobs.c.id).where(has_status(JobStatus.FAILED), *only(job_id))
        self._connection.execute(delete(dead_letters).where(dead_letters.c.job_id.in_(failed)))
