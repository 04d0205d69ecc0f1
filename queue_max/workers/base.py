"""What all kinds of workers share: how they begin, take jobs, and come to their end."""

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from queue_max import checks, forking
from queue_max.domain.clock import to_text, utc_now
from queue_max.domain.job import DEFAULT_QUEUE, Job, JobResult
from queue_max.domain.queues import QueueChoice
from queue_max.exceptions import LeaseLostError, QueueClosedError, QueueError
from queue_max.queue import Queue
from queue_max.workers.company import Abandoned
from queue_max.workers.execution import failed
from queue_max.workers.outcomes import Account
from queue_max.workers.repertoire import ProcessFunction, Repertoire, check_function, tasks
from queue_max.workers.running import RunningJob, StopReason
from queue_max.workers.upkeep import Upkeep

logger = logging.getLogger(__name__)

LONGEST_OUTAGE_PAUSE = 10.0
"""Seconds between two tries, at most, while the database does not answer."""

Queues = QueueChoice | str | Iterable[str] | Mapping[str, int]
"""Which queues a worker takes jobs from: in order, or by weight."""

STOP_GRACE = 1.0
"""Seconds that a function has to end in once it was told to stop, if nobody says otherwise."""


class WorkerState(StrEnum):
    """Where a worker is in its life."""

    INITIALIZED = "initialized"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    ERROR = "error"


