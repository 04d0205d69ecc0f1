"""Claims on the `fila` table: which job a worker is to run next."""

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    exists,
    func,
    or_,
    select,
    update,
)

from queue_max.domain import json_text
from queue_max.domain.clock import to_text
from queue_max.domain.job import Job, JobPriority, JobStatus
from queue_max.repositories.compiled import Compiled, is_sqlite
from queue_max.repositories.jobs import WHOLE_JOB, listed, to_job, whole_job
from queue_max.storage import driver
from queue_max.storage.schema import PENDING, PROCESSING, SCHEDULED, jobs
from queue_max.storage.types import UnreadableValueError, to_moment

PROMOTED_AT_ONCE = 500
"""How many due jobs one claim makes pending: more would hold the lock for too long."""

_is_due = and_(jobs.c.status == SCHEDULED, jobs.c.next_retry_at <= bindparam("now"))
_is_claimable = and_(jobs.c.status == PENDING, jobs.c.queue == bindparam("queue_name"))

_has_due = Compiled(select(or_(exists().where(_is_claimable), exists().where(_is_due))))

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
_next_due = Compiled(
    select(jobs.c.next_retry_at)
    .where(jobs.c.status == SCHEDULED, jobs.c.next_retry_at.is_not(None))
    .order_by(jobs.c.next_retry_at)
    .limit(1)
)
_top_pending = Compiled(
    select(jobs.c.priority).where(_is_claimable).order_by(jobs.c.priority.desc()).limit(1)
)
_some_due = select(jobs.c.priority).where(_is_due, jobs.c.queue == bindparam("queue_name"))
_top_due = Compiled(select(func.max(_some_due.limit(PROMOTED_AT_ONCE).subquery().c.priority)))
_first = Compiled(
    select(func.coalesce(jobs.c.next_retry_at, jobs.c.created_at))
    .where(_is_claimable, jobs.c.priority == bindparam("priority"))
    .order_by(jobs.c.id)
    .limit(1)
)
_promote = Compiled(
    update(jobs).where(jobs.c.id.in_(select(_due.c.id))).values(status=PENDING, held_by=None)
)


def each_value(column: ColumnElement[Any], *conditions: ColumnElement[bool]) -> Select[tuple[str]]:
    """Go from one value to the next in an index, however many jobs there are between them."""
    first = select(func.min(column).label("name")).where(*conditions)
    names = first.cte("names", recursive=True)
    following = select(func.min(column)).where(*conditions, column > names.c.name)
    names = names.union_all(select(following.scalar_subquery()).where(names.c.name.is_not(None)))
    return select(names.c.name).where(names.c.name.is_not(None))


_pending_queues = each_value(jobs.c.queue, jobs.c.status == PENDING)
_due_queues = select(jobs.c.queue).where(_is_due).distinct()

