"""Giving back the jobs of workers that died, or went silent."""

import logging
from collections.abc import Callable, Iterable
from datetime import timedelta

from queue_max.domain.failures import JOB_DAMAGED, WORKER_DIED, Failure
from queue_max.domain.job import Job
from queue_max.domain.leases import LeaseWatch
from queue_max.domain.retry import Verdict
from queue_max.exceptions import ShardError
from queue_max.repositories.unit_of_work import Store, UnitOfWork
from queue_max.services.retry import RetryService
from queue_max.storage.presence import Presence, Remains

logger = logging.getLogger(__name__)

STEP = 200
"""Jobs recovered in one transaction: more would hold the lock for too long."""

Verdicts = list[tuple[Job, Failure, Verdict]]


class RecoveryService:
    """Ends the leases of workers that are no more.

    Their jobs run again, or are buried when they had their attempts: one counts from its start,
    so that a job which kills its worker does not do so for ever. The first time that happens, a
    job is due again at once, later by its back-off.
    """

    def __init__(
        self,
        store: Store,
        retry: RetryService,
        presence: Presence,
        watch: LeaseWatch,
        lease_time: timedelta,
    ) -> None:
        self._store = store
        self._retry = retry
        self._presence = presence
        self._watch = watch
        self._lease_time = lease_time

    def recover(self) -> int:
        """Recover the jobs whose lease is over by the clock, due at once; gives how many."""

        def find(unit: UnitOfWork, limit: int) -> list[Job]:
            return unit.leases.silent_since(unit.now - self._lease_time, limit)

        def lose(unit: UnitOfWork, job: Job, verdicts: Verdicts) -> None:
            self._lose(unit, job, _silence(job), verdicts, at_once=True)

        return self._recover(find, lose)[0]

    def recover_silent(self) -> int:
        """Recover the jobs whose lease this process has seen unchanged for all its time."""
        recovered = 0

        def recover_in(shard_id: int, wait: float | None) -> None:
            nonlocal recovered
            with self._store.reading(shard_id) as unit:
                overdue = self._watch.overdue(shard_id, unit.leases.all())
            verdicts: Verdicts = []
            if overdue:
                with self._store.writing(shard_id, wait) as unit:
                    still = unit.leases.all()
                    for lease in [each for each in overdue if still.get(each) == overdue[each]]:
                        if job := unit.jobs.running(lease.job_id, lease.fence):
                            self._lose(unit, job, _silence(job), verdicts)
            recovered += len(verdicts)
            self._tell(verdicts)

        self._visit(recover_in)
        return recovered

    def recover_dead(self) -> int:
        """Recover the jobs of processes of this host that are no more, within a second.

        Those they had not started go back unburnt.
        """
        recovered = 0
        for remains in self._presence.dead():
            number, is_all = self._recover_remains(remains)
            recovered += number
            if is_all:
                remains.clear()
        return recovered

    def _recover_remains(self, remains: Remains) -> tuple[int, bool]:
        def find(unit: UnitOfWork, limit: int) -> list[Job]:
            return unit.leases.held_by(remains.identity, limit)

        def lose(unit: UnitOfWork, job: Job, verdicts: Verdicts) -> None:
            if remains.is_charged(job.lease):
                failure = Failure(WORKER_DIED, f"process {remains.identity} died while it ran")
                self._lose(unit, job, failure, verdicts)
            else:
                unit.jobs.give_back(job)

        return self._recover(find, lose)

    def _lose(
        self,
        unit: UnitOfWork,
        job: Job,
        failure: Failure,
        verdicts: Verdicts,
        *,
        at_once: bool = False,
    ) -> None:
        if job.damage is not None:
            failure = Failure(JOB_DAMAGED, job.damage)
        at_once = at_once or not unit.attempts.count(job, WORKER_DIED)
        if verdict := self._retry.lose(unit, job, failure, at_once=at_once):
            verdicts.append((job, failure, verdict))

    def _recover(
        self,
        find: Callable[[UnitOfWork, int], list[Job]],
        lose: Callable[[UnitOfWork, Job, Verdicts], None],
    ) -> tuple[int, bool]:
        """Take what is found from its workers, in steps; gives how many, and if that was all."""
        recovered = 0

        def recover_in(shard_id: int, wait: float | None) -> None:
            nonlocal recovered
            while True:
                with self._store.reading(shard_id) as unit:
                    if not find(unit, 1):
                        return
                verdicts: Verdicts = []
                with self._store.writing(shard_id, wait) as unit:
                    found = find(unit, STEP)
                    for job in found:
                        lose(unit, job, verdicts)
                recovered += len(found)
                self._tell(verdicts)

        is_all = self._visit(recover_in)
        return recovered, is_all

    def _visit(self, recover_in: Callable[[int, float | None], None]) -> bool:
        """Recover in all shards; False when one could not be served."""
        is_all = True
        for _shard_id, outcome in self._store.visit(self._store.shard_ids, recover_in):
            if isinstance(outcome, ShardError):
                is_all = False
                logger.warning("no recovery there now, another try follows: %s", outcome)
        return is_all

    def _tell(self, verdicts: Iterable[tuple[Job, Failure, Verdict]]) -> None:
        for job, failure, verdict in verdicts:
            self._retry.tell_recovered(job, failure, verdict)


def _silence(job: Job) -> Failure:
    return Failure(WORKER_DIED, f"worker {job.worker_id} was last heard of at {job.heartbeat}")
