"""For tests of programs that enqueue jobs: fixtures for pytest, and what to assert.

Nothing of it is loaded unless a `conftest.py` says

    pytest_plugins = ["queue_max.testing"]
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from queue_max import Job, JobStatus, Queue, Task, checks
from queue_max.tasks.binding import default_queue_of_block


@pytest.fixture
def job_queue() -> Iterator[Queue]:
    """A queue of its own for a test, which tasks without a queue use, too.

    Nothing runs by itself: `job_queue.drain()` runs what is due.
    """
    with Queue.in_memory() as queue, default_queue_of_block(queue):
        yield queue


@pytest.fixture
def immediate_queue() -> Iterator[Queue]:
    """A queue as `job_queue` is one, which runs tasks as soon as they are enqueued."""
    with Queue.in_memory(immediate=True) as queue, default_queue_of_block(queue):
        yield queue


def enqueued(queue: Queue, task: Task[..., Any] | str | None = None) -> list[Job]:
    """Give the jobs that wait, the oldest first: all, or those of a task, or of its name."""
    checks.instance("queue", queue, Queue, "a Queue")
    name = task.task_name if isinstance(task, Task) else task
    waiting = reversed(queue.list_jobs(JobStatus.PENDING, None))
    return [job for job in waiting if name is None or job.task == name]


def assert_enqueued(
    queue: Queue,
    task: Task[..., Any] | str | None = None,
    *args: Any,
    count: int | None = None,
    payload: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> list[Job]:
    """Assert that such jobs wait, at least one or exactly `count`; gives them.

    Of a task, those with these arguments, if any are given, however they were passed; of other
    jobs, those whose payload has all that is in `payload`.
    """
    __tracebackhide__ = True
    waiting = enqueued(queue, task)
    found = [job for job in waiting if _matches(job, task, args, kwargs, payload or {})]
    wanted = "at least 1" if count is None else str(count)
    if (len(found) != count) if count is not None else not found:
        what = [job.payload for job in waiting]
        raise AssertionError(f"{len(found)} such jobs wait, not {wanted}; there are {what}")
    return found


def _matches(
    job: Job,
    task: Task[..., Any] | str | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    payload: Mapping[str, Any],
) -> bool:
    if not payload.items() <= job.payload.items():
        return False
    if not args and not kwargs:
        return True
    if isinstance(task, Task):
        return task.is_called_with(job.payload, args, kwargs)
    return (job.payload.get("args"), job.payload.get("kwargs")) == (list(args), dict(kwargs))
