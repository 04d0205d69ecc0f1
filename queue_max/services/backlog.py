"""The alert that too many jobs wait, without counting them all for each new one."""

import time
from collections.abc import Callable
from contextlib import suppress

from queue_max import forking
from queue_max.domain.events import Events
from queue_max.exceptions import QueueError
from queue_max.repositories.unit_of_work import Store

RECOUNT_AFTER = 1.0
"""Seconds after which jobs that other processes may have added are counted too."""


class BacklogAlarm:
    """Publishes `alert` once when more than `threshold` jobs wait, and again after they did not.

    A count never walks further than the threshold, and one is made only when this process may
    have crossed the threshold by itself, or a second has passed.
    """

    def __init__(
        self,
        store: Store,
        events: Events,
        threshold: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._events = events
        self._threshold = threshold
        self._clock = clock
        self._lock = forking.lock()
        self._room = 0
        self._counted_at = -RECOUNT_AFTER
        self._is_ringing = False

    def added(self, number: int) -> None:
        """Note new jobs of this process, and ring if they are too many."""
        with self._lock:
            self._room -= number
            now = self._clock()
            if self._room >= 0 and now - self._counted_at < RECOUNT_AFTER:
                return
            if self._is_ringing and now - self._counted_at < RECOUNT_AFTER:
                return
            self._counted_at = now
        waiting = self._count()  # asks the shards: nobody should wait for that
        with self._lock:
            self._room = self._threshold - waiting
            was_ringing, self._is_ringing = self._is_ringing, waiting > self._threshold
            rings = self._is_ringing and not was_ringing
        if rings:
            self._events.publish(
                "alert", type="QUEUE_SIZE", pending=self._total(), threshold=self._threshold
            )

    def _count(self) -> int:
        """Count what waits, no further than one beyond the threshold."""
        waiting = 0
        for shard_id in self._store.shard_ids:
            with suppress(QueueError), self._store.reading(shard_id) as unit:
                waiting += unit.job_lists.count_waiting(self._threshold + 1)
            if waiting > self._threshold:
                break
        return waiting

    def _total(self) -> int:
        total = 0
        for shard_id in self._store.shard_ids:
            with suppress(QueueError), self._store.reading(shard_id) as unit:
                counts = unit.job_lists.counts()
                total += counts.pending + counts.scheduled
        return total
