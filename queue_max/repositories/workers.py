"""The `workers` table of the control database: which processes take jobs, and what they can run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from queue_max.storage.schema import workers


@dataclass(frozen=True, slots=True)
class Crew:
    """The workers of one process, all together."""

    identity: str
    queues: Sequence[str]
    abilities: Sequence[str]
    """What they can run, as a held job names what it waits for."""
    places: int
    """How many jobs they run at once."""
    seen_at: datetime | None = None


class WorkerRepository:
    """The processes that take jobs, within one transaction."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self._connection = connection
        self._now = now

    def see(self, crew: Crew) -> None:
        """Note that a process lives, and what it does."""
        values = {
            "queues": json.dumps(list(crew.queues)),
            "abilities": json.dumps(list(crew.abilities)),
            "places": crew.places,
            "seen_at": self._now,
        }
        known = update(workers).where(workers.c.identity == crew.identity).values(values)
        if not self._connection.execute(known).rowcount:
            new = {"identity": crew.identity, "began_at": self._now}
            self._connection.execute(insert(workers).values(**values, **new))

    def forget(self, identity: str) -> None:
        """Note that a process takes no jobs any more."""
        self._connection.execute(delete(workers).where(workers.c.identity == identity))

    def forget_silent(self, since: datetime) -> None:
        """Forget those that were last seen before that moment."""
        self._connection.execute(delete(workers).where(workers.c.seen_at < since))

    def seen(self, since: datetime) -> Sequence[Crew]:
        """Read who was seen since that moment, by identity."""
        query = select(workers).where(workers.c.seen_at >= since).order_by(workers.c.identity)
        return [
            Crew(
                row.identity,
                json.loads(row.queues),
                json.loads(row.abilities),
                row.places,
                row.seen_at,
            )
            for row in self._connection.execute(query)
        ]
