"""Telling that a shard cannot serve, and that it can again."""

from queue_max import forking
from queue_max.domain.events import Events
from queue_max.exceptions import ShardBusyError, ShardError


class ShardWatch:
    """Publishes each change once, whoever in this process meets it first.

    A shard that others write to just now is busy, and not unavailable. One that could not be
    written to is available again only when it can be, though it could be read all the while.
    """

    def __init__(self, events: Events) -> None:
        self._events = events
        self._lock = forking.lock()
        self._unavailable: dict[int, bool] = {}
        """Shards that cannot serve, and whether reading has shown it."""

    def refused(self, shard_id: int, error: ShardError, *, at_reading: bool = False) -> None:
        """Note that a shard could not be read, or written to."""
        if isinstance(error, ShardBusyError):
            return
        with self._lock:
            is_news = shard_id not in self._unavailable
            self._unavailable[shard_id] = at_reading and self._unavailable.get(shard_id, True)
        if is_news:
            self._events.publish("shard_unavailable", shard_id=shard_id, error=str(error))

    def served(self, shard_id: int, *, at_reading: bool = False) -> None:
        """Note that a shard was read, or written to; costs next to nothing while all serve."""
        if not self._unavailable:
            return
        with self._lock:
            by_reading = self._unavailable.get(shard_id)
            if by_reading is None or (at_reading and not by_reading):
                return
            del self._unavailable[shard_id]
        self._events.publish("shard_available", shard_id=shard_id)
