"""Jobs of Django Tasks as Django sees them: statuses, results, errors, attempts."""

import builtins
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from django.conf import settings
from django.utils import timezone

from queue_max import Job, JobStatus, exceptions
from queue_max.contrib.django.shim import Task, TaskError, TaskResult, TaskResultStatus
from queue_max.domain.attempts import Attempt
from queue_max.domain.clock import from_text
from queue_max.domain.failures import WORKER_DIED

MARK = "django"
"""In the payload of a job of a Django Task: what Django wants to have back."""

_STATUSES = {
    JobStatus.PENDING: TaskResultStatus.READY,
    JobStatus.SCHEDULED: TaskResultStatus.READY,
    JobStatus.PROCESSING: TaskResultStatus.RUNNING,
    JobStatus.COMPLETED: TaskResultStatus.SUCCESSFUL,
    JobStatus.FAILED: TaskResultStatus.FAILED,
    JobStatus.CANCELLED: TaskResultStatus.FAILED,
}

_NAME = r"[A-Za-z_][\w.<>]*"
_UNKNOWN_WORKER = "unknown"


def result_of(
    job: Job, attempts: Sequence[Attempt], task: Task, backend: str, result_id: str | None = None
) -> TaskResult:
    """Give a job, and the failed attempts at it, as a TaskResult."""
    about = job.payload[MARK]
    starts = [each.started_at for each in attempts] + [job.started_at]
    result = TaskResult(
        task=task_of_job(task, job, backend),
        id=result_id or job.key,
        status=_STATUSES[job.status],
        enqueued_at=moment(about["enqueued_at"]),
        started_at=moment(next(filter(None, starts), None)),
        last_attempted_at=moment(job.started_at or starts[0]),
        finished_at=moment(job.completed_at) if job.is_terminal else None,
        args=job.payload["args"],
        kwargs=job.payload["kwargs"],
        backend=backend,
        errors=[_error(each) for each in attempts],
        worker_ids=_workers(job, attempts),
    )
    if job.result is not None:
        object.__setattr__(result, "_return_value", json.loads(job.result))
    return result


def task_of_job(task: Task, job: Job, backend: str) -> Task:
    """Give a task as it was when a job of it was enqueued.

    Not checked again: the queue may have been taken out of QUEUES meanwhile.
    """
    about = job.payload[MARK]
    run_after = about["run_after"]
    return like(
        task,
        priority=about["priority"],
        queue_name=job.queue,
        backend=backend,
        run_after=None if run_after is None else datetime.fromisoformat(run_after),
    )


def like(task: Task, **changes: Any) -> Task:
    """Make a copy of a task with some fields changed, unchecked."""
    made = object.__new__(type(task))
    for field in fields(task):
        object.__setattr__(made, field.name, changes.get(field.name, getattr(task, field.name)))
    return made


def moment(text: str | None) -> datetime | None:
    """Read a moment, as the project has them: aware, or in its time zone."""
    if text is None:
        return None
    found = from_text(text)
    return found if settings.USE_TZ else timezone.make_naive(found)


def _workers(job: Job, attempts: Sequence[Attempt]) -> list[str]:
    """Name the worker of each attempt; of the oldest ones, if there were many, none is kept."""
    workers = [each.worker_id for each in attempts]
    if job.is_processing or job.is_completed:
        workers.append(job.worker_id)
    missing = job.attempts - len(workers)
    return [each or _UNKNOWN_WORKER for each in [None] * missing + workers]


def _error(attempt: Attempt) -> TaskError:
    path = class_path(attempt.error_type, attempt.error_stack)
    stack = attempt.error_stack or f"{path}: {attempt.error}\n"
    return TaskError(exception_class_path=path, traceback=stack)


def class_path(error_type: str, stack: str | None) -> str:
    """Tell where the class of an error is to be found, by its name and the traceback.

    That ends with the class, by its full name but for builtins, and the message.
    """
    if error_type == WORKER_DIED:
        return _path_of(exceptions.ProcessDiedError)
    for name in (rf"(?:{_NAME}\.)?{re.escape(error_type)}", _NAME):
        found = re.findall(rf"^({name})(?::|$)", stack or "", re.MULTILINE)
        if found:
            return _full(found[-1])
    ours = getattr(exceptions, error_type, None)
    return _full(error_type) if ours is None else _path_of(ours)


def _full(name: str) -> str:
    return f"builtins.{name}" if hasattr(builtins, name) else name


def _path_of(kind: type[BaseException]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def about(task: Task, backend: str, enqueued_at: str) -> Mapping[str, Any]:
    """Give what the payload of a job carries for Django."""
    return {
        "backend": backend,
        "priority": task.priority,
        "run_after": None if task.run_after is None else task.run_after.isoformat(),
        "enqueued_at": enqueued_at,
    }
