"""What a job's function can ask about the job it runs, and tell of it."""

import logging
import math
import os
import time
from collections.abc import Callable, MutableMapping
from contextvars import ContextVar
from enum import StrEnum
from typing import Any

from queue_max.domain.job import Job
from queue_max.exceptions import JobNotFoundError, LeaseLostError, QueueError
from queue_max.queue import Queue

logger = logging.getLogger("queue_max.job")

_current: ContextVar["RunningJob"] = ContextVar("queue_max_current_job")


class StopReason(StrEnum):
    """Why a job's function should come to its end."""

    TIMEOUT = "timeout"
    """It has taken as long as it may."""
    LOST = "lost"
    """The job was cancelled, or given to another worker: what it does counts no more."""
    LEAVING = "leaving"
    """Its worker has to leave."""


class Run:
    """One run of a job: when it is to stop, how it is told, and who notes that it has ended."""

    __slots__ = (
        *("_interrupt", "_open", "_process", "begun", "deadline", "job"),
        *("stopped", "stopped_at", "timeout"),
    )

    def __init__(self, job: Job, timeout: float | None) -> None:
        self.job = job
        self.timeout = timeout
        self.begun = time.monotonic()
        self.deadline = math.inf if timeout is None else self.begun + timeout
        self.stopped: StopReason | None = None
        """Why it was told to stop, if it was."""
        self.stopped_at = math.inf
        self._interrupt: Callable[[], object] | None = None
        self._open = [None]
        self._process = os.getpid()

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is another process than the one it began in: its function has forked."""
        return os.getpid() != self._process

    def end(self) -> bool:
        """End it; False when that was done already. Of two threads, one gets True."""
        try:
            self._open.pop()
        except IndexError:
            return False
        return True

    @property
    def has_ended(self) -> bool:
        """Whether its outcome is known."""
        return not self._open

    @property
    def is_late(self) -> bool:
        """Whether it has taken longer than it may, told or not."""
        if self.timeout is None or self.stopped not in {None, StopReason.TIMEOUT}:
            return False
        return self.stopped is not None or time.monotonic() >= self.deadline

    def stop(self, reason: StopReason) -> None:
        """Tell the function to stop, and interrupt it where that is possible."""
        if self.stopped is None and not self.has_ended:
            self.stopped_at = time.monotonic()
            self.stopped = reason
            if self._interrupt is not None:
                self._interrupt()

    def on_stop(self, interrupt: Callable[[], object]) -> None:
        """Have that called when it is told to stop, at once if it was; from any thread."""
        self._interrupt = interrupt
        if self.stopped is not None:
            interrupt()


class RunningJob(Run):
    """The job that runs just now: what its function may ask, and tell.

    `timeout` is how many seconds the attempt may take; None for as long as it likes.
    """

    __slots__ = ("queue",)

    def __init__(self, job: Job, queue: Queue, timeout: float | None = None) -> None:
        super().__init__(job, timeout)
        self.queue = queue
        """Where it came from; what it enqueues goes there, if nothing else is said."""

    @property
    def id(self) -> int:
        """The job's number in its shard."""
        return self.job.id

    @property
    def key(self) -> str:
        """The job's name among all shards."""
        return self.job.key

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self.job.attempts

    @property
    def fence(self) -> int:
        """A number that rises each time the job is given to a worker.

        A system that takes it along, and refuses a lower one than it has seen, is safe from a
        worker that lost the job without knowing.
        """
        return self.job.fence

    @property
    def logger(self) -> "logging.LoggerAdapter[logging.Logger]":
        """A logger whose records carry `job_key`, `job_id`, `shard_id`, `task` and `attempt`."""
        return _JobLogger(logger, _facts_of(self.job))

    @property
    def should_stop(self) -> bool:
        """Whether the function should end soon: its time is over, or it counts no more.

        Asks no database; a function that loops can ask it each time.
        """
        return self.stopped is not None or time.monotonic() >= self.deadline

    @property
    def time_left(self) -> float:
        """Seconds until its time is over; inf where it has no limit."""
        return max(0.0, self.deadline - time.monotonic())

    @property
    def is_cancelled(self) -> bool:
        """Whether what the function does counts no more: cancelled, or given to another worker.

        Asks the database each time.
        """
        try:
            found = self.queue.services.inspection.find(self.job)
        except JobNotFoundError:
            return True
        return not found.is_processing or found.fence != self.job.fence

    def update_progress(self, percent: float) -> None:
        """Note how far the job is, from 0 to 100; LeaseLostError when it counts no more."""
        job = self.job
        self.queue.services.settlement.update_progress(
            job.id, job.shard_id, percent, fence=job.fence
        )

    def heartbeat(self) -> None:
        """Prolong the lease now; LeaseLostError when it is lost. Workers do so by themselves."""
        job = self.job
        if not self.queue.services.leases.renew_one(job.lease):
            raise LeaseLostError(job.id, job.shard_id, job.fence)

    def begin(self) -> None:
        """Be the current job of this thread's context, and of what it starts from there."""
        _current.set(self)


class _JobLogger(logging.LoggerAdapter[logging.Logger]):
    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return f"job {kwargs['extra']['job_key']}: {msg}", kwargs


def _facts_of(job: Job) -> dict[str, object]:
    return {
        "job_key": job.key,
        "job_id": job.id,
        "shard_id": job.shard_id,
        "task": job.task,
        "attempt": job.attempts,
    }


def current_job() -> RunningJob:
    """Give the job that a Worker runs in this thread, or in its coroutine.

    Raises QueueError elsewhere.
    """
    try:
        return _current.get()
    except LookupError:
        raise QueueError("no worker runs a job here") from None


def running_queue() -> Queue | None:
    """Give the queue of the job that runs in this context; None where none does."""
    running = _current.get(None)
    return None if running is None else running.queue
