"""The backend for Django Tasks: their jobs lie in the project's queue."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from asgiref.sync import sync_to_async
from django.apps import apps
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.utils import timezone

from queue_max import Job, RetryPolicy
from queue_max.contrib.django.conf import get_queue
from queue_max.contrib.django.options import BackendOptions, check_of_job, check_queues
from queue_max.contrib.django.results import MARK, about, moment, result_of
from queue_max.contrib.django.running import learn, task_named
from queue_max.contrib.django.shim import (
    BaseTaskBackend,
    InvalidTask,
    Task,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_enqueued,
)
from queue_max.domain.attempts import Attempt
from queue_max.domain.clock import to_text, utc_now
from queue_max.domain.identity import new_uid
from queue_max.domain.queues import queue_name
from queue_max.domain.tasks import FIRST_VERSION
from queue_max.exceptions import (
    ConfigurationError,
    InvalidJobError,
    JobNotFoundError,
    ShardNotFoundError,
)

_OF_TASK = ("max_retries", "retry_delay", "retry", "timeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueMaxTask(Task):
    """A Django Task with options of its own, which go before those of its backend."""

    max_retries: int | None = None
    retry_delay: int | None = None
    retry: RetryPolicy | None = None
    timeout: float | None = None


class QueueMaxBackend(BaseTaskBackend):
    """Stores tasks in the queue of `settings.QUEUE_MAX`; `manage.py queue_worker` runs them."""

    task_class = QueueMaxTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        self._queues = params.get("QUEUES", [])

    def validate_task(self, task: Task) -> None:
        """Raise InvalidTask for one that cannot be run; workers of this process know it then."""
        super().validate_task(task)
        try:
            check_of_job(_options_of(task))
            queue_name(task.queue_name)
            learn(task, type(self))
        except ConfigurationError as error:
            raise InvalidTask(str(error)) from error

    def enqueue(self, task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskResult:
        """Store a job; its id is the key of the job.

        With `enqueue_on_commit`, within a transaction, it is stored when that is committed.
        """
        self.validate_task(task)
        result = self._ready(task, args, kwargs)
        if self._options.enqueue_on_commit and transaction.get_connection().in_atomic_block:
            uid = new_uid()
            object.__setattr__(result, "id", f"0-{uid}")
            transaction.on_commit(partial(self._enqueue, result, uid))
        else:
            self._enqueue(result)
        return result

    async def aenqueue(
        self, task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> TaskResult:
        """As `enqueue`; neither the event loop nor other synchronous code is held up."""
        if self._options.enqueue_on_commit:  # the transaction belongs to a thread
            return await sync_to_async(self.enqueue)(task, args, kwargs)
        self.validate_task(task)
        result = self._ready(task, args, kwargs)
        await asyncio.to_thread(self._store, result)
        await sync_to_async(self._tell)(result)
        await asyncio.to_thread(self._run_at_once, result)
        return result

    def get_result(self, result_id: str) -> TaskResult:
        """Read a result; raises TaskResultDoesNotExist where there is none, or no more."""
        try:
            job, attempts = _read(result_id)
        except (InvalidJobError, JobNotFoundError, ShardNotFoundError):
            raise TaskResultDoesNotExist(result_id) from None
        if MARK not in job.payload:
            raise TaskResultDoesNotExist(result_id)
        task = task_named(str(job.task), type(self))
        return result_of(job, attempts, task, self.alias, result_id)

    async def aget_result(self, result_id: str) -> TaskResult:
        """As `get_result`; the event loop is not held up."""
        return await asyncio.to_thread(self.get_result, result_id)

    def check(self, **_: Any) -> Iterable[CheckMessage]:
        """Check OPTIONS and QUEUES."""
        name = f"TASKS[{self.alias!r}]"
        for read, value, key, number in (
            (BackendOptions.of, self.options, "OPTIONS", 5),
            (check_queues, self._queues, "QUEUES", 6),
        ):
            try:
                read(value)
            except ConfigurationError as error:
                yield Error(f"{name}[{key!r}]: {error}", id=f"queue_max.E00{number}")
        if not apps.is_installed("queue_max.contrib.django"):
            yield Warning(
                f"{name}: queue_max.contrib.django is not installed.",
                hint="Add it to INSTALLED_APPS: it brings `manage.py queue_worker`.",
                id="queue_max.W001",
            )

    @cached_property
    def _options(self) -> BackendOptions:
        try:
            return BackendOptions.of(self.options)
        except ConfigurationError as error:
            raise ImproperlyConfigured(f"TASKS[{self.alias!r}]['OPTIONS']: {error}") from error

    def _ready(self, task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskResult:
        return TaskResult(
            task=task,
            id="",
            status=TaskResultStatus.READY,
            enqueued_at=None,
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )

    def _enqueue(self, result: TaskResult, uid: str | None = None) -> None:
        self._store(result, uid)
        self._tell(result)
        self._run_at_once(result)

    def _store(self, result: TaskResult, uid: str | None = None) -> None:
        """Store the job of a result, and note in this when that was."""
        queue, now = get_queue(), to_text(utc_now())
        handle = queue.services.intake.submit(self._job(result, now), uid=uid)
        if uid is None:
            object.__setattr__(result, "id", handle.key)
        object.__setattr__(result, "enqueued_at", moment(now))

    def _tell(self, result: TaskResult) -> None:
        task_enqueued.send(type(self), task_result=result)

    def _run_at_once(self, result: TaskResult) -> None:
        queue = get_queue()
        if queue.immediate:
            queue.drain()
            result.refresh()

    def _job(self, result: TaskResult, now: str) -> dict[str, Any]:
        """Describe the job of a result by the arguments of `Queue.enqueue`."""
        task = result.task
        return {
            "payload": {
                "task": task.module_path,
                "version": FIRST_VERSION,
                "args": result.args,
                "kwargs": result.kwargs,
                MARK: about(task, self.alias, now),
            },
            "task": task.module_path,
            "queue": task.queue_name,
            "priority": _priority(task.priority),
            "run_at": _aware(task.run_after),
            **self._options.of_job(),
            **_options_of(task),
        }


def _options_of(task: Task) -> dict[str, Any]:
    """Give the options a task has of its own, as arguments of `Queue.enqueue`."""
    found = {name: getattr(task, name, None) for name in _OF_TASK}
    return {name: value for name, value in found.items() if value is not None}


def _priority(priority: int) -> int:
    """Give one of our three priorities: those below 0, 0, and those above."""
    return 1 + (priority > 0) - (priority < 0)


def _aware(run_after: Any) -> Any:
    """Give a moment with a time zone: that of the project, where it has none."""
    if run_after is None or timezone.is_aware(run_after):
        return run_after
    return timezone.make_aware(run_after)


def _read(result_id: str) -> tuple[Job, Sequence[Attempt]]:
    """Read a job with its failed attempts, as they are at one moment."""
    queue = get_queue()
    job = queue.get_job(result_id)
    while True:
        attempts = queue.get_attempts(job) if job.fence > 0 else []
        again = queue.get_job(job.key)
        if (again.fence, again.status) == (job.fence, job.status):
            return job, attempts
        job = again
