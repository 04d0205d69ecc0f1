"""`@task`: a function that can be called, or enqueued for a worker to run."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, ParamSpec, Self, TypeVar, cast, overload

from queue_max import checks
from queue_max.domain.clock import from_text, to_text, utc_now
from queue_max.domain.job import DEFAULT_QUEUE, DEFAULT_RETRY_DELAY, JobHandle
from queue_max.domain.payload import MAX_KEY, check_job
from queue_max.domain.queues import queue_name
from queue_max.domain.retry import RetryPolicy
from queue_max.domain.tasks import FIRST_VERSION
from queue_max.exceptions import ConfigurationError, InvalidJobError
from queue_max.limits.rates import Given, rates_of
from queue_max.limits.scopes import Limit, of_task
from queue_max.queue import Queue
from queue_max.tasks.binding import default_queue
from queue_max.tasks.function import Callbacks, TaskFunction, name_of
from queue_max.workers.repertoire import tasks

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What is said of each job of a task; the words of `Queue.enqueue`."""

    queue: Queue | str | None = None
    priority: int = 0
    max_retries: int | None = None
    timeout: float | None = None
    retry_delay: int = DEFAULT_RETRY_DELAY
    retry: RetryPolicy | None = None
    pagina_id: int | None = None
    unique_key: str | None = None
    unique_for: float | None = None
    keep_result: float | None = None
    concurrency_key: str | None = None
    rate_key: str | None = None
    breaker: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.queue, str):
            queue_name(self.queue)
        elif self.queue is not None and not isinstance(self.queue, Queue):
            raise ConfigurationError(
                f"queue={checks.shown(self.queue)}: should be a Queue, or the name of one in it"
            )
        checks.instance("retry", self.retry, (RetryPolicy, type(None)), "a RetryPolicy")
        # One that decides by a function will do where calls are made here.
        job = {name: getattr(self, name) for name in _NAMES if name not in {"queue", "retry"}}
        if self.max_retries is None:
            job["max_retries"] = 0
        if self.unique_key is None:
            job["unique_key"] = "given later, by using"
        try:
            check_job({}, **job)
        except InvalidJobError as error:
            raise ConfigurationError(str(error)) from error

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """Make them of what was given; raises ConfigurationError for names that are none."""
        return cls().changed(options)

    def changed(self, options: Mapping[str, Any]) -> Self:
        """Give them with some changed; raises ConfigurationError for names that are none."""
        if unknown := options.keys() - set(_NAMES):
            raise ConfigurationError(
                f"unknown {', '.join(sorted(unknown))}; there are {', '.join(_NAMES)}"
            )
        return replace(self, **options)

    @property
    def queue_name(self) -> str:
        """Which of the named queues the jobs go to."""
        return self.queue if isinstance(self.queue, str) else DEFAULT_QUEUE

    def of_job(self) -> dict[str, Any]:
        """Give them as arguments of `Queue.enqueue`."""
        return {name: getattr(self, name) for name in _NAMES} | {"queue": self.queue_name}


_NAMES = [each.name for each in fields(TaskOptions)]


