"""Giving jobs up, and giving them another life."""

from typing import Any

from queue_max.domain.failures import Failure
from queue_max.domain.job import Job
from queue_max.domain.retry import Bury
from queue_max.repositories.unit_of_work import Store, UnitOfWork


class DeadLetterService:
    """A job is alive in `fila`, or failed there with its evidence in the dead letters."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def bury(self, unit: UnitOfWork, job: Job, failure: Failure, verdict: Bury) -> None:
        """Mark a job as failed for good and keep the evidence, within a transaction."""
        unit.jobs.fail(job, failure)
        unit.dead_letters.add(job, failure, verdict.reason)
        unit.metadata.add_failed()

    def revive(self, shard_id: int, job_id: int | None = None) -> int:
        """Give failed jobs of a shard, or one, a fresh budget of attempts; gives their number."""
        with self._store.writing(shard_id) as unit:
            unit.dead_letters.remove_of_failed(job_id)
            return unit.jobs.requeue_failed(job_id)

    def newest(self, shard_id: int, limit: int) -> list[dict[str, Any]]:
        """Read the dead letters of a shard, the newest first."""
        with self._store.reading(shard_id) as unit:
            return unit.dead_letters.newest(limit)
