"""Worker: one thread that takes jobs and runs them, one after the other."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from datetime import datetime
from enum import StrEnum
from typing import Any, Self, TypeVar

from queue_max import checks, forking
from queue_max.domain.clock import to_text, utc_now
from queue_max.domain.job import Job, Lease
from queue_max.exceptions import (
    ConfigurationError,
    LeaseLostError,
    QueueClosedError,
    QueueError,
)
from queue_max.queue import Queue
from queue_max.workers.company import in_this_process
from queue_max.workers.execution import ProcessFunction, run
from queue_max.workers.outcomes import Account
from queue_max.workers.running import RunningJob
from queue_max.workers.upkeep import Upkeep

logger = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_OUTAGE_PAUSE = 10.0
"""Seconds between two tries, at most, while the database does not answer."""


class WorkerState(StrEnum):
    """Where a worker is in its life."""

    INITIALIZED = "initialized"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    ERROR = "error"


class Worker:
    """Runs `process_function(payload)` for one job after the other, on a thread of its own.

    - `queue`: None opens one by the settings.
    - `on_job_start(worker_id, job_id, payload)`, `on_job_complete(worker_id, job_id, result)`,
      `on_job_error(worker_id, job_id, error, permanent)` are called by keyword; an error of
      theirs is logged and harms nobody.
    - `poll_interval`: seconds between two looks at an empty queue.
    - `job_timeout`: seconds after which a job counts as failed. A thread cannot be ended: the
      function may go on, unseen, while the worker takes the next job.

    An exception of any kind in the function is the job's failure, never the worker's end; the
    function may be a coroutine function. Errors of the database are logged and waited out.
    """

    def __init__(  # noqa: PLR0913 - the contract's
        self,
        worker_id: str,
        process_function: ProcessFunction,
        queue: Queue | None = None,
        on_job_start: Callable[..., object] | None = None,
        on_job_complete: Callable[..., object] | None = None,
        on_job_error: Callable[..., object] | None = None,
        poll_interval: float = 1.0,
        job_timeout: float | None = None,
    ) -> None:
        if not callable(process_function):
            raise ConfigurationError(f"process_function={process_function!r}: cannot be called")
        checks.text("worker_id", worker_id)
        checks.seconds("poll_interval", poll_interval)
        if job_timeout is not None:
            checks.seconds("job_timeout", job_timeout)
        self.worker_id = worker_id
        self.process_function = process_function
        self.queue = Queue() if queue is None else queue
        self.poll_interval = poll_interval
        self.job_timeout = job_timeout
        self._on_job_start = on_job_start
        self._on_job_complete = on_job_complete
        self._on_job_error = on_job_error
        self._services = self.queue.services
        self._reset()
        forking.in_child(self._reset)

    def _reset(self) -> None:
        """Begin without a thread: at first, and in a child of fork."""
        self._state = WorkerState.INITIALIZED
        self._lock = threading.Lock()
        self._is_working = False
        self._stopping = threading.Event()
        self._leaving = threading.Event()
        self._thread: threading.Thread | None = None
        self._job: Job | None = None
        self._account = Account(
            self.worker_id, self._services, self._on_job_complete, self._on_job_error
        )
        self._charged: Lease | None = None
        self._started_at: datetime | None = None

    @property
    def state(self) -> str:
        """The state as a plain string."""
        return str(self._state)

    @property
    def is_running(self) -> bool:
        """Whether the worker takes jobs, or finishes its last one."""
        return self._is_working

    def copy(self, worker_id: str) -> Self:
        """Make another worker of the same kind, with all options, under another name."""
        return type(self)(
            worker_id,
            self.process_function,
            self.queue,
            self._on_job_start,
            self._on_job_complete,
            self._on_job_error,
            self.poll_interval,
            self.job_timeout,
        )

    def start(self) -> None:
        """Begin to take jobs, or go on after a stop was asked for; harmless when it runs."""
        with self._lock:
            self._stopping.clear()
            self._leaving.clear()
            if self._is_working:
                self._state = WorkerState.RUNNING
                return
            self._is_working = True
            self._state = WorkerState.STARTING
            self._started_at = utc_now()
            self._thread = threading.Thread(
                target=self._work, name=f"queue-max-{self.worker_id}", daemon=True
            )
            self._thread.start()

    def request_stop(self) -> None:
        """Take no further job; returns at once, the running job goes on."""
        with self._lock:
            self._stopping.set()
            if self._is_working:
                self._state = WorkerState.STOPPING
        self._services.dispatcher.wake()

    def stop(self, timeout: float | None = 10.0) -> bool:
        """Take no further job and wait for the running one.

        False when it still runs after `timeout` seconds (None: wait for ever). The state is then
        "error" until the job ends; its outcome is stored, if the process lives as long.
        """
        self.request_stop()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return thread is None
        thread.join(timeout)
        with self._lock:
            if self._is_working:
                self._state = WorkerState.ERROR
        return not thread.is_alive()

    def hand_back(self) -> bool:
        """Give the running job back to the queue: for a process that has to leave at once.

        What the function still does counts no more. False when no job was running.
        """
        self.request_stop()
        self._leaving.set()
        job = self._job
        with suppress(QueueError):
            self._services.dispatcher.flush()
            self._services.dispatcher.give_all_back()
        if job is None:
            return False
        try:
            self._services.retry.hand_back(job, f"worker {self.worker_id} was told to leave")
        except LeaseLostError:
            return False
        return True

    def get_current_job(self) -> Job | None:
        """Give the job that runs now."""
        return self._job

    def get_stats(self) -> dict[str, Any]:
        """Tell what the worker does and has done.

        `processed` counts jobs done, `failed` those given up, `retried` failed attempts that are
        followed by another; `lost` counts outcomes that came after the lease was over.
        """
        job = self._job
        lifetime = (utc_now() - self._started_at).total_seconds() if self._started_at else 0.0
        per_second = self._account.processed / lifetime if lifetime else 0.0
        renewed = self._services.leases.last_renewal
        return {
            "worker_id": self.worker_id,
            "state": self.state,
            "is_running": self.is_running,
            "processed": self._account.processed,
            "failed": self._account.failed,
            "retried": self._account.retried,
            "lost": self._account.lost,
            "started_at": to_text(self._started_at) if self._started_at else None,
            "last_heartbeat_at": to_text(renewed) if renewed else None,
            "total_runtime_seconds": lifetime,
            "throughput_jobs_per_hour": per_second * 3600,
            "uptime_seconds": lifetime if self.is_running else 0.0,
            "current_job_id": job.id if job else None,
        }

    def _work(self) -> None:
        upkeep = Upkeep.of(self.queue)
        upkeep.join()
        try:
            while not self._ends(WorkerState.STOPPED):
                self._take_jobs()
                self._be_charged_for_none()
                self._settle()
        except BaseException:
            logger.exception("worker %s ended by an error of its own", self.worker_id)
            self._stopping.set()
            self._ends(WorkerState.ERROR)
        finally:
            upkeep.leave()

    def _ends(self, state: WorkerState) -> bool:
        """Come to the end, unless the worker was started again meanwhile."""
        with self._lock:
            self._is_working = not self._stopping.is_set()
            self._state = WorkerState.RUNNING if self._is_working else state
            return not self._is_working

    def _take_jobs(self) -> None:
        outage = 0.0
        while not self._stopping.is_set():
            try:
                if not self._run_next():
                    self._services.dispatcher.wait(self.poll_interval, self._stopping)
            except QueueClosedError:
                self._stopping.set()
                return
            except Exception as error:
                outage = min(max(self.poll_interval, outage * 2), LONGEST_OUTAGE_PAUSE)
                _report("worker %s waits %s s: %s", self.worker_id, outage, error)
                self._stopping.wait(outage)
                continue
            outage = 0.0

    def _run_next(self) -> bool:
        """Take a job and run it, a suspect alone in this process; False when none may start."""
        in_this_process.join(before_waiting=self._be_charged_for_none)
        try:
            job = None if self._stopping.is_set() else self._take()
            if job is None:
                return False
            if not job.is_suspect:
                self._process(job)
                return True
        finally:
            in_this_process.leave()
        with in_this_process.alone():
            if self._stopping.is_set():
                self._services.dispatcher.give_back(job)
            else:
                self._services.dispatcher.flush()  # what has ended is not to run again for it
                self._process(job)
                self._be_charged_for_none()
        return True

    def _take(self) -> Job | None:
        dispatcher = self._services.dispatcher
        if (job := dispatcher.take_ready(self.worker_id)) is None:
            self._be_charged_for_none()
            job = dispatcher.take(self.worker_id, self.poll_interval)
        return job

    def _be_charged_for_none(self) -> None:
        """Note that the last job has ended: nothing runs while others are looked for."""
        if self._charged is not None:
            self._services.leases.stop(self._charged)
            self._charged = None

    def _process(self, job: Job) -> None:
        self._job, lease = job, job.lease
        self._services.leases.start(lease, self._charged)
        self._charged = lease
        try:
            if self._on_job_start is not None:
                self._account.tell(self._on_job_start, job_id=job.id, payload=job.payload)
            context = copy_context()
            context.run(RunningJob(job, self._services).begin)
            outcome = context.run(run, self.process_function, job, self.job_timeout)
            self._services.dispatcher.finish(self._account.enter(job, outcome))
        finally:
            self._job = None

    def _settle(self) -> None:
        """Wait until all outcomes of this worker are written, however long that takes."""
        pause = 0.1
        while self._account.unsettled and not self._leaving.is_set():
            try:
                self._services.dispatcher.flush()
            except QueueClosedError as error:
                logger.error("%s job(s) will run again: %s", len(self._account.unsettled), error)
                return
            if self._account.unsettled:
                self._leaving.wait(pause)
                pause = min(pause * 2, LONGEST_OUTAGE_PAUSE)


def _report(message: str, *facts: object) -> None:
    """Log an error of ours in words; the last fact is it. One that nobody foresaw, in full."""
    logger.error(message, *facts, exc_info=not isinstance(facts[-1], QueueError))
