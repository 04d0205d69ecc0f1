"""The leases in the `fila` table: who runs which jobs, and was last heard of when."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection, Text, select, tuple_, type_coerce, update

from queue_max.domain.job import Job, Lease
from queue_max.repositories.jobs import WHOLE_JOB, read_jobs
from queue_max.storage.schema import PROCESSING, jobs

# As it is stored: a damaged one spoils nothing else.
_all = select(
    jobs.c.id, jobs.c.fence, type_coerce(jobs.c.heartbeat, Text).label("heartbeat")
).where(jobs.c.status == PROCESSING)


class LeaseRepository:
    """The running jobs of one shard, within one transaction."""

    def __init__(self, connection: Connection, shard_id: int, now: datetime) -> None:
        self._connection = connection
        self._shard_id = shard_id
        self._now = now

    def renew(self, leases: Collection[Lease]) -> int:
        """Prolong leases; those that are lost already stay lost."""
        held = [(lease.job_id, lease.fence) for lease in leases]
        statement = (
            update(jobs)
            .where(jobs.c.status == PROCESSING, tuple_(jobs.c.id, jobs.c.fence).in_(held))
            .values(heartbeat=self._now)
        )
        return self._connection.execute(statement).rowcount

    def held(self, leases: Collection[Lease]) -> set[Lease]:
        """Tell which of these leases are not lost."""
        held = [(lease.job_id, lease.fence) for lease in leases]
        statement = select(jobs.c.id, jobs.c.fence).where(
            jobs.c.status == PROCESSING, tuple_(jobs.c.id, jobs.c.fence).in_(held)
        )
        found = self._connection.execute(statement)
        return {Lease(self._shard_id, row.id, row.fence) for row in found}

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
            select(*WHOLE_JOB)
            .where(jobs.c.status == PROCESSING, jobs.c.heartbeat < moment)
            .order_by(jobs.c.heartbeat)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return read_jobs(self._connection, self._shard_id, statement)

    def held_by(self, identity: str, limit: int) -> list[Job]:
        """Find running jobs that a process holds."""
        statement = (
            select(*WHOLE_JOB)
            .where(jobs.c.status == PROCESSING, jobs.c.held_by == identity)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return read_jobs(self._connection, self._shard_id, statement)

    def all(self) -> dict[Lease, str]:
        """Read all leases, with the moment when each was last prolonged, as it is stored."""
        return {
            Lease(self._shard_id, row.id, row.fence): str(row.heartbeat)
            for row in self._connection.execute(_all)
        }
