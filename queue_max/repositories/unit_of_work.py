"""Store and UnitOfWork: one transaction on one shard, with the repositories of its tables."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from sqlalchemy import Connection

from queue_max.domain.clock import Clock
from queue_max.exceptions import QueueClosedError, ShardBusyError, ShardError, ShardNotFoundError
from queue_max.repositories.attempts import AttemptRepository
from queue_max.repositories.claims import ClaimRepository
from queue_max.repositories.concurrency_keys import ConcurrencyKeyRepository
from queue_max.repositories.dead_letters import DeadLetterRepository
from queue_max.repositories.job_lists import JobListRepository
from queue_max.repositories.jobs import JobRepository
from queue_max.repositories.leases import LeaseRepository
from queue_max.repositories.lines import LineRepository
from queue_max.repositories.shard_metadata import ShardMetadataRepository
from queue_max.repositories.unique_keys import UniqueKeyRepository
from queue_max.repositories.waiting import WaitingRepository
from queue_max.storage.database import Database

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class UnitOfWork:
    """One transaction; `now` was read after its lock was taken, and is its only time."""

    shard_id: int
    now: datetime
    jobs: JobRepository
    claims: ClaimRepository
    lines: LineRepository
    leases: LeaseRepository
    job_lists: JobListRepository
    attempts: AttemptRepository
    dead_letters: DeadLetterRepository
    metadata: ShardMetadataRepository
    unique_keys: UniqueKeyRepository
    concurrency_keys: ConcurrencyKeyRepository
    waiting: WaitingRepository


def _one(_key: str) -> int:
    return 1


class Store:
    """All shards of a queue, each opened as a unit of work."""

    def __init__(
        self,
        shards: Sequence[Database],
        clock: Clock | None = None,
        places_of_key: Callable[[str], int] = _one,
    ) -> None:
        self._places_of_key = places_of_key
        self.on_release: Callable[[int], None] = lambda _shard_id: None
        """Is told of a shard where jobs came to their turn because others have ended."""
        self._shards = {shard.shard_id: shard for shard in shards}
        self._clock = clock
        self._is_closed = False
        self.shard_ids = range(len(shards))

    @contextmanager
    def writing(self, shard_id: int, wait: float | None = None) -> Iterator[UnitOfWork]:
        """Open a transaction: committed on leaving, undone by an exception.

        `wait` is how many seconds to wait for other writers (the busy timeout by default);
        after that, ShardBusyError.
        """
        shard = self._shard(shard_id)
        with shard.writing(wait) as connection:
            unit = self._unit(shard, shard_id, connection)
            yield unit
            unit.concurrency_keys.balance()
        if unit.concurrency_keys.has_released:
            self.on_release(shard_id)

    @contextmanager
    def reading(self, shard_id: int) -> Iterator[UnitOfWork]:
        """Open a transaction that only reads, and waits for no one."""
        shard = self._shard(shard_id)
        with shard.reading() as connection:
            yield self._unit(shard, shard_id, connection)

    def vacuum(self, shard_id: int) -> None:
        """Give the free space of a shard back to the file system."""
        self._shard(shard_id).vacuum()

    def visit(
        self,
        shard_ids: Iterable[int],
        act: Callable[[int, float | None], T],
        patience: float | None = None,
    ) -> Iterator[tuple[int, T | ShardError]]:
        """Call `act(shard_id, wait)` for each shard; gives what it returns, or the shard's error.

        No shard holds up another: those that are locked are tried again after all others, and
        only then with `patience` (the busy timeout by default).
        """
        busy: list[int] = []
        for shard_id in shard_ids:
            outcome = _attempt(act, shard_id, 0.0)
            if isinstance(outcome, ShardBusyError):
                busy.append(shard_id)
            else:
                yield shard_id, outcome
        for shard_id in busy:
            yield shard_id, _attempt(act, shard_id, patience)

    def visit_all(
        self, shard_ids: Iterable[int], act: Callable[[int, float | None], object]
    ) -> None:
        """Call `act` for each shard, as `visit` does; raises the first error once all are done."""
        outcomes = [outcome for _shard_id, outcome in self.visit(shard_ids, act)]
        for outcome in outcomes:
            if isinstance(outcome, ShardError):
                raise outcome

    def chosen(self, shard_id: int | None) -> Sequence[int]:
        """Name the one shard that is asked for, or all for None."""
        return self.shard_ids if shard_id is None else (shard_id,)

    def require_open(self) -> None:
        """Raise QueueClosedError once the shards were closed."""
        if self._is_closed:
            raise QueueClosedError

    def serving(self) -> Sequence[int]:
        """Name the shards that were not set aside, since they are damaged, or missing.

        All of them where none serves, so that whoever asks them is told why.
        """
        found = [shard_id for shard_id in self.shard_ids if self._shards[shard_id].fault is None]
        return found or self.shard_ids

    def close(self) -> None:
        """Close all shards; who uses them from now on is told so."""
        self._is_closed = True
        for shard in self._shards.values():
            shard.close()

    def _shard(self, shard_id: int) -> Database:
        self.require_open()
        try:
            return self._shards[shard_id]
        except KeyError:
            last = len(self.shard_ids) - 1
            raise ShardNotFoundError(shard_id, f"does not exist; there are 0 to {last}") from None

    def _unit(self, shard: Database, shard_id: int, connection: Connection) -> UnitOfWork:
        # A lease counted from before the wait for the lock would be too short.
        now = self._clock() if self._clock else shard.now(connection)
        keys = ConcurrencyKeyRepository(connection, self._places_of_key)
        return UnitOfWork(
            shard_id,
            now,
            JobRepository(connection, shard_id, now, keys),
            ClaimRepository(connection, shard_id, now),
            LineRepository(connection, shard_id, now),
            LeaseRepository(connection, shard_id, now),
            JobListRepository(connection, shard_id, now, keys),
            AttemptRepository(connection, now),
            DeadLetterRepository(connection, shard_id, now),
            ShardMetadataRepository(connection, now),
            UniqueKeyRepository(connection, shard_id, now),
            keys,
            WaitingRepository(connection, now, keys),
        )


def _attempt(
    act: Callable[[int, float | None], T], shard_id: int, wait: float | None
) -> T | ShardError:
    try:
        return act(shard_id, wait)
    except ShardError as error:
        return error
