"""The `attempts` table: how each attempt at a job failed."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import BigInteger, Connection, bindparam, delete, func, insert, select

from queue_max.domain.attempts import KEPT, Attempt
from queue_max.domain.clock import from_text, to_text
from queue_max.domain.failures import Failure
from queue_max.domain.job import Job
from queue_max.repositories.compiled import Compiled, to_be_bound
from queue_max.storage.schema import attempts

_insert = Compiled(insert(attempts).inline().values(to_be_bound(attempts, but={"id"})))
_of_job = attempts.c.uid == bindparam("job_uid")
_list = select(attempts).where(_of_job).order_by(attempts.c.id)
_count = select(func.count()).where(_of_job, attempts.c.error_type == bindparam("kind"))
_last_fence = select(func.coalesce(func.max(attempts.c.fence), 0)).where(_of_job)
_newest = (
    select(attempts.c.id)
    .where(_of_job)
    .order_by(attempts.c.id.desc())
    .limit(bindparam("kept", KEPT, BigInteger))
)
_forget_oldest = delete(attempts).where(_of_job, attempts.c.id.not_in(_newest))
_forget = delete(attempts).where(attempts.c.uid.in_(bindparam("uids", expanding=True)))


class AttemptRepository:
    """The failed attempts at the jobs of one shard, within one transaction."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self._connection = connection
        self._now = now

    def add(self, job: Job, failure: Failure) -> None:
        """Keep an attempt that has just failed, and no more than the newest ones of the job."""
        _insert.run(
            self._connection,
            uid=job.uid,
            fence=job.fence,
            attempt=job.attempts,
            worker_id=job.worker_id,
            started_at=_moment(job.started_at),
            ended_at=self._now,
            error_type=failure.error_type,
            error=failure.message,
            error_stack=failure.stack,
        )
        if job.fence > KEPT:
            self._connection.execute(_forget_oldest, {"job_uid": job.uid})

    def last_fence(self, uid: str) -> int:
        """Tell the fence of the last attempt that is kept; 0 when none is."""
        return int(self._connection.execute(_last_fence, {"job_uid": uid}).scalar_one())

    def of(self, uid: str) -> list[Attempt]:
        """Read the attempts at a job, the first one first."""
        return [
            Attempt(
                number=row.attempt,
                worker_id=row.worker_id,
                started_at=row.started_at and to_text(row.started_at),
                ended_at=to_text(row.ended_at),
                error_type=row.error_type,
                error=row.error,
                error_stack=row.error_stack,
            )
            for row in self._connection.execute(_list, {"job_uid": uid})
        ]

    def count(self, job: Job, error_type: str) -> int:
        """Count the attempts at a job that ended with such an error."""
        values = {"job_uid": job.uid, "kind": error_type}
        return int(self._connection.execute(_count, values).scalar_one())

    def forget(self, uids: Collection[str]) -> None:
        """Remove all attempts at jobs that are gone."""
        self._connection.execute(_forget, {"uids": list(uids)})


def _moment(text: str | None) -> datetime | None:
    """Read a moment of a job, whose row may be damaged."""
    try:
        return None if text is None else from_text(text)
    except ValueError:
        return None
