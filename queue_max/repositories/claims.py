"""Claims on the `fila` table: which job a worker is to run next."""

from datetime import datetime

from sqlalchemy import BigInteger, Connection, and_, bindparam, exists, or_, select, update

from queue_max.domain.job import Job
from queue_max.repositories.jobs import WHOLE_JOB, to_job
from queue_max.storage.schema import PENDING, PROCESSING, SCHEDULED, jobs

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
_next_due = (
    select(jobs.c.next_retry_at)
    .where(jobs.c.status == SCHEDULED, jobs.c.next_retry_at.is_not(None))
    .order_by(jobs.c.next_retry_at)
    .limit(1)
)
_promote = update(jobs).where(jobs.c.id.in_(select(_due.c.id))).values(status=PENDING, held_by=None)

_most_urgent = (
    select(jobs.c.id)
    .where(_is_claimable)
    .order_by(jobs.c.priority.desc(), jobs.c.id)
    .limit(bindparam("at_most", type_=BigInteger))
    .with_for_update(skip_locked=True)
    .cte("most_urgent", nesting=True)
    .prefix_with("MATERIALIZED", dialect="postgresql")
)
_claim = (
    update(jobs)
    .where(jobs.c.id.in_(select(_most_urgent.c.id)))
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
    .returning(*WHOLE_JOB)
)


class ClaimRepository:
    """The jobs of one shard that may run, within one transaction."""

    def __init__(self, connection: Connection, shard_id: int, now: datetime) -> None:
        self._connection = connection
        self._shard_id = shard_id
        self._now = now
        self.weight = 0
        """Characters in the payloads that were claimed."""

    def has_due(self, queue: str) -> bool:
        """Tell whether a claim would find something."""
        values = {"queue_name": queue, "now": self._now}
        return bool(self._connection.execute(_has_due, values).scalar_one())

    def next_due(self) -> datetime | None:
        """Tell when the earliest job that waits is due; None when none does."""
        moment: datetime | None = self._connection.execute(_next_due).scalar_one_or_none()
        return moment

    def promote_due(self) -> int:
        """Make jobs pending whose time has come, the earliest first; a bounded number."""
        return self._connection.execute(_promote, {"now": self._now}).rowcount

    def claim(
        self, queue: str, worker_id: str, holder: str | None = None, *, at_most: int
    ) -> list[Job]:
        """Give the most urgent pending jobs to a worker, each under a new fence; in their order.

        `holder` is the identity of the worker's process, where others can tell whether it lives.
        """
        values = {
            "queue_name": queue,
            "claimant": worker_id,
            "holder": holder,
            "now": self._now,
            "at_most": at_most,
        }
        rows = self._connection.execute(_claim, values).all()
        self.weight += sum(len(row.payload) for row in rows)
        claimed = [to_job(row, self._shard_id) for row in rows]
        return sorted(claimed, key=_urgency)  # RETURNING has no order

    def claim_next(self, queue: str, worker_id: str, holder: str | None = None) -> Job | None:
        """Give the most urgent pending job to a worker, as `claim` does; None if none is due."""
        return next(iter(self.claim(queue, worker_id, holder, at_most=1)), None)


def _urgency(job: Job) -> tuple[int, int]:
    return -job.priority, job.id
