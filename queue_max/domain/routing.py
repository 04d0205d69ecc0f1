"""Which shard a job goes to, and in which order shards are looked at."""

import hashlib
import random
from collections.abc import Sequence


def shard_for(
    pagina_id: int | None,
    shard_count: int,
    rng: random.Random,
    unique_key: str | None = None,
) -> int:
    """Choose a shard: always the same for a `pagina_id`, else for a `unique_key`, else any."""
    if pagina_id is not None:
        return pagina_id % shard_count
    if unique_key is not None:
        # Not hash(): that differs from process to process.
        digest = hashlib.sha256(unique_key.encode()).digest()
        return int.from_bytes(digest[:8]) % shard_count
    return rng.randrange(shard_count)


def scan_order(shard_ids: Sequence[int], rng: random.Random) -> list[int]:
    """Put the shards into a random order, so that workers do not queue up at the same one."""
    return rng.sample(shard_ids, len(shard_ids))
