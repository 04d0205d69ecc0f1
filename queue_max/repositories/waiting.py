"""The jobs of the `fila` table that wait, pending or scheduled: counted, and dropped for others."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    Text,
    bindparam,
    cast,
    column,
    func,
    select,
    table,
    type_coerce,
    update,
)
from sqlalchemy.dialects.postgresql import REGCLASS

from queue_max.domain.job import JobPriority
from queue_max.repositories.compiled import Compiled, is_sqlite
from queue_max.repositories.concurrency_keys import ConcurrencyKeyRepository
from queue_max.repositories.jobs import NOBODYS
from queue_max.storage.schema import CANCELLED, PENDING, SCHEDULED, jobs

Age = tuple[int, Any, int]
"""What says which job goes first when some have to: priority, moment of its making, id."""

# Both remember the highest number that they ever gave to a row, also when that row is gone.
_last_id_of_sqlite = Compiled(
    select(column("seq")).select_from(table("sqlite_sequence")).where(column("name") == jobs.name)
)
_sequence = cast(func.pg_get_serial_sequence(jobs.name, jobs.c.id.name), REGCLASS)
_last_id_of_postgresql = select(func.pg_sequence_last_value(_sequence))

_up_to = bindparam("at_most", type_=BigInteger)
_of_queue = jobs.c.queue == bindparam("queue_name")


def _counting(*condition: ColumnElement[bool]) -> Compiled:
    pending, scheduled = (
        select(func.count())
        .select_from(select(jobs.c.id).where(is_so, *condition).limit(_up_to).subquery())
        .scalar_subquery()
        for is_so in (jobs.c.status == PENDING, jobs.c.status == SCHEDULED)
    )
    return Compiled(select(pending + scheduled))


def _oldest(*condition: ColumnElement[bool]) -> Select[Any]:
    age = (jobs.c.priority, type_coerce(jobs.c.created_at, Text), jobs.c.id)
    return select(*age).where(*condition).limit(_up_to)


_count, _count_of_queue = _counting(), _counting(_of_queue)
# In the order of the index: there, the jobs of a queue and priority stand by their ids.
_at_priority = jobs.c.priority == bindparam("at_priority")
_oldest_pending = Compiled(
    _oldest(jobs.c.status == PENDING, _of_queue, _at_priority).order_by(jobs.c.id)
)
_oldest_scheduled, _oldest_scheduled_of_queue = (
    Compiled(_oldest(*condition).order_by(jobs.c.priority, jobs.c.id))
    for condition in ([jobs.c.status == SCHEDULED], [jobs.c.status == SCHEDULED, _of_queue])
)


class WaitingRepository:
    """The jobs of one shard that wait, within one transaction; of all queues, or of a named one."""

    def __init__(
        self, connection: Connection, now: datetime, keys: ConcurrencyKeyRepository
    ) -> None:
        self._connection = connection
        self._now = now
        self._keys = keys

    def last_id(self) -> int:
        """Tell the highest id that a job of this shard ever got; 0 where there was none.

        By as much as it rises, so many jobs come at most.
        """
        if not is_sqlite(self._connection):
            return self._connection.execute(_last_id_of_postgresql).scalar_one() or 0
        row = _last_id_of_sqlite.run(self._connection).fetchone()
        return int(row[0]) if row else 0

    def count(self, at_most: int, queue: str | None = None) -> int:
        """Count them, of each state not further than `at_most`.

        For a named queue, the scheduled ones of the others are walked past: no index has them
        apart.
        """
        if queue is None:
            row = _count.run(self._connection, at_most=at_most).fetchone()
        else:
            named = {"queue_name": queue, "at_most": at_most}
            row = _count_of_queue.run(self._connection, **named).fetchone()
        return int(row[0])

    def oldest_pending(self, limit: int, queue: str) -> list[Age]:
        """Name pending jobs of a queue: the lowest priority first, then the oldest."""
        found: list[Age] = []
        for priority in JobPriority:
            named = {"queue_name": queue, "at_priority": int(priority)}
            rows = _oldest_pending.run(self._connection, at_most=limit - len(found), **named)
            found += map(tuple, rows.fetchall())
        return found

    def oldest_scheduled(self, limit: int, queue: str | None = None) -> list[Age]:
        """Name scheduled jobs in that order; for it, all of them are looked at."""
        if queue is None:
            rows = _oldest_scheduled.run(self._connection, at_most=limit)
        else:
            named = {"queue_name": queue, "at_most": limit}
            rows = _oldest_scheduled_of_queue.run(self._connection, **named)
        return list(map(tuple, rows.fetchall()))

    def cancel(self, job_ids: Collection[int], reason: str) -> int:
        """End as cancelled those of these jobs that still wait; gives their number."""
        statement = (
            update(jobs)
            .where(jobs.c.id.in_(job_ids), jobs.c.status.in_((PENDING, SCHEDULED)))
            .values(
                status=CANCELLED,
                completed_at=self._now,
                next_retry_at=None,
                last_error=reason,
                **NOBODYS,
            )
            .returning(jobs.c.concurrency_key)
        )
        keys = self._connection.execute(statement).scalars().all()
        for key in keys:
            self._keys.note(key)
        return len(keys)
