"""Which queue tasks use that were not given one."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from queue_max import checks
from queue_max.exceptions import ConfigurationError
from queue_max.queue import Queue
from queue_max.workers.running import running_queue

_lock = threading.Lock()
_default: Queue | Callable[[], Queue] | None = None


def set_default_queue(queue: Queue | Callable[[], Queue] | None) -> None:
    """Let all tasks that were not given a queue use this one.

    A function is called when a task is enqueued, each time anew. None: one that is opened by the
    settings, when it is first used.
    """
    global _default
    if queue is not None and not isinstance(queue, Queue) and not callable(queue):
        raise ConfigurationError(f"queue={checks.shown(queue)}: should be a Queue, or give one")
    with _lock:
        _default = queue


@contextmanager
def default_queue_of_block(queue: Queue) -> Iterator[None]:
    """Let all tasks that were not given a queue use this one within the block."""
    before = _default
    set_default_queue(queue)
    try:
        yield
    finally:
        set_default_queue(before)


@contextmanager
def default_queue_where_none(queue: Queue) -> Iterator[None]:
    """Let all tasks that were not given a queue use this one within the block.

    A default queue that there is already stays; so does one that is set within the block.
    """
    global _default
    with _lock:
        is_first = _default is None
        if is_first:
            _default = queue
    try:
        yield
    finally:
        with _lock:
            if is_first and _default is queue:
                _default = None


def standing_default() -> Queue | None:
    """Give the default queue if there is one by now; none is opened for that."""
    with _lock:
        found = _default
    return found if found is None or isinstance(found, Queue) else found()


def default_queue() -> Queue:
    """Give the queue of tasks that were not given one; within a job, that of its worker."""
    global _default
    if (queue := running_queue()) is not None:
        return queue
    with _lock:
        if _default is None:
            _default = Queue()
        found = _default
    return found if isinstance(found, Queue) else found()
