"""Looking at the queue: counts, lists, and waiting for a state of it."""

import json
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from typing import Any

from queue_max import checks
from queue_max.domain import gates
from queue_max.domain.attempts import Attempt
from queue_max.domain.job import LOOKS, Job, JobStatus
from queue_max.domain.reference import JobRef
from queue_max.exceptions import JobFailedError, JobNotFoundError, ResultNotKeptError, ShardError
from queue_max.repositories.job_lists import ALL, Counts
from queue_max.repositories.shard_metadata import Totals
from queue_max.repositories.unit_of_work import Store

EXACT_UP_TO = 10_000
"""Jobs of a shard in one state which are counted anew each time."""

COUNTING = 0.01
"""The part of the time that may be spent on counting more than those."""


class InspectionService:
    """Gathers over all shards."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._counted: dict[int, tuple[Counts, float]] = {}

    def counts(self, shard_ids: Iterable[int] | None = None, at_most: int = ALL) -> Counts:
        """Count the jobs by state, of all shards or of some.

        In no state of a shard further than `at_most`, where it is enough to know that there are
        as many. Of all shards, those that were set aside are left out.
        """
        total = Counts()
        for each in self._store.serving() if shard_ids is None else shard_ids:
            with self._store.reading(each) as unit:
                total += unit.job_lists.counts(at_most)
        return total

    def recent_counts(self, shard_ids: Iterable[int]) -> Counts:
        """Count the jobs by state, for a price that does not grow with their number.

        Where a shard has more than 10,000 in a state, the counts may be older than now, by a
        hundred times as long as it takes to count them: some seconds where there is a million.
        """
        return sum(map(self._recent_counts, shard_ids), Counts())

    def _recent_counts(self, shard_id: int) -> Counts:
        counts = self.counts([shard_id], EXACT_UP_TO + 1)
        if counts.largest <= EXACT_UP_TO:
            return counts
        begun = self._clock()
        known, good_until = self._counted.get(shard_id, (counts, begun))
        if begun < good_until:
            return known
        counts, now = self.counts([shard_id]), self._clock()
        self._counted[shard_id] = counts, now + (now - begun) / COUNTING
        return counts

    def longest_wait(self, queues: Collection[str]) -> float:
        """Tell for how many seconds the job has waited that is due for the longest time, about.

        Of each shard and queue, the first one of each priority is looked at. 0 where none is due.
        """
        longest = 0.0
        for shard_id in self._store.shard_ids:
            with suppress(ShardError), self._store.reading(shard_id) as unit:
                for since in filter(None, map(unit.claims.waiting_since, queues)):
                    longest = max(longest, (unit.now - since).total_seconds())
        return longest

    def is_idle(self, queues: Collection[str]) -> bool:
        """Tell whether no job of these queues is due, and none of any queue runs.

        One that is scheduled for later is neither; what a limit, a breaker or a pause holds is due.
        """
        return not any(self._is_busy(shard_id, queues) for shard_id in self._store.serving())

    def _is_busy(self, shard_id: int, queues: Collection[str]) -> bool:
        with self._store.reading(shard_id) as unit:
            held = [gate for gate in unit.lines.gates() if gates.is_for_a_time(gate)]
            is_due = any(map(unit.claims.has_due, queues)) or (
                held and unit.lines.has(held, queues)
            )
            return bool(is_due) or unit.job_lists.counts(at_most=1).processing > 0

    def totals(self, shard_ids: Iterable[int] | None = None) -> Totals:
        """Count the jobs that ended since the queue was made, in all shards or in some."""
        processed = failed = 0
        for each in self._store.shard_ids if shard_ids is None else shard_ids:
            with self._store.reading(each) as unit:
                totals = unit.metadata.totals()
                processed += totals.processed
                failed += totals.failed
        return Totals(processed, failed)

    def unavailable(self) -> list[int]:
        """Name the shards that cannot be read."""
        return [each for each in self._store.shard_ids if not self._can_be_read(each)]

    def jobs(
        self,
        statuses: Collection[JobStatus],
        limit: int | None,
        shard_id: int | None = None,
        queue: str | None = None,
    ) -> list[Job]:
        """Read the newest jobs in those states, at most `limit` in all (None: all of them).

        Of one of the named queues, or of all.
        """
        if limit is not None:
            checks.whole("limit", limit, at_least=0)
        found: list[Job] = []
        for each in self._store.chosen(shard_id):
            with self._store.reading(each) as unit:
                found += unit.job_lists.list_by_status(statuses, limit, queue)
        newest_first = sorted(found, key=lambda job: (job.id, job.shard_id), reverse=True)
        return newest_first[:limit]

    def find(self, job: object) -> Job:
        """Read a job, whatever state it is in; JobNotFoundError when it is, or has, gone."""
        ref = JobRef.of(job)
        for shard_id in self._most_likely(ref):
            with self._store.reading(shard_id) as unit:
                found = unit.jobs.find(ref)
            if found is not None:
                return found
        raise JobNotFoundError(f"there is no job {ref}; one that is done is deleted")

    def has_ended(self, job: object) -> bool:
        """Tell whether a job has ended, or is gone; its own shard alone is asked."""
        ref = JobRef.of(job)
        with self._store.reading(ref.shard_id) as unit:
            found = unit.jobs.find(ref)
        return found is None or found.is_terminal

    def attempts(self, job: object) -> list[Attempt]:
        """Read the failed attempts at a job, the first one first."""
        found = self.find(job)
        with self._store.reading(found.shard_id) as unit:
            return unit.attempts.of(str(found.uid))

    def result(self, job: object, timeout: float | None) -> Any:
        """Wait for the end of a job; gives what its function returned.

        Raises TimeoutError after `timeout` seconds (None: never), JobFailedError when it failed
        or was cancelled, ResultNotKeptError where its result is not, or will not be, to be had.
        """
        found = self.find(job)
        if found.keep_result is None and not found.is_terminal:
            raise ResultNotKeptError(
                f"job {found.key} will not keep its result; enqueue it with keep_result="
            )

        def has_ended() -> bool:
            nonlocal found
            found = self.find(job)
            return found.is_terminal

        try:
            if not self._wait_for(has_ended, timeout):
                raise TimeoutError(f"job {found.key} has not ended within {timeout} s")
        except JobNotFoundError as error:
            raise ResultNotKeptError(
                f"job {found.key} is gone: it was purged, or its result was kept for too short"
            ) from error
        if not found.is_completed:
            raise JobFailedError(f"job {found.key} {found.status_str}: {found.last_error}")
        if found.result is None:
            raise ResultNotKeptError(f"the result of job {found.key} could not be kept")
        return json.loads(found.result)

    def wait_until(
        self, condition: Callable[[Counts], bool], timeout: float | None, at_most: int = ALL
    ) -> bool:
        """Wait until the counts, up to `at_most` a shard, fulfil a condition.

        False after `timeout` seconds (None: never).
        """
        return self._wait_for(lambda: condition(self.counts(at_most=at_most)), timeout)

    def _wait_for(self, is_fulfilled: Callable[[], bool], timeout: float | None) -> bool:
        deadline = math.inf
        if timeout is not None:
            deadline = time.monotonic() + checks.seconds("timeout", timeout, zero=True)
        pause, longest = LOOKS
        while not is_fulfilled():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(pause * 2, longest)
        return True

    def _can_be_read(self, shard_id: int) -> bool:
        try:
            with self._store.reading(shard_id) as unit:
                unit.metadata.totals()
        except ShardError:
            return False
        return True

    def _most_likely(self, job: JobRef) -> Iterator[int]:
        """Name the shards where a job may be: a uid may have moved, an id has not."""
        yield job.shard_id
        if job.uid is not None:
            yield from (each for each in self._store.shard_ids if each != job.shard_id)
