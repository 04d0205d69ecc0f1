"""Which shard a job goes to, and in which order shards are looked at."""

import random
from collections.abc import Sequence


def shard_for(pagina_id: int | None, shard_count: int, rng: random.Random) -> int:
    """Choose a shard: always the same for a `pagina_id`, any for None."""
    return rng.randrange(shard_count) if pagina_id is None else pagina_id % shard_count


def scan_order(shard_ids: Sequence[int], rng: random.Random) -> list[int]:
    """Put the shards into a random order, so that workers do not queue up at the same one."""
    return rng.sample(shard_ids, len(shard_ids))
