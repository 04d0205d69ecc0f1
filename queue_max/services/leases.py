"""The leases this process holds, and keeping them."""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import datetime

from queue_max import forking
from queue_max.domain.job import Lease
from queue_max.exceptions import ShardError
from queue_max.repositories.unit_of_work import Store
from queue_max.storage.presence import Presence

logger = logging.getLogger(__name__)

LOCKED_SHARD_WAIT = 1.0
"""Seconds to wait for a locked shard: the next round, for all others too, must not come late."""


class LeaseService:
    """Prolongs the leases of all jobs that run in this process, in one statement a shard."""

    def __init__(self, store: Store, presence: Presence) -> None:
        self._store = store
        self._presence = presence
        self._held: set[Lease] = set()
        self._lock = forking.lock()
        forking.in_child(self._forget)
        self.last_renewal: datetime | None = None

    @property
    def holder(self) -> str | None:
        """The identity of this process, by which others tell whether it lives."""
        return self._presence.identity

    def hold(self, lease: Lease) -> None:
        """Keep a lease from now on."""
        self.hold_all([lease])

    def hold_all(self, leases: Iterable[Lease]) -> None:
        """Keep many leases from now on."""
        with self._lock:
            self._held.update(leases)

    def start(self, lease: Lease, after: Lease | None = None) -> None:
        """Note that its job begins: from now on it is charged, should this process die.

        It comes after another job of the same thread, if one is given, which is so no longer.
        """
        self._presence.started(lease, after)

    def stop(self, lease: Lease) -> None:
        """Note that its job has ended."""
        self._presence.ended(lease)

    def drop(self, lease: Lease) -> None:
        """Keep it no longer."""
        self.drop_all([lease])

    def drop_all(self, leases: Iterable[Lease]) -> None:
        """Keep them no longer."""
        with self._lock:
            self._held.difference_update(leases)

    def _forget(self) -> None:
        """Keep nothing, in a child of fork: the jobs run in the parent."""
        self._held.clear()

    def renew(self) -> None:
        """Prolong all that are held; a shard that cannot be reached does not harm the others."""
        by_shard = defaultdict(list)
        with self._lock:
            for lease in self._held:
                by_shard[lease.shard_id].append(lease)

        def renew_in(shard_id: int, wait: float | None) -> None:
            with self._store.writing(shard_id, wait) as unit:
                unit.leases.renew(by_shard[shard_id])
                self.last_renewal = unit.now

        for _shard_id, outcome in self._store.visit(by_shard, renew_in, LOCKED_SHARD_WAIT):
            if isinstance(outcome, ShardError):
                logger.warning("leases not renewed, another try follows: %s", outcome)

    def renew_one(self, lease: Lease) -> bool:
        """Prolong one lease now; False when it is lost."""
        with self._store.writing(lease.shard_id) as unit:
            return unit.leases.renew([lease]) == 1

    def lost(self, shard_id: int, leases: Collection[Lease]) -> set[Lease]:
        """Tell which of these leases in a shard are held no longer."""
        with self._store.reading(shard_id) as unit:
            return set(leases) - unit.leases.held(leases)

    def renew_of_worker(self, shard_id: int, worker_id: str) -> int:
        """Prolong the leases that a worker has in a shard, by its name."""
        with self._store.writing(shard_id) as unit:
            return unit.leases.renew_of_worker(worker_id)
