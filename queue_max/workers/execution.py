"""Running one job's function, whatever it does."""

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any

from queue_max.domain.job import Job, JobResult
from queue_max.exceptions import JobSignal, JobTimeoutError, Permanent

logger = logging.getLogger(__name__)

ProcessFunction = Callable[[dict[str, Any]], Any]


def run(function: ProcessFunction, job: Job, timeout: float | None = None) -> JobResult:
    """Call the function with the job's payload; its outcome is a value, never an exception.

    After `timeout` seconds the outcome is a JobTimeoutError. Python has no way to end a thread,
    so the function then goes on by itself, unseen; nothing waits for it.
    """
    begun = time.monotonic()
    outcome = _call(function, job) if timeout is None else _call_within(function, job, timeout)
    outcome.execution_time = time.monotonic() - begun
    outcome.worker_id = job.worker_id
    return outcome


def _call(function: ProcessFunction, job: Job) -> JobResult:
    try:
        result = function(job.payload)
        if result is None:
            return JobResult(success=True)
        if inspect.isawaitable(result):
            result = asyncio.run(_wait_for(result))
        if isinstance(result, JobSignal):
            raise result
        if inspect.isgenerator(result) or inspect.isasyncgen(result):
            raise Permanent("the function is a generator: nothing of it has run")
    except BaseException as error:  # user code: even SystemExit is the job's end, not ours
        return JobResult(success=False, error=error)
    return JobResult(success=True, result=result)


async def _wait_for(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _call_within(function: ProcessFunction, job: Job, timeout: float) -> JobResult:
    outcomes: list[JobResult] = []
    context = copy_context()
    thread = threading.Thread(
        target=lambda: outcomes.append(context.run(_call, function, job)),
        name=f"queue-max-job-{job.key}",
        daemon=True,
    )
    thread.start()
    thread.join(timeout)
    if outcomes:
        return outcomes[0]
    logger.warning("job %s goes on in its thread after its %s s are over", job.key, timeout)
    return JobResult(success=False, error=JobTimeoutError(f"took longer than {timeout} s"))
