"""The jobs in the `fila` table that gates hold, within one transaction."""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, exists, select, update

from queue_max.domain.job import Job
from queue_max.repositories.claims import AT_MOST, IN_ORDER, PROMOTED_AT_ONCE, each_value, give
from queue_max.repositories.compiled import Compiled
from queue_max.repositories.jobs import WHOLE_JOB, to_job
from queue_max.storage.schema import PENDING, SCHEDULED, jobs

# In the words of the partial index.
_is_held = (jobs.c.status == SCHEDULED, jobs.c.held_by.is_not(None))
_by_one_of = jobs.c.held_by.in_(bindparam("gates", expanding=True))
_of_queues = jobs.c.queue.in_(bindparam("queue_names", expanding=True))

_gates = Compiled(each_value(jobs.c.held_by, *_is_held))
_has = select(exists().where(*_is_held, _by_one_of, _of_queues))
_some = select(jobs.c.id).where(*_is_held, _by_one_of).limit(PROMOTED_AT_ONCE)
_next = (
    select(jobs.c.id)
    .where(*_is_held, jobs.c.held_by == bindparam("gate"), _of_queues)
    .order_by(*IN_ORDER)
    .limit(AT_MOST)
    .with_for_update(skip_locked=True)
)
_give = give.where(jobs.c.id.in_(bindparam("job_ids", expanding=True))).returning(*WHOLE_JOB)


class LineRepository:
    """The held jobs of one shard: each gate has a line of them, in the order of claims."""

    def __init__(self, connection: Connection, shard_id: int, now: datetime) -> None:
        self._connection = connection
        self._shard_id = shard_id
        self._now = now
        self.weight = 0
        """Characters in the payloads that were claimed."""

    def gates(self) -> list[str]:
        """Name what holds jobs back in this shard; costs the same for few and for many."""
        return [str(name) for [name] in _gates.run(self._connection).fetchall()]

    def has(self, gates: Collection[str], queues: Collection[str]) -> bool:
        """Tell whether jobs of these queues are held by one of those gates."""
        values = {"gates": list(gates), "queue_names": list(queues)}
        return bool(self._connection.execute(_has, values).scalar_one())

    def release(self, gates: Collection[str]) -> int:
        """Make jobs pending that are held by one of those gates; a bounded number."""
        ids = self._connection.execute(_some, {"gates": list(gates)}).scalars().all()
        free = update(jobs).where(jobs.c.id.in_(ids)).values(status=PENDING, held_by=None)
        return self._connection.execute(free).rowcount if ids else 0

    def claim(
        self,
        gate: str,
        queues: Collection[str],
        worker_id: str,
        holder: str | None = None,
        *,
        at_most: int,
    ) -> Sequence[Job]:
        """Give jobs of a line to a worker, as `ClaimRepository.claim` does, in their order."""
        wanted = {"gate": gate, "queue_names": list(queues), "at_most": at_most}
        ids = self._connection.execute(_next, wanted).scalars().all()
        if not ids:
            return []
        values = {"claimant": worker_id, "holder": holder, "now": self._now, "job_ids": ids}
        rows = self._connection.execute(_give, values).all()
        self.weight += sum(len(row.payload) for row in rows)
        claimed = [to_job(row, self._shard_id) for row in rows]
        return sorted(claimed, key=lambda job: (-job.priority, job.id))  # RETURNING has no order
