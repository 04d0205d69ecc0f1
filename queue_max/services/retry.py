"""What becomes of a job whose attempt failed."""

import logging
import random
from typing import assert_never

from queue_max.domain.clock import later
from queue_max.domain.dead_letters import DAMAGED
from queue_max.domain.events import Events
from queue_max.domain.failures import Failure
from queue_max.domain.job import Job
from queue_max.domain.retry import Bury, CallOff, RetryPolicy, TryAgain, Verdict, is_failure
from queue_max.exceptions import LeaseLostError
from queue_max.repositories.unit_of_work import Store, UnitOfWork
from queue_max.services.admission import Admission
from queue_max.services.dead_letters import DeadLetterService

logger = logging.getLogger(__name__)


class RetryService:
    """Reschedules, buries or calls off jobs, by the verdict of their retry policy.

    The policy may be user code, so it judges before the transaction, which names the fence.
    """

    def __init__(
        self,
        store: Store,
        policy: RetryPolicy,
        rng: random.Random,
        dead_letters: DeadLetterService,
        admission: Admission,
        events: Events,
    ) -> None:
        self._store = store
        self._policy = policy
        self._rng = rng
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
    ) -> Verdict | None:
        """Judge a failed attempt at a job that runs, and write the verdict.

        None when no such job runs. Raises LeaseLostError when it does not run under `fence`.
        """
        with self._store.reading(shard_id) as unit:
            job = unit.jobs.running(job_id, fence)
        try:
            if job is not None:
                return self.settle_job(job, error, permanent=permanent)
        except LeaseLostError:
            if fence is not None:
                raise
        if fence is not None:
            raise LeaseLostError(job_id, shard_id, fence)
        return None

    def settle_job(
        self, job: Job, error: BaseException | str, *, permanent: bool | None = None
    ) -> Verdict:
        """Judge the attempt that a worker has just made, and write the verdict.

        `permanent` None lets the error tell whether another attempt may help. Raises
        LeaseLostError when the job is no longer run under its fence.
        """
        failure = Failure.of(error)
        verdict = self.judge(job, error, permanent=permanent)
        with self._store.writing(job.shard_id) as unit:
            is_written = self.write(unit, job, failure, verdict)
        if not is_written:
            raise LeaseLostError(job.id, job.shard_id, job.fence)
        self.tell_end(job, error, failure, verdict)
        self._admission.flush()
        return verdict

    def judge(
        self, job: Job, error: BaseException | str, *, permanent: bool | None = None
    ) -> Verdict:
        """Say what becomes of a job whose attempt failed; asks user code, where that decides."""
        return self._policy_of(job).judge(job, error, self._rng, permanent=permanent)

    def tell_end(
        self, job: Job, error: BaseException | str, failure: Failure, verdict: Verdict
    ) -> None:
        """Let the circuit know how an attempt ended, and all others, once it is committed."""
        if is_failure(verdict):
            self._admission.failed(job, error)
        else:
            self._admission.handed_back(job.lease)
        self.tell(job, failure, verdict)

    def hand_back(self, job: Job, reason: str) -> None:
        """Take a job from a worker that has to leave; the attempt it had begun counts.

        Raises LeaseLostError when the worker had lost it already.
        """
        failure = Failure("WorkerStopped", reason)
        with self._store.writing(job.shard_id) as unit:
            verdict = self.lose(unit, job, failure, at_once=True)
        if verdict is None:
            raise LeaseLostError(job.id, job.shard_id, job.fence)
        self._admission.handed_back(job.lease)
        self._admission.flush()
        self.tell(job, failure, verdict)

    def lose(
        self, unit: UnitOfWork, job: Job, failure: Failure, *, at_once: bool
    ) -> Verdict | None:
        """Write what becomes of a job that its worker left, within a transaction.

        None when the job is no longer run under its fence.
        """
        verdict = self._judge_lost(job, failure)
        if isinstance(verdict, TryAgain) and at_once:
            verdict = TryAgain(0.0)
        return verdict if self.write(unit, job, failure, verdict) else None

    def tell(self, job: Job, failure: Failure, verdict: Verdict) -> None:
        """Log and publish a verdict, once it is committed."""
        what = f"{failure.error_type}: {failure.message}"
        match verdict:
            case TryAgain(wait, is_counted=True):
                logger.warning("job %s failed, next attempt in %.0f s: %s", job.key, wait, what)
                self._publish("job_retried", job, error=failure.message)
            case Bury(reason):
                logger.error("job %s failed for good (%s): %s", job.key, reason, what)
                self._publish("job_failed", job, error=failure.message)
                self._publish("job_dead_lettered", job, error=failure.message, reason=reason)
            case TryAgain(wait):
                logger.info("job %s runs again in %.0f s: %s", job.key, wait, failure.message)
            case CallOff(reason):
                logger.info("job %s is cancelled: %s", job.key, reason)
                self._publish("job_cancelled", job, reason=reason)
            case _:
                assert_never(verdict)

    def tell_recovered(self, job: Job, failure: Failure, verdict: Verdict) -> None:
        """Tell that a job was taken from a worker that is silent or dead, and the verdict."""
        self._admission.died(job.lease)
        self._publish("job_recovered", job, error=failure.message)
        self.tell(job, failure, verdict)

    def _publish(self, event: str, job: Job, **facts: str) -> None:
        self._events.publish(event, job_id=job.id, shard_id=job.shard_id, **facts)

    def _judge_lost(self, job: Job, failure: Failure) -> Verdict:
        if job.damage is not None:
            return Bury(DAMAGED)
        policy = self._policy_of(job)
        if policy.decide is not None:  # user code stays out of transactions
            policy = RetryPolicy()
        return policy.judge(job, failure.message, self._rng)

    def _policy_of(self, job: Job) -> RetryPolicy:
        if job.retry_policy is None:
            return self._policy
        try:
            return RetryPolicy.from_json(job.retry_policy)
        except ValueError:
            logger.exception("job %s goes by the policy of the queue", job.key)
            return self._policy

    def write(self, unit: UnitOfWork, job: Job, failure: Failure, verdict: Verdict) -> bool:
        """Write a verdict; False when the job is no longer run under its fence."""
        match verdict:
            case TryAgain(wait, is_counted):
                at = later(unit.now, wait)
                if not is_counted:
                    return unit.jobs.snooze(job, at)
                is_written = unit.jobs.reschedule(job, failure, at)
            case Bury():
                is_written = self._dead_letters.bury(unit, job, failure, verdict)
            case CallOff():
                return unit.jobs.cancel_running(job, failure)
            case _:
                assert_never(verdict)
        if is_written:
            unit.attempts.add(job, failure)
        return is_written
