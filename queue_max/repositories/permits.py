"""The `permits` table of the control database: who runs under a limit over several shards."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, or_, select

from queue_max.domain.job import Lease
from queue_max.repositories.locks import hold_name
from queue_max.storage.schema import permits

STEP = 200
"""Runs that one statement names, at most: SQLite takes a thousand."""


class PermitRepository:
    """All permits, within one transaction: they are counted, and never added up."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self._connection = connection
        self._now = now

    def take(self, lease: Lease, limits: Mapping[str, int]) -> str | None:
        """Give a run of a job a permit of each scope, or none at all.

        Gives the scope in which as many run as may already; None for success.
        """
        for scope in sorted(limits):  # always in this order, that nobody waits for each other
            hold_name(self._connection, f"permits:{scope}")
        self._connection.execute(delete(permits).where(*_is_of(lease)))  # of an earlier run
        for scope, limit in limits.items():
            if self.count(scope) >= limit:
                return scope
        taken = [
            {
                "scope": scope,
                "shard_id": lease.shard_id,
                "job_id": lease.job_id,
                "fence": lease.fence,
                "taken_at": self._now,
            }
            for scope in limits
        ]
        self._connection.execute(insert(permits), taken)
        return None

    def count(self, scope: str) -> int:
        """Count the permits of a scope."""
        query = select(func.count()).where(permits.c.scope == scope)
        return int(self._connection.execute(query).scalar_one())

    def holders(self, scope: str) -> Sequence[Lease]:
        """Tell which runs hold a permit of a scope, the first one first."""
        query = (
            select(permits.c.shard_id, permits.c.job_id, permits.c.fence)
            .where(permits.c.scope == scope)
            .order_by(permits.c.taken_at, permits.c.shard_id, permits.c.job_id)
        )
        return [Lease(*row) for row in self._connection.execute(query)]

    def give_up(self, leases: Collection[Lease]) -> int:
        """Delete all permits of these runs; gives their number."""
        runs = [and_(*_is_of(lease), permits.c.fence == lease.fence) for lease in leases]
        steps = [runs[start : start + STEP] for start in range(0, len(runs), STEP)]
        deleted = (self._connection.execute(delete(permits).where(or_(*step))) for step in steps)
        return sum(each.rowcount for each in deleted)


def _is_of(lease: Lease) -> tuple[ColumnElement[bool], ...]:
    return permits.c.shard_id == lease.shard_id, permits.c.job_id == lease.job_id