class BaseWorker(ABC):
    """Takes jobs on a thread of its own; how they are run is for subclasses to say."""

    places = 1
    """How many jobs it runs at once."""

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
        stop_grace: float = STOP_GRACE,
        queues: Queues | None = None,
    ) -> None:
        if process_function is not None:
            check_function("process_function", process_function)
        for name, callback in (
            ("on_job_start", on_job_start),
            ("on_job_complete", on_job_complete),
            ("on_job_error", on_job_error),
        ):
            if callback is not None:
                checks.function(name, callback)
        checks.text("worker_id", worker_id)
        checks.seconds("poll_interval", poll_interval)
        if job_timeout is not None:
            checks.seconds("job_timeout", job_timeout)
        if queue is not None:
            checks.instance("queue", queue, Queue, "a Queue")
        self.worker_id = worker_id
        self.process_function = process_function
        self.queue = Queue() if queue is None else queue
        self.poll_interval = poll_interval
        self.job_timeout = job_timeout
        self.stop_grace = checks.seconds("stop_grace", stop_grace, zero=True)
        self.queues = None if queues is None else QueueChoice.of(queues)
        self.repertoire = Repertoire(process_function)
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
        self._account = Account(
            self.worker_id,
            self._services,
            self.repertoire,
            self._on_job_complete,
            self._on_job_error,
            self._wait_for,
        )
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
            **self._more_options(),
        )

    def _more_options(self) -> dict[str, Any]:
        return {"stop_grace": self.stop_grace, "queues": self.queues}

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
            self._begin(self._work)

    def _begin(self, work: Callable[[], None]) -> None:
        self._thread = threading.Thread(
            target=work, name=f"queue-max-{self.worker_id}", daemon=True
        )
        self._thread.start()

    def request_stop(self) -> None:
        """Take no further job; returns at once, what runs goes on."""
        with self._lock:
            self._stopping.set()
            if self._is_working:
                self._state = WorkerState.STOPPING
        self._services.dispatchers.wake()

    def stop(self, timeout: float | None = 10.0) -> bool:
        """Take no further job and wait for what runs.

        False when that still runs after `timeout` seconds (None: wait for ever). The state is
        then "error" until it ends; its outcome is stored, if the process lives as long.
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

    def hand_back(self) -> int:
        """Give what runs back to the queue: for a process that has to leave at once.

        What the functions still do counts no more. Gives the number of jobs.
        """
        self.request_stop()
        self._leaving.set()
        running = self.running()
        with suppress(QueueError):
            self._services.dispatchers.flush()
            self._services.dispatchers.give_all_back()
        return sum([self._hand_back(each) for each in running])

    def _hand_back(self, running: RunningJob) -> bool:
        running.stop(StopReason.LEAVING)
        try:
            reason = f"worker {self.worker_id} was told to leave"
            self._services.retry.hand_back(running.job, reason)
        except LeaseLostError:
            return False
        return True

    @abstractmethod
    def running(self) -> Collection[RunningJob]:
        """Give the jobs that run just now, the first one first."""

    def abandon(self, running: RunningJob) -> None:
        """Go on without a job that does not end although it was told to; it counts as ended."""
        if not running.end():
            return
        logger.error(
            "job %s does not end, although it was told to (%s): its function goes on, unseen",
            running.key,
            running.stopped,
        )
        self._account.abandoned += 1
        self._finish(running, failed(running, None))
        self._replace(running)

    @abstractmethod
    def _replace(self, running: RunningJob) -> None:
        """Have another job run in the place of one that is given up."""

    def get_current_job(self) -> Job | None:
        """Give the job that runs now; the first, if there are several."""
        return next((each.job for each in self.running()), None)

    def get_stats(self) -> dict[str, Any]:
        """Tell what the worker does and has done.

        `processed` counts jobs done, `failed` those given up, `retried` failed attempts that are
        followed by another; `lost` counts outcomes that came after the lease was over, and
        `abandoned` the functions that did not end when told to.
        """
        job = self.get_current_job()
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
            "abandoned": self._account.abandoned,
            "started_at": to_text(self._started_at) if self._started_at else None,
            "last_heartbeat_at": to_text(renewed) if renewed else None,
            "total_runtime_seconds": lifetime,
            "throughput_jobs_per_hour": per_second * 3600,
            "uptime_seconds": lifetime if self.is_running else 0.0,
            "current_job_id": job.id if job else None,
        }

    def chosen_queues(self) -> QueueChoice:
        """Tell which queues it takes jobs from: the default one and those of tasks, if not told."""
        return self.queues or QueueChoice.evenly([DEFAULT_QUEUE, *tasks.queues()])

    def _work(self) -> None:
        self.dispatcher = self._services.dispatchers.of(self.chosen_queues())
        self._upkeep = Upkeep.of(self.queue)
        self._upkeep.join(self)
        self._go_on()

    def _go_on(self) -> None:
        try:
            while not self._ends(WorkerState.STOPPED):
                self._take_jobs()
                self._end_jobs()
                self._settle()
        except Abandoned:
            return
        except BaseException:
            logger.exception("worker %s ended by an error of its own", self.worker_id)
            self._stopping.set()
            self._ends(WorkerState.ERROR)
        self._upkeep.leave(self)

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
                    self.dispatcher.wait(self.poll_interval, self._stopping)
            except QueueClosedError:
                self._stopping.set()
                return
            except Exception as error:
                outage = min(max(self.poll_interval, outage * 2), LONGEST_OUTAGE_PAUSE)
                _report("worker %s waits %s s: %s", self.worker_id, outage, error)
                self._stopping.wait(outage)
                continue
            outage = 0.0

    @abstractmethod
    def _run_next(self) -> bool:
        """Take a job and run it, or have it run; False when none may start."""

    @abstractmethod
    def _end_jobs(self) -> None:
        """Wait until nothing runs any more."""

    def _prepare(self, job: Job) -> RunningJob:
        """Give what runs of a job, with the time that it may take."""
        task = self.repertoire.task_of(job)
        timeout = job.timeout_seconds
        if timeout is None and task is not None:
            timeout = task.timeout
        return RunningJob(job, self.queue, self.job_timeout if timeout is None else timeout)

    def _expect(self, running: RunningJob) -> None:
        """Have a job that runs from now on told when its time is over."""
        if running.timeout is not None:
            self._upkeep.overseer.expect(running.deadline)

    def _finish(self, running: RunningJob, outcome: JobResult) -> None:
        """Have it written how a job ended; one that failed as it was given back has not failed."""
        if running.stopped is StopReason.LEAVING and not outcome.success:
            return
        self.dispatcher.finish(self._account.enter(running.job, outcome))

    def _wait_for(self, answer: Coroutine[Any, Any, None]) -> object:
        """Wait for what a callback returned that is a coroutine function."""
        return asyncio.run(answer)

    def _settle(self) -> None:
        """Wait until all outcomes of this worker are written, however long that takes."""
        pause = 0.1
        while self._account.unsettled and not self._leaving.is_set():
            try:
                self.dispatcher.flush()
            except QueueClosedError as error:
                logger.error("%s job(s) will run again: %s", len(self._account.unsettled), error)
                return
            if self._account.unsettled:
                self._leaving.wait(pause)
                pause = min(pause * 2, LONGEST_OUTAGE_PAUSE)


def _report(message: str, *facts: object) -> None:
    """Log an error of ours in words; the last fact is it. One that nobody foresaw, in full."""
    logger.error(message, *facts, exc_info=not isinstance(facts[-1], QueueError))
