"""Giving back the jobs of workers that went silent."""

import logging
from datetime import timedelta

from queue_max.domain.failures import Failure
from queue_max.exceptions import ShardError
from queue_max.repositories.unit_of_work import Store
from queue_max.services.retry import RetryService

logger = logging.getLogger(__name__)

WORKER_DIED = "WorkerDied"
"""The error type of an attempt that ended with its worker."""

STEP = 200
"""Jobs recovered in one transaction: more would hold the lock for too long."""


class RecoveryService:
    """Ends leases that nobody prolongs.

    The jobs run again, or are buried when they had their attempts: one counts from its start,
    so that a job which kills its worker does not do so for ever.
    """

    def __init__(self, store: Store, retry: RetryService, lease_time: timedelta) -> None:
        self._store = store
        self._retry = retry
        self._lease_time = lease_time

    def recover(self, *, at_once: bool = False) -> int:
        """Recover the jobs of all shards; gives how many.

        A job is due again at once the first time its worker died, later by its back-off; always
        at once when asked for.
        """
        recovered = 0

        def recover_in(shard_id: int, wait: float | None) -> None:
            nonlocal recovered
            while step := self._recover_some(shard_id, wait, at_once):
                recovered += step

        for _shard_id, outcome in self._store.visit(self._store.shard_ids, recover_in):
            if isinstance(outcome, ShardError):
                logger.warning("no recovery there now, another try follows: %s", outcome)
        return recovered

    def _recover_some(self, shard_id: int, wait: float | None, at_once: bool) -> int:
        with self._store.reading(shard_id) as unit:
            if not unit.jobs.silent_since(unit.now - self._lease_time, limit=1):
                return 0
        verdicts = []
        with self._store.writing(shard_id, wait) as unit:
            for job in unit.jobs.silent_since(unit.now - self._lease_time, STEP):
                first_time = job.error_type != WORKER_DIED
                failure = Failure(
                    WORKER_DIED, f"worker {job.worker_id} was last heard of at {job.heartbeat}"
                )
                verdict = self._retry.lose(unit, job, failure, at_once=at_once or first_time)
                verdicts.append((job, failure, verdict))
        for job, failure, verdict in verdicts:
            self._retry.tell(job, failure, verdict)
        return len(verdicts)
