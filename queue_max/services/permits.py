"""Limits on how many jobs of a queue or a task run at once, over all shards and processes."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping

from queue_max import forking
from queue_max.domain.job import Lease
from queue_max.exceptions import ShardError
from queue_max.repositories.control import Control
from queue_max.repositories.unit_of_work import Store
from queue_max.services.controls import Controls

logger = logging.getLogger(__name__)

AGAIN_IN = 0.1
"""Seconds until the next try, where as many run as may: other processes do not tell."""

CHECK_EVERY = 1.0
"""Seconds between two looks, at least, whether those who hold the permits of a scope still run."""


class Permits:
    """Gives permits to jobs that start, and takes them back when they have ended.

    A permit is a row that names a run of a job, and they are counted. Whether it still stands for
    something is seen in the shard: it does while the job runs under that fence. So nothing leaks
    when a process is killed, and nobody gives a permit back twice.
    """

    def __init__(
        self,
        control: Control,
        controls: Controls,
        store: Store,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._control = control
        self._controls = controls
        self._store = store
        self._clock = clock
        self._lock = forking.lock()
        self._full_until: dict[str, float] = {}
        self._checked_at: dict[str, float] = {}
        self._held: dict[Lease, tuple[str, ...]] = {}
        self._ended: list[Lease] = []
        forking.in_child(self._forget)

    def limits(self, scopes: Iterable[str]) -> Mapping[str, int]:
        """Tell of each scope that is limited how many of its jobs may run at once."""
        limits = self._controls.now().limits
        if not limits:
            return {}
        found = {scope: limits.concurrency(scope) for scope in scopes}
        return {scope: number for scope, number in found.items() if number is not None}

    def take(self, lease: Lease, limits: Mapping[str, int]) -> str | None:
        """Give a job permits of all these scopes, or none; gives the scope that is full."""
        with self._lock:
            ended, self._ended = self._ended, []
        try:
            with self._control.noting() as unit:
                unit.permits.give_up(ended)
                full = unit.permits.take(lease, limits)
            if full is not None and self._drop_stale(full):
                with self._control.noting() as unit:
                    full = unit.permits.take(lease, limits)
        except ShardError as error:
            full = next(iter(limits))
            logger.warning("no job of %s starts now, another try follows: %s", full, error)
        with self._lock:
            if full is not None:
                self._full_until[full] = self._clock() + AGAIN_IN
            else:
                self._held[lease] = tuple(limits)
        return full

    def wait(self, scope: str) -> float:
        """Tell in how many seconds it is worth to ask for a permit; 0.0 for now."""
        return max(0.0, self._full_until.get(scope, -math.inf) - self._clock())

    def free(self, scope: str) -> float:
        """Tell how many jobs of a scope could have a permit, by what this process holds itself."""
        limit = self.limits([scope]).get(scope)
        if limit is None:
            return math.inf
        with self._lock:
            held = sum(scope in scopes for scopes in self._held.values())
        return max(0, limit - held)

    def ended(self, lease: Lease) -> None:
        """Note that a run of a job has ended: its permits are free, soon."""
        if not self._held:
            return
        with self._lock:
            scopes = self._held.pop(lease, None)
            if scopes is not None:
                self._ended.append(lease)
                for scope in scopes:
                    self._full_until.pop(scope, None)

    def flush(self) -> None:
        """Give back what is free."""
        if not self._ended:
            return
        with self._lock:
            ended, self._ended = self._ended, []
        try:
            with self._control.noting() as unit:
                unit.permits.give_up(ended)
        except ShardError as error:  # whoever finds them stale deletes them
            logger.warning("permits were not given back: %s", error)

    def holders(self, scope: str) -> list[Lease]:
        """Tell which runs of jobs hold a permit of a scope."""
        with self._control.reading() as unit:
            return list(unit.permits.holders(scope))

    def _drop_stale(self, scope: str) -> int:
        """Delete the permits of jobs that do not run any more; gives their number."""
        now = self._clock()
        if now - self._checked_at.get(scope, -math.inf) < CHECK_EVERY:
            return 0
        self._checked_at[scope] = now
        by_shard: dict[int, set[Lease]] = {}
        for lease in self.holders(scope):
            by_shard.setdefault(lease.shard_id, set()).add(lease)
        stale: list[Lease] = []
        for shard_id, leases in by_shard.items():
            with self._store.reading(shard_id) as unit:
                stale += leases - unit.leases.held(leases)
        with self._control.noting() as unit:
            return unit.permits.give_up(stale)

    def _forget(self) -> None:
        """Hold nothing in a child of fork: the jobs run in the parent."""
        self._full_until.clear()
        self._held.clear()
        self._ended.clear()
