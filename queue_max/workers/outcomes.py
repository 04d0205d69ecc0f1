"""How a worker's jobs ended: what is written of it, what is counted, and whom it is told."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from queue_max.assembly import Services
from queue_max.domain.failures import Failure, is_retryable_error
from queue_max.domain.job import Job, JobResult, Lease
from queue_max.domain.payload import result_to_json
from queue_max.domain.retry import Bury, TryAgain, is_failure
from queue_max.exceptions import JobFailedError
from queue_max.repositories.unit_of_work import UnitOfWork
from queue_max.services.exchange import Ended
from queue_max.workers.repertoire import Repertoire

logger = logging.getLogger(__name__)


class Account:
    """What one worker has done, and who is to hear of it."""

    def __init__(
        self,
        worker_id: str,
        services: Services,
        repertoire: Repertoire,
        on_job_complete: Callable[..., object] | None,
        on_job_error: Callable[..., object] | None,
        wait_for: Callable[[Coroutine[Any, Any, None]], object] = asyncio.run,
    ) -> None:
        self.services = services
        self.repertoire = repertoire
        self.on_job_complete = on_job_complete
        self.on_job_error = on_job_error
        self.processed = 0
        self.failed = 0
        self.retried = 0
        self.lost = 0
        self.abandoned = 0
        self.unsettled: set[Lease] = set()
        """Jobs that have ended, whose outcomes are not written yet."""
        self._worker_id = worker_id
        self._wait_for = wait_for

    def tell(self, callback: Callable[..., object], **facts: Any) -> None:
        """Call user code; an error of its own is logged and harms nobody."""
        self.guard(lambda: callback(worker_id=self._worker_id, **facts))

    async def tell_here(self, callback: Callable[..., object], **facts: Any) -> None:
        """Call user code on the event loop, as `tell` does, and wait for its end."""
        try:
            answer = callback(worker_id=self._worker_id, **facts)
            if inspect.isawaitable(answer):
                await answer
        except asyncio.CancelledError:
            raise
        except BaseException:
            logger.exception("a callback of worker %s failed", self._worker_id)

    def guard(self, call: Callable[[], object]) -> None:
        """Call user code, and see to it that what it returns is waited for, if need be."""
        try:
            answer = call()
            if inspect.isawaitable(answer):
                self._wait_for(_guarded(answer, self._worker_id))
        except BaseException:  # even SystemExit must not end the worker
            logger.exception("a callback of worker %s failed", self._worker_id)

    def enter(self, job: Job, outcome: JobResult) -> Ended:
        """Take in how a job has ended."""
        ended: _Outcome
        if outcome.error is None:
            ended = _Done(self, job, outcome)
        else:
            ended = self._failed(job, outcome.error)
        self.unsettled.add(ended.lease)
        return ended

    def _failed(self, job: Job, error: BaseException) -> "_Failed":
        try:
            return _Failed(self, job, error)
        except BaseException:  # user code: an exception may refuse even to be looked at
            logger.exception("the error of job %s cannot be told", job.key)
            return _Failed(self, job, JobFailedError("its error cannot be told"))


class _Outcome(Ended):
    __slots__ = ("_account",)

    def __init__(self, account: Account, job: Job) -> None:
        super().__init__(job)
        self._account = account

    def tell(self, is_written: bool) -> None:
        try:
            if is_written:
                self._tell()
            else:
                self._account.lost += 1
                self._lose()
                logger.warning(
                    "outcome of job %s dropped: it was cancelled, or is run by another",
                    self.job.key,
                )
        finally:
            self._account.unsettled.discard(self.lease)

    def _tell(self) -> None:
        raise NotImplementedError

    def _lose(self) -> None:
        self._account.services.admission.handed_back(self.lease)


class _Done(_Outcome):
    __slots__ = ("_result", "_text", "is_simply_done")

    def __init__(self, account: Account, job: Job, outcome: JobResult) -> None:
        super().__init__(account, job)
        self._result = outcome.result
        self.is_simply_done = job.keep_result is None
        self._text = None if self.is_simply_done else _text_of(job, outcome.result)

    def write(self, unit: UnitOfWork) -> bool:
        job, settlement = self.job, self._account.services.settlement
        return settlement.write(unit, job.id, job.fence, self._text) is not None

    def _tell(self) -> None:
        account = self._account
        account.processed += 1
        account.services.settlement.tell(self.lease, self.job.breaker)
        if task := account.repertoire.task_of(self.job):
            account.guard(lambda: task.succeeded(self._result, self.job))
        if account.on_job_complete is not None:
            account.tell(account.on_job_complete, job_id=self.job.id, result=self._result)


class _Failed(_Outcome):
    __slots__ = ("_error", "_failure", "_verdict")

    def __init__(self, account: Account, job: Job, error: BaseException) -> None:
        super().__init__(account, job)
        self._error = error
        self._failure = Failure.of(error)
        self._verdict = account.services.retry.judge(job, error)
        if is_failure(self._verdict):
            account.services.admission.fails(job, error)

    def write(self, unit: UnitOfWork) -> bool:
        return self._account.services.retry.write(unit, self.job, self._failure, self._verdict)

    def _lose(self) -> None:
        self._account.services.admission.lost(self.job)
        super()._lose()

    def _tell(self) -> None:
        account, job = self._account, self.job
        account.services.retry.tell_end(job, self._error, self._failure, self._verdict)
        match self._verdict:
            case Bury():
                account.failed += 1
                if task := account.repertoire.task_of(job):
                    account.guard(lambda: task.failed(self._error, job))
            case TryAgain(is_counted=True):
                account.retried += 1
            case _:  # snoozed or cancelled
                return
        if account.on_job_error is not None:
            account.tell(
                account.on_job_error,
                job_id=job.id,
                error=self._failure.message,
                permanent=not is_retryable_error(self._error),
            )


async def _guarded(answer: Awaitable[object], worker_id: str) -> None:
    try:
        await answer
    except BaseException:
        logger.exception("a callback of worker %s failed", worker_id)


def _text_of(job: Job, result: Any) -> str | None:
    """Give a result as JSON text, if it has that form."""
    try:
        return result_to_json(result)
    except Exception as error:  # it has no such form, or is user code that raises anything
        logger.error("the result of job %s is not kept: %s", job.key, error)
        return None
