"""What becomes of a job whose attempt failed."""

import logging
from typing import assert_never

from queue_max.domain.events import Events
from queue_max.domain.failures import Failure
from queue_max.domain.job import Job
from queue_max.domain.retry import Bury, Retry, RetryPolicy
from queue_max.exceptions import LeaseLostError
from queue_max.repositories.unit_of_work import Store, UnitOfWork
from queue_max.services.admission import Admission
from queue_max.services.dead_letters import DeadLetterService

logger = logging.getLogger(__name__)


class RetryService:
    """Reschedules or buries failed jobs, by the verdict of the retry policy."""

    def __init__(
        self,
        store: Store,
        policy: RetryPolicy,
        dead_letters: DeadLetterService,
        admission: Admission,
        events: Events,
    ) -> None:
        self._store = store
        self._policy = policy
        self._dead_letters = dead_letters
        self._admission = admission
        self._events = events

    def settle(
        self,
        job_id: int,
        shard_id: int,
        error: BaseException | str,
        *,
        permanent: bool = False,
        fence: int | None = None,
    ) -> Retry | Bury | None:
        """Judge a failed attempt and write the verdict, in the transaction that reads the job.

        None when no such job runs. Raises LeaseLostError when it does not run under `fence`.
        """
        failure = Failure.of(error)
        with self._store.writing(shard_id) as unit:
            job = unit.jobs.running(job_id, fence)
            if job is not None:
                verdict = self._policy.judge(job, unit.now, permanent=permanent)
                self._write(unit, job, failure, verdict)
        if job is None:
            if fence is not None:
                raise LeaseLostError(job_id, shard_id, fence)
            return None
        self._admission.failed(job.lease, error)
        self.tell(job, failure, verdict)
        return verdict

    def hand_back(self, job: Job, reason: str) -> None:
        """Take a job from a worker that has to leave; the attempt it had begun counts.

        Raises LeaseLostError when the worker had lost it already.
        """
        failure = Failure("WorkerStopped", reason)
        with self._store.writing(job.shard_id) as unit:
            running = unit.jobs.running(job.id, job.fence)
            if running is None:
                raise LeaseLostError(job.id, job.shard_id, job.fence)
            verdict = self.lose(unit, running, failure, at_once=True)
        self._admission.handed_back(job.lease)
        self.tell(job, failure, verdict)

    def lose(self, unit: UnitOfWork, job: Job, failure: Failure, *, at_once: bool) -> Retry | Bury:
        """Write what becomes of a job that its worker left, within a transaction."""
        verdict = self._policy.judge(job, unit.now)
        if isinstance(verdict, Retry) and at_once:
            verdict = Retry(unit.now)
        self._write(unit, job, failure, verdict)
        return verdict

    def tell(self, job: Job, failure: Failure, verdict: Retry | Bury) -> None:
        """Publish a verdict, once it is committed."""
        what = f"{failure.error_type}: {failure.message}"
        match verdict:
            case Retry(at):
                event = "job_retried"
                logger.warning("job %s failed, to be tried again at %s: %s", job.key, at, what)
            case Bury(reason):
                event = "job_failed"
                logger.error("job %s failed for good (%s): %s", job.key, reason, what)
            case _:
                assert_never(verdict)
        self._events.publish(event, job_id=job.id, shard_id=job.shard_id, error=failure.message)

    def _write(self, unit: UnitOfWork, job: Job, failure: Failure, verdict: Retry | Bury) -> None:
        unit.attempts.add(job, failure)
        match verdict:
            case Retry(at):
                unit.jobs.reschedule(job, failure, at)
            case Bury():
                self._dead_letters.bury(unit, job, failure, verdict)
            case _:
                assert_never(verdict)
