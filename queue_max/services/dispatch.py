"""Giving jobs to workers."""

import logging
import random
from collections.abc import Iterator

from queue_max.domain.job import DEFAULT_QUEUE, Job
from queue_max.domain.routing import scan_order
from queue_max.exceptions import ShardBusyError, ShardError
from queue_max.repositories.unit_of_work import Store
from queue_max.services.admission import Admission

logger = logging.getLogger(__name__)

BUSY_SHARD_WAIT = 1.0
"""Seconds to wait for a locked shard when all others have nothing to do."""


class DispatchService:
    """Finds a job that may start, and claims it.

    Shards are looked at without a lock first, so that an idle worker disturbs nobody; one that
    is locked or damaged does not hold up the others.
    """

    def __init__(self, store: Store, admission: Admission, rng: random.Random) -> None:
        self._store = store
        self._admission = admission
        self._rng = rng
        self._silent: set[int] = set()

    def claim(self, worker_id: str, patience: float = 0.0) -> Job | None:
        """Give the most urgent due job of a shard to a worker; None when none may start.

        `patience` is how many seconds to wait for the rate limiter. Raises ShardError when no
        shard can serve.
        """
        due = self._shards_with_due_jobs()
        first = next(due, None)
        if first is None or not self._admission.admit(patience):
            return None
        try:
            job = self._claim_from(first, due, worker_id)
        except BaseException:
            self._admission.withdraw()
            raise
        if job is None:
            self._admission.withdraw()
        else:
            self._admission.started(job.lease)
        return job

    def _shards_with_due_jobs(self) -> Iterator[int]:
        refusals: list[ShardError] = []
        for shard_id in scan_order(self._store.shard_ids, self._rng):
            try:
                with self._store.reading(shard_id) as unit:
                    has_due = unit.jobs.has_due(DEFAULT_QUEUE)
            except ShardError as error:
                self._warn_once(error, shard_id)
                refusals.append(error)
                continue
            self._silent.discard(shard_id)
            if has_due:
                yield shard_id
        if len(refusals) == len(self._store.shard_ids):
            raise refusals[0]

    def _claim_from(self, first: int, others: Iterator[int], worker_id: str) -> Job | None:
        busy = []
        for shard_id in (first, *others):
            try:
                if job := self._claim_in(shard_id, worker_id, wait=0.0):
                    return job
            except ShardBusyError:
                busy.append(shard_id)
            except ShardError as error:
                self._warn_once(error, shard_id)
        for shard_id in busy:
            try:
                if job := self._claim_in(shard_id, worker_id, wait=BUSY_SHARD_WAIT):
                    return job
            except ShardError as error:
                self._warn_once(error, shard_id)
        return None

    def _claim_in(self, shard_id: int, worker_id: str, wait: float) -> Job | None:
        with self._store.writing(shard_id, wait) as unit:
            unit.jobs.promote_due()
            return unit.jobs.claim_next(DEFAULT_QUEUE, worker_id)

    def _warn_once(self, error: ShardError, shard_id: int) -> None:
        """Say that a shard does not serve; not again until it has served meanwhile."""
        if shard_id not in self._silent:
            self._silent.add(shard_id)
            logger.warning("going on without it: %s", error)
