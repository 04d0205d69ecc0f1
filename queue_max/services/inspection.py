"""Looking at the queue: counts, lists, and waiting for a state of it."""

import math
import time
from collections.abc import Callable, Collection, Iterator

from queue_max import checks
from queue_max.domain.job import Job, JobStatus
from queue_max.repositories.job_lists import Counts
from queue_max.repositories.shard_metadata import Totals
from queue_max.repositories.unit_of_work import Store

POLL = (0.005, 0.1)
"""Seconds between two looks: at first, and at most."""


class InspectionService:
    """Gathers over all shards."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def counts(self, shard_id: int | None = None) -> Counts:
        """Count the jobs by state, of all shards or of one."""
        total = Counts()
        for each in self._chosen(shard_id):
            with self._store.reading(each) as unit:
                total += unit.job_lists.counts()
        return total

    def totals(self, shard_id: int | None = None) -> Totals:
        """Count the jobs that ended since the queue was made."""
        processed = failed = 0
        for each in self._chosen(shard_id):
            with self._store.reading(each) as unit:
                totals = unit.metadata.totals()
                processed += totals.processed
                failed += totals.failed
        return Totals(processed, failed)

    def jobs(
        self, statuses: Collection[JobStatus], limit: int | None, shard_id: int | None = None
    ) -> list[Job]:
        """Read the newest jobs in those states, at most `limit` in all (None: all of them)."""
        if limit is not None:
            checks.whole("limit", limit, at_least=0)
        found: list[Job] = []
        for each in self._chosen(shard_id):
            with self._store.reading(each) as unit:
                found += unit.job_lists.list_by_status(statuses, limit)
        newest_first = sorted(found, key=lambda job: (job.id, job.shard_id), reverse=True)
        return newest_first[:limit]

    def wait_until(self, condition: Callable[[Counts], bool], timeout: float | None) -> bool:
        """Wait until the counts fulfil a condition; False after `timeout` seconds (None: never)."""
        deadline = math.inf
        if timeout is not None:
            deadline = time.monotonic() + checks.seconds("timeout", timeout, zero=True)
        pause, longest = POLL
        while not condition(self.counts()):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(pause * 2, longest)
        return True

    def _chosen(self, shard_id: int | None) -> Iterator[int]:
        return iter(self._store.shard_ids if shard_id is None else (shard_id,))
