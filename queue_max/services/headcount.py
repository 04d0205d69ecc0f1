"""How many jobs wait: known from above for the price of a look, and counted where that is too many.

The ids of a shard only rise. So no more can wait there than did when they were last counted, and
as many as its highest id has risen by since.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import NamedTuple

from queue_max import forking
from queue_max.exceptions import ShardError
from queue_max.repositories.unit_of_work import Store

REST = 0.005
"""Seconds after a count that found no room, before which none is made."""

COUNTING = 0.2
"""The part of the time that may be spent on counting, however long it takes."""

SAMPLE_EVERY = 0.5
"""Seconds between two notes of how many jobs have left."""

LATELY = 30.0
"""Seconds after which such a note is old."""

UNKNOWN = 1.0
"""Seconds until there is room, where nothing is known of how fast jobs leave."""

SHORTEST, LONGEST = 0.01, 60.0
"""Seconds within which such an estimate is kept."""

LastIds = MutableMapping[int, int]
"""The highest id of each shard that can be read."""


class _Counted(NamedTuple):
    """What was found in a shard."""

    waiting: int
    last_id: int
    """The highest id, at that moment."""
    by: int
    """The number of the count."""


class Headcount:
    """The jobs that wait, of all queues or of a named one, beside the number that may.

    Jobs that wait again after they had been begun or buried are not noticed until the next count.
    """

    def __init__(
        self,
        store: Store,
        limit: int,
        queue: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        self.queue = queue
        self.admitted = 0
        """Jobs that this process let in."""
        self._store = store
        self._clock = clock
        self._lock = forking.lock()
        self._counted: dict[int, _Counted] = {}
        self.counts_begun = 0
        """The number of the count that began last."""
        self.counts_ended = 0
        """The number of the count that ended last."""
        self._last_whole = 0
        """The number of the last count that went through all shards."""
        self._is_full = False
        """Whether the last count found too little room."""
        self._rests_until = -math.inf
        self._left: deque[tuple[float, int]] = deque()
        """How many had left at some moments lately, all but for a constant."""

    def excess(self, more: int, last_ids: Mapping[int, int]) -> int:
        """Tell how many jobs would be too many, at most, if there were so many more."""
        waiting = sum(
            known.waiting + last_id - known.last_id
            for shard_id, last_id in last_ids.items()
            for known in [self._known(shard_id)]
        )
        return max(0, waiting + more - self.limit)

    def _known(self, shard_id: int) -> _Counted:
        """Tell what was found; of a shard that was never counted, only that it may be full."""
        return self._counted.get(shard_id) or _Counted(self.limit, 0, 0)

    def has_counted_since(self, count: int) -> bool:
        """Tell whether all shards have been counted by one that began after that one."""
        return self._last_whole > count

    def is_known_full(self, last_ids: Mapping[int, int]) -> bool:
        """Tell whether a count of all these shards found no room, and is young enough to go by."""
        is_young = self._clock() < self._rests_until
        return is_young and self._is_full and last_ids.keys() <= self._counted.keys()

    def count(self, more: int, last_ids: LastIds) -> float:
        """Count until it is sure that so many more have room, or all shards are counted.

        Gives 0, or the seconds after which it may be asked again: then it has not counted.
        """
        with self._lock:
            begun = self._clock()
            if begun < self._rests_until:
                return self._rests_until - begun
            self.counts_begun += 1
            is_whole = self._count_while_full(more, last_ids)
            now = self._clock()
            self._is_full = self.excess(more, last_ids) > 0
            self.counts_ended = self.counts_begun
            rest = (now - begun) / COUNTING
            self._rests_until = now + (max(rest, REST) if self._is_full else rest)
            if is_whole:
                self._last_whole = self.counts_begun
                self._note_how_many_left(now, last_ids)
            return 0.0

    def _count_while_full(self, more: int, last_ids: LastIds) -> bool:
        """Count one shard after the other, the most doubtful first; tells whether all were."""
        for shard_id in sorted(last_ids, key=lambda each: self._doubt(each, last_ids)):
            if not self.excess(more, last_ids):
                return False
            found = self._count_shard(shard_id)
            if found is None:
                del last_ids[shard_id]
            else:
                self._counted[shard_id], last_ids[shard_id] = found, found.last_id
        return True

    def _count_shard(self, shard_id: int) -> _Counted | None:
        # PostgreSQL shows neither here nor by a higher id what is just being committed: it is
        # missed until the next count.
        with suppress(ShardError), self._store.reading(shard_id) as unit:
            last_id = unit.waiting.last_id()
            waiting = unit.waiting.count(self.limit + 1, self.queue)
            return _Counted(waiting, last_id, self.counts_begun)
        return None

    def _doubt(self, shard_id: int, last_ids: Mapping[int, int]) -> int:
        return self._known(shard_id).last_id - last_ids[shard_id]

    def dropped(self, shard_id: int, number: int, since: int) -> None:
        """Note that so many of a shard wait no more; `since` was `counts_ended` before."""
        with self._lock:
            known = self._counted.get(shard_id)
            if known is None:
                return
            # Else they may be counted or not, or counting broke off, with more behind it.
            if known.by <= since and known.waiting <= self.limit:
                self._counted[shard_id] = known._replace(waiting=known.waiting - number)
            else:
                del self._counted[shard_id]
                self._rests_until = -math.inf

    def doubt(self) -> None:
        """Do not go by the last count any more: no job was found of those that it found."""
        with self._lock:
            self._rests_until = -math.inf

    def _note_how_many_left(self, now: float, last_ids: Mapping[int, int]) -> None:
        waiting = sum(self._counted[shard_id].waiting for shard_id in last_ids)
        if waiting > self.limit:
            self._left.clear()  # it may be many more
            return
        came = self.admitted if self.queue is not None else sum(last_ids.values())
        while len(self._left) > 1 and now - self._left[0][0] > LATELY:
            self._left.popleft()
        if len(self._left) > 1 and now - self._left[-2][0] < SAMPLE_EVERY:
            self._left.pop()
        self._left.append((now, came - waiting))

    def retry_after(self, number: int) -> float:
        """Estimate in how many seconds so many jobs will have left, as fast as they did lately."""
        with self._lock:
            if len(self._left) < 2:
                return UNKNOWN
            (begun, left_before), (now, left_now) = self._left[0], self._left[-1]
        if left_now <= left_before or now <= begun:
            return UNKNOWN
        seconds = number * (now - begun) / (left_now - left_before)
        return min(max(seconds, SHORTEST), LONGEST)
