"""When a worker process ends by itself: at a number of jobs, at some memory, or out of work."""

import math
import os
import threading
from collections.abc import Iterable
from pathlib import Path

from queue_max.exceptions import QueueError
from queue_max.workers.base import BaseWorker, WorkerState
from queue_max.workers.pool import WorkerPool

MB = 1_000_000

STATM = Path("/proc/self/statm")


def resident_memory() -> int:
    """Tell how many bytes of memory this process takes; OSError where the system does not say."""
    resident_pages = int(STATM.read_text().split()[1])
    return resident_pages * os.sysconf("SC_PAGE_SIZE")


class Endings:
    """Tells when the end of a worker process has come.

    - `jobs`: after which no further one is begun; each attempt counts.
    - `memory`: bytes, looked at once a job has begun: a process is good for one at least.
    - `burst`: whether it ends when no job is due and none runs, in this process or another. What
      waits for the rate limit or an open circuit is due; a shard that cannot be read may have
      such jobs.
    """

    def __init__(
        self, *, jobs: float = math.inf, memory: float = math.inf, burst: bool = False
    ) -> None:
        self._jobs = jobs
        self._memory = memory
        self._burst = burst
        self._begun = 0
        self._workers: Iterable[BaseWorker] = ()
        self._lock = threading.Lock()

    @property
    def are_possible(self) -> bool:
        """Whether there is any such end; else nothing needs to be noted."""
        return self._burst or min(self._jobs, self._memory) < math.inf

    def concern(self, workers: Iterable[BaseWorker]) -> None:
        """Name the workers that are to stop when the last job has begun."""
        self._workers = workers

    def note_start(self, **_job: object) -> None:
        """Count a job that a worker begins, on the worker's own thread, before it takes another."""
        with self._lock:
            self._begun += 1
            is_last = self._begun >= self._jobs
        if is_last:
            for each in self._workers:
                each.request_stop()

    def limit_reached(self) -> str | None:
        """Say which limit this process has come to; None while it has come to none."""
        if self._begun >= self._jobs:
            return f"{self._begun} job(s) have begun"
        if self._begun and self._memory < math.inf:
            memory = resident_memory()
            if memory >= self._memory:
                return f"this process takes {memory // MB} MB"
        return None

    def reason(self, pool: WorkerPool) -> str | None:
        """Say why the end has come; None while it has not."""
        if reached := self.limit_reached():
            return reached
        if self._burst and self._is_idle(pool):
            return "no job is due"
        if not any(each.is_running for each in pool.workers):
            return "no worker runs any more"
        return None

    def _is_idle(self, pool: WorkerPool) -> bool:
        begun = self._begun
        if any(each.state == WorkerState.STARTING for each in pool.workers):
            return False
        try:
            if not pool.wait_for_idle(timeout=0):
                return False
            _release_held(pool)
            # Shards are looked at one by one: a job that has begun meanwhile may have made others.
            return pool.wait_for_idle(timeout=0) and self._begun == begun
        except QueueError:
            return False


def _release_held(pool: WorkerPool) -> None:
    """Let jobs run that were set aside for want of a task, where it is known here."""
    for queue in {each.queue for each in pool.workers}:
        for shard_id in queue.services.store.shard_ids:
            if queue.services.dispatchers.release_held(shard_id):
                queue.services.dispatchers.hint(shard_id)
