"""Deleting what is no longer needed."""

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from datetime import timedelta

from queue_max import checks
from queue_max.domain.job import JobStatus
from queue_max.domain.retention import DaysKept
from queue_max.exceptions import ConfigurationError, ShardError
from queue_max.repositories.unit_of_work import Store, UnitOfWork
from queue_max.services.dead_letters import discard_before

logger = logging.getLogger(__name__)

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

    def __init__(self, store: Store, kept: DaysKept) -> None:
        self._store = store
        self._kept = kept

    def clean_up(self, days: float | None = None) -> int:
        """Delete jobs that have ended and were kept for long enough; gives their number.

        `days` hold for all kinds of jobs, whatever the settings say, but for those with a dead
        letter: they stay.
        """
        kept = self._kept
        if days is not None:
            kept = DaysKept(checks.amount("days", days, at_least=0, at_most=36_500))
        return self._delete(lambda shard_id, wait: self._clean_up_shard(shard_id, wait, kept))

    def purge(self, status: str | None, *, force: bool = False) -> int:
        """Delete all jobs, or all in one state; dead letters stay, running ones unless `force`."""
        # Looked for in a list, since what is asked for may have no hash.
        if status not in list(_PURGEABLE):
            names = ", ".join(sorted(name for name in _PURGEABLE if name))
            raise ConfigurationError(
                f"status={checks.shown(status)}: should be None or one of {names}"
            )
        chosen = [each for each in _PURGEABLE[status] if force or each != JobStatus.PROCESSING]
        purged = 0
        if chosen:
            purged = self._delete(lambda shard_id, wait: self._purge_shard(shard_id, wait, chosen))
        if len(chosen) < len(_PURGEABLE[status]):
            self._tell_of_running()
        return purged

    def tidy(self) -> int:
        """Delete, as `clean_up` does, and what nobody sees: expired results, keys that are free.

        Made for often: it takes no lock where nothing is to be done, and gives no space back.
        """
        return self._delete(self._tidy_shard)

    def _tell_of_running(self) -> None:
        running = 0
        for shard_id in self._store.shard_ids:
            with suppress(ShardError), self._store.reading(shard_id) as unit:
                running += unit.job_lists.counts().processing
        if running:
            logger.warning("%s running job(s) were not purged; force=True takes them too", running)

    def _delete(self, steps: Callable[[int, float | None], Iterator[int]]) -> int:
        """Delete in each shard by steps that tell how many jobs went; gives their sum."""
        deleted = 0

        def delete_in(shard_id: int, wait: float | None) -> None:
            nonlocal deleted
            for step in steps(shard_id, wait):
                deleted += step

        self._store.visit_all(self._store.shard_ids, delete_in)
        return deleted

    def _purge_shard(
        self, shard_id: int, wait: float | None, statuses: Collection[JobStatus]
    ) -> Iterator[int]:
        with self._store.writing(shard_id, wait) as unit:
            purged = unit.job_lists.purge(statuses)
        yield purged

    def _tidy_shard(self, shard_id: int, wait: float | None) -> Iterator[int]:
        while True:
            with self._store.reading(shard_id) as unit:
                is_tidy = not (_has_old(unit, self._kept) or unit.unique_keys.has_free())
            if is_tidy:
                return
            with self._store.writing(shard_id, wait) as unit:
                unit.unique_keys.forget_free(STEP)
                deleted = _delete_old(unit, self._kept)
            yield deleted

    def _clean_up_shard(self, shard_id: int, wait: float | None, kept: DaysKept) -> Iterator[int]:
        deleted, step = 0, STEP
        while step == STEP:
            with self._store.writing(shard_id, wait) as unit:
                step = _delete_old(unit, kept)
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


def _has_old(unit: UnitOfWork, kept: DaysKept) -> bool:
    """Tell whether `_delete_old` would find something."""
    buried_before = kept.buried_before(unit.now)
    return unit.job_lists.has_ended_before(kept.ended_before(unit.now)) or (
        buried_before is not None and unit.dead_letters.has_before(buried_before)
    )


def _delete_old(unit: UnitOfWork, kept: DaysKept) -> int:
    """Delete jobs that are kept no longer, at most STEP, with or without a dead letter."""
    deleted = unit.job_lists.delete_ended_before(kept.ended_before(unit.now), STEP)
    buried_before = kept.buried_before(unit.now)
    if buried_before is not None:
        deleted += discard_before(unit, buried_before, STEP - deleted)
    return deleted
