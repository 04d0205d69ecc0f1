"""Control: transactions on the control database, with the repositories of its tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from queue_max.domain.clock import Clock
from queue_max.exceptions import QueueClosedError
from queue_max.repositories.breakers import BreakerRepository
from queue_max.repositories.buckets import BucketRepository
from queue_max.repositories.events import EventRepository
from queue_max.repositories.limits import LimitRepository
from queue_max.repositories.permits import PermitRepository
from queue_max.repositories.schedules import ScheduleRepository
from queue_max.repositories.workers import WorkerRepository
from queue_max.storage.database import Database
from queue_max.storage.ticks import Ticks


@dataclass(frozen=True, slots=True)
class ControlUnit:
    """One transaction; `now` was read after its lock was taken, and is its only time."""

    now: datetime
    ticks: Ticks
    schedules: ScheduleRepository
    limits: LimitRepository
    buckets: BucketRepository
    breakers: BreakerRepository
    permits: PermitRepository
    workers: WorkerRepository
    events: EventRepository


class Control:
    """The control database, opened as a unit of work.

    Nobody writes to a shard within one: whoever wants the control database would wait for that.
    """

    def __init__(
        self, database: Database, notes: Database | None = None, clock: Clock | None = None
    ) -> None:
        self._database = database
        self._notes = notes or database
        self._clock = clock
        self._is_closed = False

    @contextmanager
    def writing(self, wait: float | None = None) -> Iterator[ControlUnit]:
        """Open a transaction: committed on leaving, undone by an exception.

        `wait` is how many seconds to wait for other writers (the busy timeout by default);
        after that, ShardBusyError.
        """
        with self._open().writing(wait) as connection:
            yield self._unit(connection)

    @contextmanager
    def noting(self, wait: float | None = None) -> Iterator[ControlUnit]:
        """Open a transaction as `writing` does, whose effect a power cut may undo: it is quicker.

        For what harms no job when it is forgotten.
        """
        self._open()
        with self._notes.writing(wait) as connection:
            yield self._unit(connection)

    @contextmanager
    def reading(self) -> Iterator[ControlUnit]:
        """Open a transaction that only reads, and waits for no one."""
        with self._open().reading() as connection:
            yield self._unit(connection)

    def close(self) -> None:
        """Close it; who uses it from now on is told so."""
        self._is_closed = True
        self._database.close()
        self._notes.close()

    def _open(self) -> Database:
        if self._is_closed:
            raise QueueClosedError
        return self._database

    def _unit(self, connection: Connection) -> ControlUnit:
        if self._clock:
            now = self._clock()
            ticks = Ticks.of("given", round(now.timestamp() * 1_000) * 1_000_000)
        else:
            now, ticks = self._database.now(connection), self._database.ticks(connection)
        return ControlUnit(
            now,
            ticks,
            ScheduleRepository(connection, now),
            LimitRepository(connection, now),
            BucketRepository(connection, ticks),
            BreakerRepository(connection, now, ticks),
            PermitRepository(connection, now),
            WorkerRepository(connection, now),
            EventRepository(connection),
        )
