"""The `unique_keys` table: which job a key stands for, and for how long."""

from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, delete, insert, or_, select

from queue_max.domain.clock import later
from queue_max.domain.job import JobHandle, NewJob
from queue_max.repositories.locks import hold_name
from queue_max.storage.schema import PENDING, PROCESSING, SCHEDULED, jobs, unique_keys

_living = select(jobs.c.uid).where(
    jobs.c.uid == unique_keys.c.uid, jobs.c.status.in_([PENDING, SCHEDULED, PROCESSING])
)


class UniqueKeyRepository:
    """The keys of one shard, within one transaction.

    A key without a period is taken while its job lives, and that is looked up when somebody
    wants it: so the end of a job costs nothing more.
    """

    def __init__(self, connection: Connection, shard_id: int, now: datetime) -> None:
        self._connection = connection
        self._shard_id = shard_id
        self._now = now

    def holder(self, key: str) -> JobHandle | None:
        """Tell which job has a key, keeping others from taking it; None when it is free."""
        # Two transactions that both find it free must not both take it.
        hold_name(self._connection, key)
        query = select(unique_keys).where(unique_keys.c.key == key, ~self._is_over())
        row = self._connection.execute(query).one_or_none()
        if row is None:
            return None
        return JobHandle(row.job_id, self._shard_id, row.uid, created=False)

    def take(self, job: NewJob, job_id: int) -> None:
        """Let a job have its key, which is free."""
        until = None if job.unique_for is None else later(self._now, job.unique_for)
        self._connection.execute(delete(unique_keys).where(unique_keys.c.key == job.unique_key))
        self._connection.execute(
            insert(unique_keys).values(key=job.unique_key, uid=job.uid, job_id=job_id, until=until)
        )

    def has_free(self) -> bool:
        """Tell whether `forget_free` would find something."""
        free = select(unique_keys.c.key).where(self._is_over()).limit(1)
        return self._connection.execute(free).first() is not None

    def forget_free(self, limit: int) -> int:
        """Delete keys that are free again, at most `limit`; gives their number."""
        free = select(unique_keys.c.key).where(self._is_over()).limit(limit)
        keys = list(self._connection.execute(free).scalars())
        self._connection.execute(delete(unique_keys).where(unique_keys.c.key.in_(keys)))
        return len(keys)

    def _is_over(self) -> ColumnElement[bool]:
        return or_(
            and_(unique_keys.c.until.is_not(None), unique_keys.c.until <= self._now),
            and_(unique_keys.c.until.is_(None), ~_living.exists()),
        )
