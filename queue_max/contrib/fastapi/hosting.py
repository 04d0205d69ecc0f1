"""A queue for as long as an app runs, with workers of its own if that is asked for."""

import logging
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import anyio
import anyio.to_thread

from queue_max import checks
from queue_max.contrib.fastapi.errors import install_error_handlers
from queue_max.domain.queues import QueueChoice
from queue_max.exceptions import ConfigurationError, QueueError
from queue_max.queue import Queue
from queue_max.tasks.binding import default_queue_where_none, standing_default
from queue_max.workers.async_worker import AsyncWorker
from queue_max.workers.base import BaseWorker, Queues
from queue_max.workers.pool import WorkerPool
from queue_max.workers.repertoire import ProcessFunction, check_function
from queue_max.workers.worker import Worker

logger = logging.getLogger(__name__)

STOP_TIMEOUT = 30.0
"""Seconds that running jobs have when the app ends, if nobody says otherwise."""

QueueSource = Queue | Callable[[], Queue] | None
"""A queue that the program opens and closes; a function that opens one for the life of the app; or
None, for the default queue of tasks, or one that the settings describe where there is none."""


class Hosting:
    """Opens the queue of an app, starts workers, stops and closes them, once.

    All of it may wait for the disk or for jobs, and happens in a thread beside the event loop.
    Each step back does no harm where there is nothing to take back.
    """

    def __init__(
        self,
        queue: QueueSource = None,
        workers: int = 0,
        process_function: ProcessFunction | None = None,
        *,
        concurrency: int | None = None,
        queues: Queues | None = None,
        stop_timeout: float | None = STOP_TIMEOUT,
    ) -> None:
        if queue is not None and not isinstance(queue, Queue) and not callable(queue):
            raise ConfigurationError(f"queue={checks.shown(queue)}: should be a Queue, or give one")
        self._source = queue
        self._workers = checks.whole("workers", workers, at_least=0)
        if process_function is not None:
            check_function("process_function", process_function)
        self._function = process_function
        if concurrency is not None:
            checks.whole("concurrency", concurrency, at_least=1)
        self._concurrency = concurrency
        self._queues = None if queues is None else QueueChoice.of(queues)
        if stop_timeout is not None:
            checks.seconds("stop_timeout", stop_timeout, zero=True)
        self._stop_timeout = stop_timeout
        self._opened = ExitStack()
        self._pool: WorkerPool | None = None

    def afresh(self) -> "Hosting":
        """Give the same for another life: an app may be started again when it has ended."""
        return Hosting(
            self._source,
            self._workers,
            self._function,
            concurrency=self._concurrency,
            queues=self._queues,
            stop_timeout=self._stop_timeout,
        )

    async def open(self, app: Any) -> Queue:
        """Open the queue, and let the app have it as `app.state.queue`."""
        queue: Queue = await _to_the_end(self._open)
        state = getattr(app, "state", None)
        if state is not None:
            state.queue = queue
            self._opened.callback(_forget, state, queue)
        if hasattr(app, "exception_handlers"):
            install_error_handlers(app)
        return queue

    async def start(self) -> None:
        """Start the workers."""
        if self._pool is not None:
            await _to_the_end(self._pool.start_all)

    async def stop(self) -> None:
        """Let running jobs end; those that take longer than they may are given back."""
        await _to_the_end(self._stop)

    async def close(self) -> None:
        """Stop, and close the queue if it was opened for the app."""
        await _to_the_end(self._close)

    def _open(self) -> Queue:
        queue = self._queue()
        self._opened.enter_context(default_queue_where_none(queue))
        if self._workers:
            numbers = range(1, self._workers + 1)
            self._pool = WorkerPool([self._worker(number, queue) for number in numbers])
            logger.info(
                "this process runs %d worker(s) of %s, as each process of the server does",
                self._workers,
                queue.services.folder,
            )
        return queue

    def _worker(self, number: int, queue: Queue) -> BaseWorker:
        name = f"{socket.gethostname()}-{os.getpid()}-web-{number}"
        if self._concurrency is None:
            return Worker(name, self._function, queue, queues=self._queues)
        return AsyncWorker(
            name, self._function, queue, concurrency=self._concurrency, queues=self._queues
        )

    def _queue(self) -> Queue:
        """Give the queue; one that is opened here is closed in the end."""
        if isinstance(self._source, Queue):
            return self._source
        if self._source is None and (found := standing_default()) is not None:
            return found
        made = Queue() if self._source is None else self._source()
        checks.instance("queue", made, Queue, "a function that gives a Queue")
        return self._opened.enter_context(closing(made))

    def _stop(self) -> None:
        pool, self._pool = self._pool, None
        if pool is None or pool.stop_all(self._stop_timeout):
            return
        for worker in pool.workers:
            try:
                taken = worker.hand_back()
                logger.warning("%s: %d job(s) took too long to end", worker.worker_id, taken)
            except QueueError as error:
                logger.error("%s: its job waits for its lease: %s", worker.worker_id, error)

    def _close(self) -> None:
        try:
            self._stop()
        finally:
            self._opened.close()


def _forget(state: Any, queue: Queue) -> None:
    if getattr(state, "queue", None) is queue:
        del state.queue


async def _to_the_end(step: Callable[[], Any]) -> Any:
    """Do something in a thread, to its end even if the caller is cancelled meanwhile."""
    with anyio.CancelScope(shield=True):
        return await anyio.to_thread.run_sync(step)