class Task(TaskFunction[P, R]):
    """A function that a worker can run, and anybody can call.

    Its name is what jobs carry: a worker in another process finds the function by it, in the
    modules that it has imported, and nowhere else.
    """

    def __init__(
        self,
        function: Callable[P, R],
        name: str,
        version: int,
        options: TaskOptions,
        callbacks: Callbacks,
    ) -> None:
        super().__init__(function, name, version, callbacks)
        self.options = options
        self.limit = Limit(of_task(name))
        """How many of its jobs start in what time, and run at once."""

    def delay(self, /, *args: P.args, **kwargs: P.kwargs) -> JobHandle:
        """Enqueue a call for a worker to make; gives the job's handle.

        Raises TypeError when the arguments do not fit the function, InvalidJobError when JSON
        cannot express them, and what `Queue.enqueue` raises.
        """
        return self.get_queue().enqueue(**self._job(args, kwargs))

    async def adelay(self, /, *args: P.args, **kwargs: P.kwargs) -> JobHandle:
        """As `delay`, to be awaited: the event loop is not held up."""
        return await asyncio.to_thread(self.delay, *args, **kwargs)

    def schedule_at(self, when: datetime | str, /, *args: P.args, **kwargs: P.kwargs) -> JobHandle:
        """Enqueue a call for that moment; one without a time zone is taken as UTC.

        Raises ValueError when it is in the past.
        """
        at = _moment(when)
        if at < utc_now():
            raise InvalidJobError(f"{to_text(at)} is in the past")
        return self.get_queue().enqueue(**self._job(args, kwargs, at))

    def schedule_in(self, seconds: float, /, *args: P.args, **kwargs: P.kwargs) -> JobHandle:
        """Enqueue a call for that many seconds from now."""
        delay = checks.seconds("seconds", seconds, zero=True)
        return self.get_queue().enqueue(**self._job(args, kwargs), delay=delay)

    def map(self, items: Iterable[Any], /, *args: Any, **kwargs: Any) -> list[JobHandle]:
        """Enqueue a call for each item, which comes first, before the arguments of all.

        They are stored as one batch: all of a shard or none.
        """
        return self.bulk_delay([((item, *args), kwargs) for item in items])

    def bulk_delay(
        self, calls: Iterable[tuple[Sequence[Any], Mapping[str, Any]]], /
    ) -> list[JobHandle]:
        """Enqueue many calls as one batch, each a pair of arguments: a tuple and a dict."""
        jobs = [self._job(*_call(each)) for each in calls]
        return cast(list[JobHandle], self.get_queue().enqueue_batch(jobs)["jobs"])

    def using(self, **options: Any) -> Self:
        """Give the same task with other options for its jobs, the words of `Queue.enqueue`.

        They are priority, max_retries, retry_delay, retry, timeout, pagina_id, unique_key,
        unique_for, keep_result, concurrency_key, rate_key, breaker and queue.
        """
        return self._like(self.options.changed(options))

    def _like(self, options: TaskOptions) -> Self:
        return type(self)(self._function, self.task_name, self.version, options, self._callbacks)

    def limited(self, rate: Given, concurrency: int | None) -> Self:
        """Let so many of its jobs start in what time, and run at once; gives itself."""
        if concurrency is not None:
            checks.whole("concurrency", concurrency, at_least=1)
        self.limit = Limit(self.limit.scope, rates_of(rate) or None, concurrency)
        return self

    def get_queue(self) -> Queue:
        """Give the queue its jobs go to: its own, or the default one."""
        queue = self.options.queue
        return queue if isinstance(queue, Queue) else default_queue()

    def get_stats(self) -> dict[str, Any]:
        """Tell how the task is set up, and how its queue is."""
        return {
            "task_name": self.task_name,
            "version": self.version,
            "priority": self.priority,
            "max_retries": self.max_retries,
            "timeout": self.timeout,
            "queue_stats": self.get_queue().get_stats(),
        }

    @property
    def queue(self) -> Queue | str | None:
        """The queue it was given, or the name of one in the default one; None for that."""
        return self.options.queue

    @property
    def queue_name(self) -> str:
        """Which of the named queues its jobs go to."""
        return self.options.queue_name

    @property
    def priority(self) -> int:
        """How urgent its jobs are: 0, 1 or 2."""
        return self.options.priority

    @property
    def max_retries(self) -> int | None:
        """Attempts after the first; None for what the queue says."""
        return self.options.max_retries

    @property
    def timeout(self) -> float | None:
        """Seconds an attempt may take."""
        return self.options.timeout

    def _job(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], at: datetime | None = None
    ) -> dict[str, Any]:
        """Describe a job by the arguments of `Queue.enqueue`."""
        positional, by_name = self._arguments.dump(args, kwargs)
        options = self.options
        payload = {
            "task": self.task_name,
            "version": self.version,
            "args": positional,
            "kwargs": by_name,
            "timeout": options.timeout,
            "retry_delay": options.retry_delay,
        }
        if at is not None:
            payload["scheduled_at"] = to_text(at)
        return {"payload": payload, "task": self.task_name, "run_at": at, **options.of_job()}

    def __reduce__(self) -> str:
        # By reference, as functions are pickled.
        return self._function.__qualname__

    def __repr__(self) -> str:
        return f"<task {self.task_name!r}, version {self.version}>"


@overload
def task(queue: Callable[P, R], /) -> Task[P, R]: ...


