"""Ending jobs that take too long, or that count no more, in all workers of a process."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Protocol

from queue_max.domain.job import Lease
from queue_max.exceptions import QueueClosedError, ShardError
from queue_max.services.leases import LeaseService
from queue_max.workers.running import RunningJob, StopReason

logger = logging.getLogger(__name__)

LOOK_EVERY = 1.0
"""Seconds between two looks whether running jobs were cancelled, or their leases lost."""


class Employer(Protocol):
    """Somebody who runs jobs."""

    @property
    def stop_grace(self) -> float:
        """Seconds that a function has to end in, once it was told to stop."""

    def running(self) -> Collection[RunningJob]:
        """Give the jobs that run just now."""

    def abandon(self, running: RunningJob) -> None:
        """Go on without a job that does not end."""


class Overseer:
    """Tells jobs to stop, and has those that do not left behind.

    A job costs it nothing, unless it has a time limit or runs for longer than a second.
    """

    def __init__(self, leases: LeaseService, clock: Callable[[], float] = time.monotonic) -> None:
        self._leases = leases
        self._clock = clock
        self._employers: tuple[Employer, ...] = ()
        self._looked_at = clock()
        self._wake_at = 0.0
        self._is_earlier = threading.Event()

    def watch(self, employer: Employer) -> None:
        """Look after somebody's jobs from now on. One thread at a time may change whose."""
        self._employers = (*self._employers, employer)

    def forget(self, employer: Employer) -> None:
        """Look after them no longer."""
        self._employers = tuple(each for each in self._employers if each is not employer)

    def expect(self, deadline: float) -> None:
        """Note that a job, which `running` gives already, is to be told to stop then."""
        if deadline < self._wake_at:
            self._is_earlier.set()

    def wake(self) -> None:
        """Let it look whether it is to end."""
        self._is_earlier.set()

    def oversee(self, stopping: threading.Event) -> None:
        """Look after jobs until told to stop."""
        while not stopping.is_set():
            # In this order: a deadline that comes meanwhile is either seen, or sets the event.
            self._is_earlier.clear()
            self._wake_at = float("inf")
            try:
                self._wake_at = self.look()
            except QueueClosedError:
                return
            except Exception:
                logger.exception("running jobs were not looked after; another try follows")
                self._wake_at = self._clock() + LOOK_EVERY
            self._is_earlier.wait(max(0.0, self._wake_at - self._clock()))

    def look(self) -> float:
        """Tell those to stop whose time is over; gives the moment of the next look."""
        now = self._clock()
        following = self._looked_at + LOOK_EVERY
        if now >= following:
            self._looked_at, following = now, now + LOOK_EVERY
            self._look_for_lost(now)
        for employer in self._employers:
            for running in employer.running():
                if now >= running.deadline:
                    running.stop(StopReason.TIMEOUT)
                following = min(following, self._next(employer, running, now))
        return following

    def _next(self, employer: Employer, running: RunningJob, now: float) -> float:
        """Give up a job that was told to stop in vain; else gives when to look at it again."""
        if running.stopped is None:
            return running.deadline
        over = running.stopped_at + employer.stop_grace
        if now >= over:
            employer.abandon(running)
            return float("inf")
        return over

    def _look_for_lost(self, now: float) -> None:
        """Tell those to stop which were cancelled meanwhile, or given to another worker."""
        by_shard: dict[int, dict[Lease, RunningJob]] = defaultdict(dict)
        for employer in self._employers:
            for running in employer.running():
                if running.stopped is None and now - running.begun >= LOOK_EVERY:
                    by_shard[running.job.shard_id][running.job.lease] = running
        for shard_id, jobs in by_shard.items():
            try:
                lost = self._leases.lost(shard_id, jobs.keys())
            except ShardError as error:  # as long as nothing else is known, they go on
                logger.warning("leases not looked at, another try follows: %s", error)
                continue
            for lease in lost:
                jobs[lease].stop(StopReason.LOST)
