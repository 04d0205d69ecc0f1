"""The `fila` table as a whole: jobs counted, listed and deleted many at once."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Row,
    and_,
    bindparam,
    delete,
    exists,
    func,
    or_,
    select,
    update,
)

from queue_max.domain.job import Job, JobStatus
from queue_max.domain.reference import JobRef
from queue_max.repositories.compiled import Compiled, is_sqlite
from queue_max.repositories.concurrency_keys import ConcurrencyKeyRepository
from queue_max.repositories.jobs import (
    ANOTHER_LIFE,
    WHOLE_JOB,
    has_status,
    listed,
    only,
    read_jobs,
    to_job,
)
from queue_max.storage.schema import (
    FAILED,
    PENDING,
    PROCESSING,
    SCHEDULED,
    attempts,
    dead_letters,
    jobs,
)

ALL = 2**62
"""As a limit: none."""

_up_to = bindparam("at_most", type_=BigInteger)
_in_state = [
    jobs.c.status == PENDING,
    jobs.c.status == SCHEDULED,
    jobs.c.status == PROCESSING,
    and_(jobs.c.status == FAILED, jobs.c.completed_at.is_not(None)),
    and_(jobs.c.status == SCHEDULED, jobs.c.held_by.is_not(None)),
]
_pending, _scheduled, _processing, _failed, _held = (
    select(func.count())
    .select_from(select(jobs.c.id).where(is_so).limit(_up_to).subquery())
    .scalar_subquery()
    for is_so in _in_state
)
_counts = select(_pending, _scheduled, _processing, _failed, _held)
_count_waiting = select(_pending + _scheduled)

_is_dead_letter = exists().where(dead_letters.c.job_id == jobs.c.id)


_is_done = and_(
    jobs.c.status == PROCESSING,
    jobs.c.keep_result.is_(None),
    jobs.c.fence == bindparam("token", type_=BigInteger),
)
_complete_all = (
    delete(jobs)
    .where(_is_done, jobs.c.id.in_(bindparam("job_ids", expanding=True)))
    .returning(jobs.c.id)
)
# On SQLite a list is one text, and who writes is alone between two statements.
_read_done = Compiled(
    select(func.json_group_array(jobs.c.id)).where(_is_done, jobs.c.id.in_(listed("job_ids")))
)
_delete_listed = Compiled(delete(jobs).where(jobs.c.id.in_(listed("job_ids"))))


@dataclass(frozen=True, slots=True)
class Counts:
    """How many jobs of a shard are in which state; `scheduled` wait, and are not in `pending`.

    Of the scheduled ones, `held` wait for something else than their time.
    """

    pending: int = 0
    scheduled: int = 0
    processing: int = 0
    failed: int = 0
    held: int = 0

    @property
    def largest(self) -> int:
        """The number of jobs in the state in which most are."""
        return max(self.pending, self.scheduled, self.processing, self.failed)

    @property
    def unfinished(self) -> int:
        """All that still have to end."""
        return self.pending + self.scheduled + self.processing

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.pending + other.pending,
            self.scheduled + other.scheduled,
            self.processing + other.processing,
            self.failed + other.failed,
            self.held + other.held,
        )


class JobListRepository:
    """The jobs of one shard by the state they are in, within one transaction."""

    def __init__(
        self, connection: Connection, shard_id: int, now: datetime, keys: ConcurrencyKeyRepository
    ) -> None:
        self._connection = connection
        self._shard_id = shard_id
        self._now = now
        self._keys = keys

    def counts(self, at_most: int = ALL) -> Counts:
        """Count the jobs by state, in none of them further than `at_most`."""
        return Counts(*self._connection.execute(_counts, {"at_most": at_most}).one())

    def count_held(self) -> dict[str, int]:
        """Count the jobs that wait for something else than their time, by what holds them."""
        query = (
            select(jobs.c.held_by, func.count())
            .where(jobs.c.status == SCHEDULED, jobs.c.held_by.is_not(None))
            .group_by(jobs.c.held_by)
            .order_by(jobs.c.held_by)
        )
        return {row[0]: row[1] for row in self._connection.execute(query)}

    def count_by_queue(self) -> dict[str, Counts]:
        """Count the jobs of each named queue that have not ended, by state."""
        waits = jobs.c.status.in_([PENDING, SCHEDULED, PROCESSING])
        columns = (jobs.c.queue, jobs.c.status, jobs.c.held_by.is_not(None).label("is_held"))
        query = select(*columns, func.count()).where(waits).group_by(*columns)
        found: dict[str, Counts] = defaultdict(Counts)
        for queue, status, is_held, number in self._connection.execute(query):
            counts = Counts(**{status: number})
            if is_held and status == JobStatus.SCHEDULED:
                counts += Counts(held=number)
            found[queue] += counts
        return dict(found)

    def count_waiting(self, at_most: int) -> int:
        """Count the jobs that are pending or scheduled, but not further than `at_most`."""
        return int(self._connection.execute(_count_waiting, {"at_most": at_most}).scalar_one())

    def list_by_status(
        self, statuses: Collection[JobStatus], limit: int | None, queue: str | None = None
    ) -> list[Job]:
        """Read jobs in those states, of one queue or of all, the newest first."""
        of_queue = () if queue is None else (jobs.c.queue == queue,)
        return read_jobs(
            self._connection,
            self._shard_id,
            select(*WHOLE_JOB)
            .where(or_(*(has_status(status) for status in statuses)), *of_queue)
            .order_by(jobs.c.id.desc())
            .limit(limit),
        )

    def all(self) -> Iterator[Job]:
        """Read all jobs, one after the other, by their ids."""
        statement = select(*WHOLE_JOB).order_by(jobs.c.id)
        for row in self._connection.execute(statement).yield_per(1000):
            yield to_job(row, self._shard_id)

    def complete_all(self, done: Sequence[Job]) -> list[bool]:
        """Delete running jobs that are done, and of which nothing is to be kept.

        Tells of each whether it was still run under its fence.
        """
        by_fence: dict[int, list[int]] = defaultdict(list)
        for job in done:
            by_fence[job.fence].append(job.id)
            self._keys.note(job.concurrency_key)
        # For nearly all jobs the fence is 1.
        found = {fence: set(self._complete(fence, ids)) for fence, ids in by_fence.items()}
        return [job.id in found[job.fence] for job in done]

    def _complete(self, fence: int, ids: list[int]) -> Iterable[int]:
        if not is_sqlite(self._connection):
            values = {"token": fence, "job_ids": ids}
            return self._connection.execute(_complete_all, values).scalars()
        asked = _read_done.run(self._connection, token=fence, job_ids=json.dumps(ids))
        [done] = asked.fetchone()
        _delete_listed.run(self._connection, job_ids=done)
        found: list[int] = json.loads(done)
        return found

    def delete_ended_before(self, moments: Mapping[JobStatus, datetime], limit: int) -> int:
        """Delete jobs of each kind that ended before its moment, but for those with a dead letter.

        Of those that are kept for their result, their own time decides. At most `limit` in all.
        """
        found = self._ended_before(moments, limit)
        found = [*found, *self._expired(limit - len(found))]
        uids, ids = [row.uid for row in found], [row.id for row in found]
        self._connection.execute(delete(attempts).where(attempts.c.uid.in_(uids)))
        return self._connection.execute(delete(jobs).where(jobs.c.id.in_(ids))).rowcount

    def has_ended_before(self, moments: Mapping[JobStatus, datetime]) -> bool:
        """Tell whether `delete_ended_before` would find something."""
        return bool(self._ended_before(moments, 1) or self._expired(1))

    def _ended_before(
        self, moments: Mapping[JobStatus, datetime], limit: int
    ) -> Sequence[Row[Any, Any]]:
        found: list[Row[Any, Any]] = []
        for status, moment in moments.items():
            query = (
                select(jobs.c.id, jobs.c.uid)
                .where(
                    has_status(status),
                    jobs.c.completed_at < moment,
                    jobs.c.keep_until.is_(None),
                    ~_is_dead_letter,
                )
                .limit(limit - len(found))
            )
            found += self._connection.execute(query)
        return found

    def _expired(self, limit: int) -> Sequence[Row[Any, Any]]:
        query = select(jobs.c.id, jobs.c.uid).where(jobs.c.keep_until <= self._now).limit(limit)
        return self._connection.execute(query).all()

    def purge(self, statuses: Collection[JobStatus]) -> int:
        """Delete all jobs in those states; of dead letters the attempts stay, too."""
        condition = or_(*(has_status(status) for status in statuses))
        gone = select(jobs.c.uid).where(condition, ~_is_dead_letter)
        self._connection.execute(delete(attempts).where(attempts.c.uid.in_(gone)))
        return self._connection.execute(delete(jobs).where(condition)).rowcount

    def requeue_failed(self, job_id: int | None = None) -> int:
        """Make all failed jobs, or one, pending with a fresh budget; gives their number."""
        statement = (
            update(jobs).where(has_status(JobStatus.FAILED), *only(job_id)).values(**ANOTHER_LIFE)
        )
        return self._connection.execute(statement).rowcount

    def delete_failed(self, chosen: Collection[JobRef]) -> None:
        """Delete failed jobs."""
        ids = [job.job_id for job in chosen if job.uid is None]
        uids = [job.uid for job in chosen if job.uid is not None]
        # Not by has_status: SQLite would walk all the failed, by the index that goes with it.
        statement = delete(jobs).where(
            jobs.c.status == FAILED, or_(jobs.c.id.in_(ids), jobs.c.uid.in_(uids))
        )
        self._connection.execute(statement)
