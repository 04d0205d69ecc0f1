"""Giving jobs to workers."""

import logging
import math
import random
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain

from queue_max.domain.failures import JOB_DAMAGED, Failure
from queue_max.domain.job import DEFAULT_QUEUE, Job
from queue_max.domain.routing import scan_order
from queue_max.exceptions import ShardBusyError, ShardError
from queue_max.repositories.unit_of_work import Store
from queue_max.services.admission import Admission
from queue_max.services.retry import RetryService

logger = logging.getLogger(__name__)

BUSY_SHARD_WAIT = 1.0
"""Seconds to wait for a locked shard when all others have nothing to do."""


class DispatchService:
    """Finds a job that may start, and claims it.

    Shards are looked at without a lock first, so that an idle worker disturbs nobody; one that
    is locked or damaged does not hold up the others. A job whose row is damaged is buried.
    """

    def __init__(
        self, store: Store, retry: RetryService, admission: Admission, rng: random.Random
    ) -> None:
        self._store = store
        self._retry = retry
        self._admission = admission
        self._rng = rng
        self._unreadable = _Warnings()
        self._unwritable = _Warnings()

    def claim(
        self,
        worker_id: str,
        patience: float = 0.0,
        holder: str | None = None,
        *,
        queue: str = DEFAULT_QUEUE,
    ) -> Job | None:
        """Give the most urgent due job of a queue in a shard to a worker; None when none may start.

        `patience` is how many seconds to wait for the rate limiter, `holder` the identity of the
        worker's process. Raises ShardError when no shard can serve.
        """
        due = self._shards_with_due_jobs(queue)
        first = next(due, None)
        permit = None if first is None else self._admission.admit(patience)
        if first is None or permit is None:
            return None
        job = None
        try:
            job = self._claim_from(chain([first], due), worker_id, holder, queue)
        finally:
            if job is None:
                self._admission.withdraw(permit)
        if job is not None:
            self._admission.started(job.lease, permit)
        return job

    def next_due(self) -> float:
        """Tell in how many seconds the earliest of all jobs that wait is due; inf for none."""
        earliest = math.inf
        for shard_id in self._store.shard_ids:
            with suppress(ShardError), self._store.reading(shard_id) as unit:
                if (at := unit.claims.next_due()) is not None:
                    earliest = min(earliest, (at - unit.now).total_seconds())
        return max(0.0, earliest)

    def give_back(self, job: Job) -> None:
        """Let others have a job that was claimed and not started; the attempt counts not."""
        with self._store.writing(job.shard_id) as unit:
            unit.jobs.give_back(job)
        self._admission.handed_back(job.lease)

    def queues(self) -> list[str]:
        """Name the queues that have due jobs."""
        names: set[str] = set()
        for shard_id in self._store.shard_ids:
            with suppress(ShardError), self._store.reading(shard_id) as unit:
                names.update(unit.claims.queues())
        return sorted(names)

    def _shards_with_due_jobs(self, queue: str) -> Iterator[int]:
        refusals = []
        for shard_id in scan_order(self._store.shard_ids, self._rng):
            try:
                with self._store.reading(shard_id) as unit:
                    has_due = unit.claims.has_due(queue)
            except ShardError as error:
                self._unreadable.note(shard_id, error)
                refusals.append(error)
                continue
            self._unreadable.forget(shard_id)
            if has_due:
                yield shard_id
        if len(refusals) == len(self._store.shard_ids):
            raise refusals[0]

    def _claim_from(
        self, shard_ids: Iterator[int], worker_id: str, holder: str | None, queue: str
    ) -> Job | None:
        """Claim in the first shard that serves."""

        def claim_in(shard_id: int, wait: float | None) -> Job | None:
            return self._claim_in(shard_id, wait, worker_id, holder, queue)

        refusals = []
        for shard_id, outcome in self._store.visit(shard_ids, claim_in, BUSY_SHARD_WAIT):
            if isinstance(outcome, ShardError):
                self._unwritable.note(shard_id, outcome)
                if not isinstance(outcome, ShardBusyError):
                    refusals.append(outcome)
                continue
            self._unwritable.forget(shard_id)
            if outcome is not None:
                return outcome
        if len(refusals) == len(self._store.shard_ids):
            raise refusals[0]
        return None

    def _claim_in(
        self, shard_id: int, wait: float | None, worker_id: str, holder: str | None, queue: str
    ) -> Job | None:
        """Claim in one shard; what is damaged there is buried on the way."""
        while True:
            with self._store.writing(shard_id, wait) as unit:
                unit.claims.promote_due()
                job = unit.claims.claim_next(queue, worker_id, holder)
                if job is None or job.damage is None:
                    return job
                failure = Failure(JOB_DAMAGED, job.damage)
                verdict = self._retry.lose(unit, job, failure, at_once=True)
            if verdict is not None:
                self._retry.tell(job, failure, verdict)


class _Warnings:
    """Says once that a shard refuses, and again after it has served meanwhile."""

    def __init__(self) -> None:
        self._warned_of: set[int] = set()

    def note(self, shard_id: int, error: ShardError) -> None:
        if shard_id not in self._warned_of:
            self._warned_of.add(shard_id)
            logger.warning("going on without it: %s", error)

    def forget(self, shard_id: int) -> None:
        self._warned_of.discard(shard_id)
