"""Running one job's function, whatever it does."""

import asyncio
import inspect
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from queue_max.domain.job import JobResult
from queue_max.exceptions import JobSignal, JobTimeoutError, Permanent
from queue_max.workers.running import RunningJob

logger = logging.getLogger(__name__)


def run(call: Callable[[RunningJob], Any], running: RunningJob) -> JobResult:
    """Call a job's function, in this thread; its outcome is a value, never an exception.

    What it returns is waited for, if that is awaitable.
    """
    outcome = _run(call, running)
    leave_if_forked(running, outcome)
    return outcome


def leave_if_forked(running: RunningJob, outcome: JobResult) -> None:
    """End the process where it was forked by a job's function, which has come to its end in it.

    It is not to go on as a second worker, beside the one in the process that the job began in.
    """
    if not running.is_elsewhere:
        return
    error, code = outcome.error, int(not outcome.success)
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        logger.error("a process that job %s forked has failed", running.key, exc_info=error)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # user code may have closed it, or put anything in its place
            stream.flush()
    os._exit(code)


def _run(call: Callable[[RunningJob], Any], running: RunningJob) -> JobResult:
    try:
        result = call(running)
        if inspect.isawaitable(result):
            result = _to_its_end(_wait_for(result, running))
        return outcome_of(running, result)
    except BaseException as error:  # user code: even SystemExit is the job's end, not ours
        return failed(running, error)


def _to_its_end(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine; beside this thread, where this one has an event loop that runs."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(copy_context().run, asyncio.run, coroutine).result()


async def _wait_for(awaitable: Awaitable[Any], running: RunningJob) -> Any:
    running.on_stop(canceller())
    return await awaitable


def canceller() -> Callable[[], None]:
    """Give a function that cancels the running coroutine, from any thread."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - for the type checker

    def cancel() -> None:
        with suppress(RuntimeError):  # the loop has ended by itself
            loop.call_soon_threadsafe(task.cancel)

    return cancel


def outcome_of(running: RunningJob, result: Any) -> JobResult:
    """Say how a job ended whose function returned that."""
    if result is None and running.timeout is None:  # as nearly always
        return JobResult(success=True)
    if isinstance(result, JobSignal):
        return failed(running, result)
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        return failed(running, Permanent("the function is a generator: nothing of it has run"))
    if running.is_late:  # it may have ended early, since it was told to
        return failed(running, None)
    return JobResult(success=True, result=result)


def failed(running: RunningJob, error: BaseException | None) -> JobResult:
    """Say how a job ended whose function raised that, or did not end at all."""
    if running.is_late and not isinstance(error, JobSignal):
        late = JobTimeoutError(f"took longer than {running.timeout} s")
        late.__cause__ = error
        return JobResult(success=False, error=late)
    return JobResult(success=False, error=error or Permanent("it was given up"))
