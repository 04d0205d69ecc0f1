"""Telling which leases are over, without trusting anybody's wall clock."""

import time
from collections.abc import Callable, Mapping

from queue_max.domain.job import Lease


class LeaseWatch:
    """A lease is over when it was seen unchanged for a whole lease time, by our own clock.

    So neither a clock that is set forward nor one that differs on another host ends a lease that
    its holder still prolongs.
    """

    def __init__(self, lease_time: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_time = lease_time
        self._clock = clock
        self._seen: dict[int, dict[Lease, tuple[str, float]]] = {}

    def overdue(self, shard_id: int, leases: Mapping[Lease, str]) -> dict[Lease, str]:
        """Note all leases of a shard, with the moment each was prolonged; gives those over."""
        now = self._clock()
        before = self._seen.get(shard_id, {})
        seen: dict[Lease, tuple[str, float]] = {}
        for lease, heartbeat in leases.items():
            known = before.get(lease)
            seen[lease] = known if known and known[0] == heartbeat else (heartbeat, now)
        self._seen[shard_id] = seen
        return {
            lease: heartbeat
            for lease, (heartbeat, since) in seen.items()
            if now - since >= self._lease_time
        }
