"""Which shard a job goes to, and in which order shards are looked at."""

import hashlib
import random
from collections.abc import Sequence


def shard_for(
    pagina_id: int | None,
    shard_count: int,
    rng: random.Random,
    unique_key: str | None = None,
    concurrency_key: str | None = None,
) -> int:
    """Choose a shard: always the same for a `concurrency_key`, whatever else the job has.

    Else for a `pagina_id`, else for a `unique_key`, else any.
    """
    if concurrency_key is not None:
        return _number_of(concurrency_key) % shard_count
    if pagina_id is not None:
        return pagina_id % shard_count
    if unique_key is not None:
        return _number_of(unique_key) % shard_count
    return rng.randrange(shard_count)


def _number_of(key: str) -> int:
    # Not hash(): that differs from process to process.
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])


def scan_order(shard_ids: Sequence[int], rng: random.Random) -> list[int]:
    """Put the shards into a random order, so that workers do not queue up at the same one."""
    return rng.sample(shard_ids, len(shard_ids))
