"""Which shard has the most urgent job: for queues whose priorities order the jobs of all shards."""

from collections.abc import Collection, Iterable

from queue_max.exceptions import ShardError
from queue_max.repositories.unit_of_work import Store

NOTHING = -1


class Urgency:
    """Looks at the shards, without a lock."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def of(self, shard_ids: Iterable[int], queues: Collection[str]) -> dict[int, int]:
        """Tell the highest priority of what is due in each shard, -1 where nothing is."""
        return {shard_id: self._of_one(shard_id, queues) for shard_id in shard_ids}

    def _of_one(self, shard_id: int, queues: Collection[str]) -> int:
        try:
            with self._store.reading(shard_id) as unit:
                return unit.claims.top_priority(queues)
        except ShardError:  # who claims there finds out
            return NOTHING
