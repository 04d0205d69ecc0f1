"""`@task` of a Django project: its jobs go to the queue that `settings.QUEUE_MAX` describes."""

from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar, overload

from django.db import transaction

from queue_max import Queue, Task
from queue_max.contrib.django.conf import get_queue
from queue_max.tasks.task import decorator
from queue_max.workers.running import running_queue

P = ParamSpec("P")
R = TypeVar("R")


class DjangoTask(Task[P, R]):
    """A task of the project's queue, opened when it is first used."""

    def get_queue(self) -> Queue:
        """Give the queue its jobs go to: its own, or within a job that of its worker, or ours."""
        queue = self.options.queue
        return queue if isinstance(queue, Queue) else running_queue() or get_queue()

    def delay_on_commit(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Enqueue a call when the transaction is committed; at once where there is none."""
        transaction.on_commit(partial(self.delay, *args, **kwargs))


@overload
def task(queue: Callable[P, R], /) -> DjangoTask[P, R]: ...


@overload
def task(
    queue: Queue | str | None = None,
    priority: int = 0,
    max_retries: int | None = None,
    **options: Any,
) -> Callable[[Callable[P, R]], DjangoTask[P, R]]: ...


def task(
    queue: Any = None, priority: int = 0, max_retries: int | None = None, **options: Any
) -> Any:
    """Make a function a task of the project; used as `@task` or `@task(...)`.

    `queue` is the name of a queue in the project's, or another Queue. All further options are
    those of `queue_max.task`.
    """
    function = queue if callable(queue) else None
    decorate = decorator(
        DjangoTask,
        queue=queue if function is None else None,
        priority=priority,
        max_retries=max_retries,
        **options,
    )
    return decorate if function is None else decorate(function)
