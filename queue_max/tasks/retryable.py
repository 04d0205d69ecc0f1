"""`@retryable_task`: a task that is tried again here and now, by the same rules as in a worker."""

import functools
import logging
import random
from asyncio import sleep as pause_coroutine
from collections.abc import Callable
from time import sleep as pause
from typing import Any, ParamSpec, TypeVar, cast

from queue_max.domain.failures import Failure
from queue_max.domain.job import Job
from queue_max.domain.retry import ErrorTypes, RetryPolicy, TryAgain
from queue_max.exceptions import ConfigurationError
from queue_max.tasks.function import Callbacks
from queue_max.tasks.task import Task, TaskOptions, decorator

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

RETRY_DELAY = 1
"""Seconds on which the waits are based, if nothing else is said: somebody waits for the answer."""

_rng = random.Random()  # noqa: S311 - it spreads load, no secret depends on it


class RetryableTask(Task[P, R]):
    """A task whose calls are repeated while they fail, also where no worker makes them."""

    def __init__(
        self,
        function: Callable[P, R],
        name: str,
        version: int,
        options: TaskOptions,
        callbacks: Callbacks,
    ) -> None:
        super().__init__(function, name, version, options, callbacks)
        repeat = retrying_coroutine if self.is_async else retrying
        self._here = repeat(function, name, options)


def retrying(function: Callable[P, R], name: str, options: TaskOptions) -> Callable[P, R]:
    """Have a function called again while it fails and that may help; the last error is raised."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        judge = _Judge(name, options)
        while True:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                if (wait := judge.wait_after(error)) is None:
                    raise
            pause(wait)

    return call


def retrying_coroutine(function: Callable[P, R], name: str, options: TaskOptions) -> Callable[P, R]:
    """Do the same for a coroutine function."""

    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        judge = _Judge(name, options)
        while True:
            try:
                return await cast(Any, function(*args, **kwargs))
            except Exception as error:
                if (wait := judge.wait_after(error)) is None:
                    raise
            await pause_coroutine(wait)

    return cast(Callable[P, R], call)


class _Judge:
    """Counts the attempts of one call, and lets the retry policy judge each."""

    def __init__(self, name: str, options: TaskOptions) -> None:
        self._name = name
        self._policy = options.retry or RetryPolicy()
        self._job = Job.create(
            {}, max_retries=options.max_retries or 0, retry_delay=options.retry_delay
        )

    def wait_after(self, error: Exception) -> float | None:
        """Give the seconds to wait before the next attempt; None when there is to be none."""
        self._job.attempts += 1
        verdict = self._policy.judge(self._job, error, _rng)
        if not isinstance(verdict, TryAgain):
            return None
        message = Failure.of(error).message
        logger.warning("%s failed, next attempt in %.1f s: %s", self._name, verdict.wait, message)
        return verdict.wait


def retryable_task(
    max_retries: int = 5, retry_on: ErrorTypes | None = None, **task_options: Any
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a function a task that is tried again up to `max_retries` times, wherever it runs.

    - Called here, it is repeated in this thread, or coroutine, and raises the last error.
    - Enqueued, its jobs have the same number of attempts, and the same policy.

    `retry_on` are types of exceptions, a list or a tuple; all others end it at once. Without it,
    errors that another attempt cannot mend do (`is_retryable_error`). The waits are
    `retry_delay`, 1 second here, times 2 to the attempts made, plus or minus a fifth, and at least
    what a Retry-After says. Further options are those of `@task`; `retry` gives another policy.
    """
    if callable(max_retries):
        raise ConfigurationError("retryable_task: write @retryable_task(), with parentheses")
    if "retry" in task_options and retry_on is not None:
        raise ConfigurationError("retry_on and retry: give one of them, the policy has its own")
    policy = RetryPolicy.exponential(retry_on=retry_on or ())
    options: dict[str, Any] = {"retry_delay": RETRY_DELAY, "retry": policy} | task_options
    return decorator(RetryableTask, max_retries=max_retries, **options)
