"""Deleting what is no longer needed."""

from collections.abc import Collection
from datetime import timedelta

from queue_max.domain.job import JobStatus
from queue_max.exceptions import ConfigurationError
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
    """Deletes old jobs by their end, or all of a kind, and gives the space back."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def clean_up(self, days: float) -> int:
        """Delete jobs that ended that many days ago; those with a dead letter stay."""
        if not 0 <= days <= 36_500:
            raise ConfigurationError(f"days={days!r}: should be from 0 to 36500")
        return sum(
            self._clean_up_shard(shard_id, timedelta(days=days))
            for shard_id in self._store.shard_ids
        )

    def purge(self, status: str | None) -> int:
        """Delete all jobs, or all in one state; dead letters stay."""
        if status not in _PURGEABLE:
            names = ", ".join(sorted(name for name in _PURGEABLE if name))
            raise ConfigurationError(f"status={status!r}: should be None or one of {names}")
        purged = 0
        for shard_id in self._store.shard_ids:
            with self._store.writing(shard_id) as unit:
                purged += unit.job_lists.purge(_PURGEABLE[status])
        return purged

    def _clean_up_shard(self, shard_id: int, age: timedelta) -> int:
        deleted = 0
        while True:
            with self._store.writing(shard_id) as unit:
                step = unit.job_lists.delete_ended_before(unit.now - age, STEP)
                last = unit.metadata.last_vacuum()
                is_vacuum_due = last is None or unit.now - last >= VACUUM_EVERY
            deleted += step
            if step < STEP:
                break
        if deleted and is_vacuum_due:
            self._store.vacuum(shard_id)
            with self._store.writing(shard_id) as unit:
                unit.metadata.note_vacuum()
        return deleted
