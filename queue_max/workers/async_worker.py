"""AsyncWorker: many coroutines at once, on an event loop of its own."""

import asyncio
import threading
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import Future, wait
from contextvars import copy_context
from functools import partial
from typing import Any

from queue_max import checks
from queue_max.domain.job import Job, JobResult
from queue_max.queue import Queue
from queue_max.workers.base import STOP_GRACE, BaseWorker, Queues
from queue_max.workers.company import in_this_process
from queue_max.workers.execution import canceller, failed, leave_if_forked, outcome_of, run
from queue_max.workers.repertoire import ProcessFunction
from queue_max.workers.running import RunningJob

CONCURRENCY = 10

LOOK_EVERY = 0.1
"""Seconds between two looks whether the worker has to leave although jobs run."""

LONGEST_GOODBYE = 1.0
"""Seconds that coroutines have which were given up, when the loop comes to its end."""


class AsyncWorker(BaseWorker):
    """Runs up to `concurrency` jobs at once, as coroutines on one event loop.

    The arguments are those of `Worker`. Callbacks may be coroutine functions. A function that is
    none runs in a thread, so that it does not hold up the others; and so does all work on the
    database. After `job_timeout` seconds, or when it is called off, a coroutine is cancelled; one
    that goes on for `stop_grace` seconds more keeps no other from its place.
    """

    def __init__(  # noqa: PLR0913 - the contract's
        self,
        worker_id: str,
        process_function: ProcessFunction | None = None,
        queue: Queue | None = None,
        on_job_start: Callable[..., object] | None = None,
        on_job_complete: Callable[..., object] | None = None,
        on_job_error: Callable[..., object] | None = None,
        poll_interval: float = 1.0,
        job_timeout: float | None = None,
        *,
        concurrency: int = CONCURRENCY,
        stop_grace: float = STOP_GRACE,
        queues: Queues | None = None,
    ) -> None:
        self.places = checks.whole("concurrency", concurrency, at_least=1, at_most=10_000)
        super().__init__(
            worker_id,
            process_function,
            queue,
            on_job_start,
            on_job_complete,
            on_job_error,
            poll_interval,
            job_timeout,
            stop_grace=stop_grace,
            queues=queues,
        )

    def _more_options(self) -> dict[str, Any]:
        return super()._more_options() | {"concurrency": self.places}

    def _reset(self) -> None:
        super()._reset()
        self._running: dict[RunningJob, None] = {}
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._callbacks: set[Future[None]] = set()

    def running(self) -> Collection[RunningJob]:
        """Give the jobs that run just now, the first one first."""
        with self._changed:
            return list(self._running)

    def request_stop(self) -> None:
        """Take no further job; returns at once, what runs goes on."""
        super().request_stop()
        with self._changed:
            self._changed.notify_all()

    def _work(self) -> None:
        self._loop = loop = asyncio.new_event_loop()
        thread = threading.Thread(
            target=_run_loop, args=[loop], name=f"queue-max-{self.worker_id}-loop", daemon=True
        )
        thread.start()
        try:
            super()._work()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(LONGEST_GOODBYE)

    def _run_next(self) -> bool:
        """Take a job and begin it, a suspect alone in this process; False when none may start."""
        if not self._has_place():
            return True
        in_this_process.join(before_waiting=lambda: None)
        job = None
        try:
            if not self._stopping.is_set():
                job = self.dispatcher.take(self.worker_id, self.poll_interval)
        finally:
            if job is None or job.is_suspect:
                in_this_process.leave()
        if job is None:
            return False
        if job.is_suspect:
            self._be_alone()
        self._start(job)
        return True

    def _be_alone(self) -> None:
        """Wait until nothing else runs, and see to it that what has ended does not run again."""
        in_this_process.join_alone()
        try:
            self.dispatcher.flush()
        except BaseException:
            in_this_process.leave()
            raise

    def _has_place(self) -> bool:
        """Wait until one more may run; False when none is to be begun any more."""
        with self._changed:
            self._changed.wait_for(
                lambda: len(self._running) < self.places or self._stopping.is_set()
            )
        return not self._stopping.is_set()

    def _start(self, job: Job) -> None:
        self._services.leases.start(job.lease)
        self._services.dispatch.tell_started(job)
        running = self._prepare(job)
        with self._changed:
            self._running[running] = None
        self._expect(running)
        self._on_loop(self._spawn, running)

    def _spawn(self, running: RunningJob) -> None:
        task = asyncio.get_running_loop().create_task(self._process(running))
        self._tasks.add(task)  # the loop itself would let it be collected
        task.add_done_callback(self._tasks.discard)

    async def _process(self, running: RunningJob) -> None:
        running.begin()
        job = running.job
        try:
            if self._on_job_start is not None:
                await self._account.tell_here(
                    self._on_job_start, job_id=job.id, payload=job.payload
                )
            outcome = await self._call(running)
        except BaseException as error:  # user code: even SystemExit is the job's end, not ours
            outcome = failed(running, error)
        leave_if_forked(running, outcome)
        if running.end():
            self._finish(running, outcome)
            self._replace(running)

    async def _call(self, running: RunningJob) -> JobResult:
        if self.repertoire.is_async(running.job):
            running.on_stop(canceller())
            return outcome_of(running, await self.repertoire.call(running))
        work = partial(copy_context().run, run, self.repertoire.call, running)
        return await _in_thread(work, f"queue-max-{self.worker_id}-function-{running.key}")

    def _replace(self, running: RunningJob) -> None:
        self._services.leases.stop(running.job.lease)
        in_this_process.leave()
        with self._changed:
            self._running.pop(running)
            self._changed.notify_all()

    def _end_jobs(self) -> None:
        with self._changed:
            while self._running and not self._leaving.is_set():
                self._changed.wait(LOOK_EVERY)

    def _settle(self) -> None:
        super()._settle()
        while self._callbacks and not self._leaving.is_set():
            wait(self._callbacks.copy(), LOOK_EVERY)

    def _wait_for(self, answer: Coroutine[Any, Any, None]) -> object:
        assert self._loop is not None  # noqa: S101 - it lasts until all callbacks have ended
        future = asyncio.run_coroutine_threadsafe(answer, self._loop)
        self._callbacks.add(future)
        future.add_done_callback(self._callbacks.discard)
        return future

    def _on_loop(self, function: Callable[[RunningJob], None], running: RunningJob) -> None:
        assert self._loop is not None  # noqa: S101 - jobs are begun while it runs
        self._loop.call_soon_threadsafe(function, running)


async def _in_thread(work: Callable[[], JobResult], name: str) -> JobResult:
    """Wait for what a thread of its own does: one that is given up is in nobody's way."""
    outcome: Future[JobResult] = Future()
    outcome.set_running_or_notify_cancel()  # nobody can call off what a thread does
    threading.Thread(target=lambda: outcome.set_result(work()), name=name, daemon=True).start()
    return await asyncio.wrap_future(outcome)


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is stopped; coroutines that were given up are cancelled once more."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        if left := asyncio.all_tasks(loop):
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.wait(left, timeout=LONGEST_GOODBYE))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