AT_MOST = bindparam("at_most", type_=BigInteger)
IN_ORDER = (jobs.c.priority.desc(), jobs.c.id)
_most_urgent = (
    select(jobs.c.id)
    .where(_is_claimable)
    .order_by(*IN_ORDER)
    .limit(AT_MOST)
    .with_for_update(skip_locked=True)
    .cte("most_urgent", nesting=True)
    .prefix_with("MATERIALIZED", dialect="postgresql")
)
give = update(jobs).values(
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
_claim = give.where(jobs.c.id.in_(select(_most_urgent.c.id))).returning(*WHOLE_JOB)

# On SQLite: all that a claim does not set itself, of all jobs, as one JSON text. The driver lets
# other threads of Python run before each row it fetches, and has to wait for its turn after it.
_UNSET = (
    *("id", "pagina_id", "payload", "priority", "attempts", "max_attempts", "retry_delay"),
    *("last_error", "error_type", "error_stack", "created_at", "uid", "fence", "retry_policy"),
    *("task", "timeout", "checksum", "progress", "keep_result"),
    *("concurrency_key", "rate_key", "breaker"),
)
_unset = (
    select(*(jobs.c[name] for name in _UNSET))
    .where(_is_claimable)
    .order_by(*IN_ORDER)
    .limit(AT_MOST)
    .subquery()
)
_read_unset = Compiled(select(func.json_group_array(func.json_array(*_unset.c))))
_give_listed = Compiled(give.where(jobs.c.id.in_(listed("job_ids"))))


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
        [answer] = _has_due.run(self._connection, queue_name=queue, now=self._now).fetchone()
        return bool(answer)

    def top_priority(self, queues: Collection[str]) -> int:
        """Tell the highest priority of the due jobs of these queues; -1 where there are none."""
        found = [-1]
        for name in queues:
            for query in (_top_pending, _top_due):
                row = query.run(self._connection, queue_name=name, now=self._now).fetchone()
                found += [] if row is None or row[0] is None else [int(row[0])]
        return max(found)

    def next_due(self) -> datetime | None:
        """Tell when the earliest job that waits is due; None when none does, or none can tell."""
        row = _next_due.run(self._connection).fetchone()
        with suppress(UnreadableValueError):  # a damaged one is not to hold up all others
            return None if row is None else to_moment(row[0])
        return None

    def waiting_since(self, queue: str) -> datetime | None:
        """Tell since when the first pending job of any priority could run; None for none."""
        moments = []
        for priority in JobPriority:
            row = _first.run(self._connection, queue_name=queue, priority=priority).fetchone()
            with suppress(UnreadableValueError):
                if row is not None and (moment := to_moment(row[0])) is not None:
                    moments.append(moment)
        return min(moments, default=None)

    def promote_due(self) -> int:
        """Make jobs pending whose time has come, the earliest first; a bounded number."""
        return int(_promote.run(self._connection, now=self._now).rowcount)

    def count_ahead(self, job: Job, at_most: int) -> int:
        """Count the pending jobs that come before one in its queue, up to that number."""
        is_before = or_(
            jobs.c.priority > int(job.priority),
            and_(jobs.c.priority == int(job.priority), jobs.c.id < job.id),
        )
        ahead = select(jobs.c.id).where(
            jobs.c.status == PENDING, jobs.c.queue == job.queue, is_before
        )
        query = select(func.count()).select_from(ahead.limit(at_most).subquery())
        return int(self._connection.execute(query).scalar_one())

    def make_due(self) -> int:
        """Make jobs pending that wait for nothing but their time; gives how many."""
        free = update(jobs).where(
            jobs.c.status == SCHEDULED, jobs.c.next_retry_at.is_not(None), jobs.c.held_by.is_(None)
        )
        return self._connection.execute(free.values(status=PENDING)).rowcount

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
        claimed = self._claim_quickly(values) if is_sqlite(self._connection) else None
        if claimed is None:
            rows = self._connection.execute(_claim, values).all()
            self.weight += sum(len(row.payload) for row in rows)
            claimed = [to_job(row, self._shard_id) for row in rows]
        return sorted(claimed, key=_urgency)  # RETURNING has no order

    def _claim_quickly(self, values: Mapping[str, object]) -> list[Job] | None:
        """Read, then give; None, and nothing is given, where a row is too damaged for that."""
        try:
            [text] = _read_unset.run(self._connection, **values).fetchone()
            found = json_text.read_rows(text)
        except (driver.choose().module.DatabaseError, ValueError):
            return None
        if not found:
            return []
        ids = json.dumps([facts[0] for facts in found])
        _give_listed.run(self._connection, **values, job_ids=ids)
        self.weight += len(text)
        now = to_text(self._now)
        given: dict[str, Any] = {
            "status": JobStatus.PROCESSING,
            "worker_id": values["claimant"],
            "heartbeat": now,
            "started_at": now,
            "completed_at": None,
            "next_retry_at": None,
            "queue": values["queue_name"],
            "held_by": values["holder"],
            "result": None,
        }
        claimed = []
        for facts in found:
            stored = given.copy()
            stored.update(zip(_UNSET, facts, strict=True))
            if isinstance(stored["attempts"], int) and isinstance(stored["fence"], int):
                stored["attempts"] += 1
                stored["fence"] += 1
            claimed.append(whole_job(stored, self._shard_id))
        return claimed

    def claim_next(self, queue: str, worker_id: str, holder: str | None = None) -> Job | None:
        """Give the most urgent pending job to a worker, as `claim` does; None if none is due."""
        return next(iter(self.claim(queue, worker_id, holder, at_most=1)), None)

    def queues(self) -> Sequence[str]:
        """Name the queues that have jobs which are pending, or scheduled and due by now."""
        pending = self._connection.execute(_pending_queues).scalars().all()
        due = self._connection.execute(_due_queues, {"now": self._now}).scalars().all()
        return sorted({*pending, *due})


def _urgency(job: Job) -> tuple[int, int]:
    return -job.priority, job.id