@overload
def task(
    queue: Queue | str | None = None,
    priority: int = 0,
    max_retries: int | None = None,
    rate_limit: Given = None,
    timeout: float | None = None,
    retry_delay: int = DEFAULT_RETRY_DELAY,
    on_success: Callable[..., object] | None = None,
    on_failure: Callable[..., object] | None = None,
    version: int = FIRST_VERSION,
    *,
    name: str | None = None,
    **options: Any,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...


def task(  # noqa: PLR0913 - the contract's
    queue: Any = None,
    priority: int = 0,
    max_retries: int | None = None,
    rate_limit: Given = None,
    timeout: float | None = None,
    retry_delay: int = DEFAULT_RETRY_DELAY,
    on_success: Callable[..., object] | None = None,
    on_failure: Callable[..., object] | None = None,
    version: int = FIRST_VERSION,
    *,
    name: str | None = None,
    **options: Any,
) -> Any:
    """Make a function one that workers can run: `.delay(...)` enqueues a call of it.

    Used as `@task` or `@task(...)`, on functions and coroutine functions. Calling the result still
    calls the function.

    - `queue`: where its jobs go, a Queue, or the name of one in the default one; None for that,
      opened when it is first used.
    - `priority`, `max_retries`, `retry_delay`, `timeout`: as for `Queue.enqueue`; so are, by
      keyword, `retry`, `pagina_id`, `unique_key`, `unique_for`, `keep_result`, `concurrency_key`,
      `rate_key` and `breaker`.
    - `rate_limit`: how many of its jobs start in what time, over all processes: "10/s", several
      such as "10/s, 1000/d", or a number for a minute. `concurrency`, by keyword: how many of them
      run at once. `queue.limits` can set others.
    - `on_success(result, task_name=...)` is called when a call is done, here or in a worker, and
      `on_failure(error, task_name=...)` when it has failed for good.
    - `version`: raised when arguments change in a way that jobs of before do not fit. The old
      function may stay beside the new one, under the same `name`, for the jobs that still wait.
    - `name`: what jobs carry; "module.function" by default. Jobs that wait keep the old one.

    A parameter `ctx` of the function is given the running job by the worker, and is left out by
    whoever enqueues.
    """
    function = queue if callable(queue) else None
    decorate = decorator(
        Task,
        queue=queue if function is None else None,
        priority=priority,
        max_retries=max_retries,
        rate_limit=rate_limit,
        timeout=timeout,
        retry_delay=retry_delay,
        on_success=on_success,
        on_failure=on_failure,
        version=version,
        name=name,
        **options,
    )
    return decorate if function is None else decorate(function)


def decorator(  # noqa: PLR0913 - the further arguments of `task`
    make: Callable[..., Task[..., Any]],
    *,
    name: str | None = None,
    version: int = FIRST_VERSION,
    rate_limit: Given = None,
    on_success: Callable[..., object] | None = None,
    on_failure: Callable[..., object] | None = None,
    concurrency: int | None = None,
    **options: Any,
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Give a decorator that has tasks made; the further arguments are those of `task`."""
    checks.whole("version", version, at_least=1)
    if name is not None and not _is_name(name):
        raise ConfigurationError(
            f"name={checks.shown(name)}: should be a str of 1 to {MAX_KEY} printable characters"
        )
    given, callbacks = TaskOptions.of(options), Callbacks(on_success, on_failure)

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        made = make(function, name or name_of(function), version, given, callbacks)
        tasks.add(made.limited(rate_limit, concurrency))
        return cast("Task[P, R]", made)

    return decorate


def _is_name(name: object) -> bool:
    return isinstance(name, str) and 1 <= len(name) <= MAX_KEY and name.isprintable()


def _call(call: object) -> tuple[Sequence[Any], Mapping[str, Any]]:
    match call:
        case (list() | tuple() as args, Mapping() as kwargs):
            return args, kwargs
    raise TypeError(f"{checks.shown(call)}: should be a pair of arguments, a tuple and a dict")


def _moment(when: object) -> datetime:
    """Read a moment; one without a time zone is taken as UTC."""
    try:
        if isinstance(when, str):
            return from_text(when)
        if isinstance(when, datetime):
            return from_text((when if when.tzinfo else when.replace(tzinfo=UTC)).isoformat())
    except (ValueError, OverflowError):
        pass
    raise InvalidJobError(
        f"{checks.shown(when)}: should be a datetime, or a text such as 2026-01-31T08:00:00Z"
    )
