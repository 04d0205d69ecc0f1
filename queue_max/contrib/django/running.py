"""Django Tasks as workers run them, and where a process finds the one that a job names."""

import inspect
import json
import traceback
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from types import ModuleType
from typing import Any

from asgiref.sync import sync_to_async
from django.apps import apps
from django.utils.module_loading import import_string

from queue_max import Job, JobStatus, Permanent, Queue, RunningJob
from queue_max.contrib.django.conf import get_queue
from queue_max.contrib.django.connections import tidy_here
from queue_max.contrib.django.results import MARK, result_of
from queue_max.contrib.django.shim import (
    Task,
    TaskContext,
    TaskResult,
    normalize_json,
    task_finished,
    task_started,
)
from queue_max.domain.attempts import Attempt
from queue_max.domain.clock import to_text, utc_now
from queue_max.domain.failures import with_stack
from queue_max.domain.payload import result_to_json
from queue_max.domain.tasks import FIRST_VERSION, gate_of
from queue_max.limits.scopes import Limit, of_task
from queue_max.workers.repertoire import tasks


class WorkerTask:
    """A Django Task under its module path, for workers; it sends the signals of its backend."""

    version = FIRST_VERSION
    timeout = None

    def __init__(self, task: Task, backend: type[Any]) -> None:
        self.task = task
        self.task_name = task.module_path
        self.queue_name = task.queue_name
        self.import_name = task.func.__module__
        self.limit = Limit(of_task(self.task_name))
        self.is_async = inspect.iscoroutinefunction(task.func)
        self._backend = backend

    @property
    def origin(self) -> tuple[str, str]:
        """Where the function stands: its file, and its name there."""
        return self.task.func.__code__.co_filename, self.task.func.__qualname__

    def declare(self, queue: Queue) -> None:
        """Store no schedule: it has none."""

    def run(self, payload: Mapping[str, Any], running: RunningJob) -> Any:
        """Call the function with the arguments of a job's payload."""
        if self.is_async:
            return self._run_on_loop(payload, running)
        args = self._begin(payload, running)
        return self._as_json(self.task.func(*args, **payload["kwargs"]))

    async def _run_on_loop(self, payload: Mapping[str, Any], running: RunningJob) -> Any:
        args = await sync_to_async(self._begin)(payload, running)
        return self._as_json(await self.task.func(*args, **payload["kwargs"]))

    def _begin(self, payload: Mapping[str, Any], running: RunningJob) -> Sequence[Any]:
        """Tell that the job has begun; gives the positional arguments of its function."""
        job = running.job
        # Its first attempt has none before it.
        before = running.queue.get_attempts(job) if job.fence > 1 else []
        result = self._result(job, before)
        task_started.send(self._backend, task_result=result)
        context = [TaskContext(task_result=result)] if self.task.takes_context else []
        return [*context, *payload["args"]]

    def _as_json(self, value: Any) -> Any:
        """Give what the function returned in a form that JSON has; else no attempt would help."""
        try:
            normal = normalize_json(value)
            result_to_json(normal)
        except (TypeError, ValueError) as error:
            stack = "".join(traceback.format_exception(error))
            refusal = Permanent(f"what {self.task_name} returned: {error}")
            raise with_stack(refusal, stack) from error
        return normal

    def succeeded(self, result: Any, job: Job | None = None) -> None:
        """Tell that a job is done."""
        if job is None:
            return
        ended = _ended(job, JobStatus.COMPLETED)
        ended.result = json.dumps(result)
        with tidy_here():
            before = get_queue().get_attempts(job) if job.fence > 1 else []
            task_finished.send(self._backend, task_result=self._result(ended, before))

    def failed(self, error: BaseException, job: Job | None = None) -> None:
        """Tell that a job has failed for good."""
        if job is None:
            return
        with tidy_here():
            attempts = get_queue().get_attempts(job)
            result = self._result(_ended(job, JobStatus.FAILED), attempts)
            try:
                raise error
            except BaseException:  # Django's log takes the traceback from here
                task_finished.send(self._backend, task_result=result)

    def _result(self, job: Job, attempts: Sequence[Attempt]) -> TaskResult:
        return result_of(job, attempts, self.task, job.payload[MARK]["backend"])


def learn(task: Task, backend: type[Any]) -> None:
    """Let workers of this process know a task, if they do not yet."""
    known = tasks.get(gate_of(task.module_path))
    if not isinstance(known, WorkerTask) or known.task.func is not task.func:
        tasks.add(WorkerTask(task, backend))


def learn_all(modules: Iterable[ModuleType], backend: type[Any]) -> None:
    """Let workers know all Django Tasks of some modules, whatever backend they were made for."""
    for module in modules:
        for value in list(vars(module).values()):
            if isinstance(value, Task):
                learn(value, backend)


def task_named(path: str, backend: type[Any]) -> Task:
    """Give the task of that module path; in the place of one that is no more, a stand-in.

    No module is imported for it but those of installed apps: the path comes from a database.
    """
    known = tasks.get(gate_of(path))
    if isinstance(known, WorkerTask):
        return known.task
    if apps.get_containing_app_config(path) is not None:
        try:
            found = import_string(path)
        except ImportError:
            found = None
        if isinstance(found, Task):
            learn(found, backend)
            return found
    return _stand_in(path)


def _stand_in(path: str) -> Task:
    """Make a task that can be looked at, and not be run."""

    def gone(*args: Any, **kwargs: Any) -> None:
        raise LookupError(f"the task {path} is no more")

    gone.__module__, _, gone.__qualname__ = path.rpartition(".")
    gone.__name__ = gone.__qualname__
    made = object.__new__(Task)
    blank = {"priority": 0, "backend": "", "queue_name": "", "run_after": None}
    for name, value in (blank | {"func": gone, "takes_context": False}).items():
        object.__setattr__(made, name, value)
    return made


def _ended(job: Job, status: JobStatus) -> Job:
    ended = copy(job)
    ended.status = status
    ended.completed_at = to_text(utc_now())
    return ended
