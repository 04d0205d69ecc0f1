"""Deleting what is no longer needed."""

from collections.abc import Callable, Collection, Iterator
from datetime import timedelta

from queue_max import checks
from queue_max.domain.job import JobStatus
from queue_max.exceptions import ConfigurationError, ShardError
from queue_max.repositories.unit_of_work import Store

STEP = 1000
"""Jobs deleted in one transaction: more would hold the lock for too long."""

VACUUM_EVERY = timedelta(days=1)

# What the contract's callers mean by "pending" includes what waits for its time.
_PURGEABLE: dict[str | None, Collection[JobStatus]] = {
    "pending": (JobStatus.PENDING, JobStatus.SCHEDULED),
    "processing": (JobStatus.PROCESSING,),
    "failed": (JobStatus.FAILED,),
    None: tuple(JobStatus),
}


class RetentionService:
    """Deletes old jobs by their end, or all of a kind, and gives the space back.

    No shard keeps the others from being done: the error of the first that refuses is raised
    at the end.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def clean_up(self, days: float) -> int:
        """Delete jobs that ended that many days ago; those with a dead letter stay."""
        age = timedelta(days=checks.amount("days", days, at_least=0, at_most=36_500))
        return self._delete(lambda shard_id, wait: self._clean_up_shard(shard_id, wait, age))

    def purge(self, status: str | None) -> int:
        """Delete all jobs, or all in one state; dead letters stay."""
        # Looked for in a list, since what is asked for may have no hash.
        if status not in list(_PURGEABLE):
            names = ", ".join(sorted(name for name in _PURGEABLE if name))
            raise ConfigurationError(
                f"status={checks.shown(status)}: should be None or one of {names}"
            )
        return self._delete(lambda shard_id, wait: self._purge_shard(shard_id, wait, status))

    def _delete(self, steps: Callable[[int, float | None], Iterator[int]]) -> int:
        """Delete in each shard by steps that tell how many jobs went; gives their sum."""
        deleted = 0

        def delete_in(shard_id: int, wait: float | None) -> None:
            nonlocal deleted
            for step in steps(shard_id, wait):
                deleted += step

        outcomes = [outcome for _, outcome in self._store.visit(self._store.shard_ids, delete_in)]
        for outcome in outcomes:
            if isinstance(outcome, ShardError):
                raise outcome
        return deleted

    def _purge_shard(self, shard_id: int, wait: float | None, status: str | None) -> Iterator[int]:
        with self._store.writing(shard_id, wait) as unit:
            purged = unit.job_lists.purge(_PURGEABLE[status])
        yield purged

    def _clean_up_shard(self, shard_id: int, wait: float | None, age: timedelta) -> Iterator[int]:
        deleted, step = 0, STEP
        while step == STEP:
            with self._store.writing(shard_id, wait) as unit:
                step = unit.job_lists.delete_ended_before(unit.now - age, STEP)
            deleted += step
            yield step
        if deleted:
            self._vacuum_if_due(shard_id)

    def _vacuum_if_due(self, shard_id: int) -> None:
        with self._store.reading(shard_id) as unit:
            last = unit.metadata.last_vacuum()
            is_due = last is None or unit.now - last >= VACUUM_EVERY
        if is_due:
            self._store.vacuum(shard_id)
            with self._store.writing(shard_id) as unit:
                unit.metadata.note_vacuum()
