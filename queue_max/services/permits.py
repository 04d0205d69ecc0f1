"""Limits on how many jobs of a queue or a task run at once, over all shards and processes."""

import logging
import math
import time
from collections import Counter
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

PATIENCE = 1.0
"""Seconds to wait for the control database: whoever does has jobs to see to."""

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
        self._asked_at: dict[str, float] = {}
        self._held: dict[Lease, tuple[str, ...]] = {}
        self._numbers: Counter[str] = Counter()
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
            with self._control.noting(PATIENCE) as unit:
                unit.permits.give_up(ended)
                full = unit.permits.take(lease, limits)
            if full is not None and self._drop_stale(full):
                with self._control.noting(PATIENCE) as unit:
                    full = unit.permits.take(lease, limits)
        except ShardError as error:
            full = next(iter(limits))
            logger.warning("no job of %s starts now, another try follows: %s", full, error)
        with self._lock:
            now = self._clock()
            self._asked_at.update(dict.fromkeys(limits, now))
            if full is not None:
                self._full_until[full] = now + AGAIN_IN
                return full
            self._held[lease] = tuple(limits)
            self._numbers.update(limits.keys())
        if any(self._numbers[scope] > limit for scope, limit in limits.items()):
            self._forget_ended_elsewhere(limits)
        return None

    def wait(self, scope: str) -> float:
        """Tell in how many seconds it is worth to ask for a permit; 0.0 for now."""
        if self._numbers and self.free(scope) < 1:  # until one of them has ended
            return AGAIN_IN
        return max(0.0, self._full_until.get(scope, -math.inf) - self._clock())

    def free(self, scope: str) -> float:
        """Tell how many jobs of a scope could have a permit, by what this process holds itself."""
        limit = self.limits([scope]).get(scope)
        if limit is None:
            return math.inf
        left = limit - self._numbers[scope]
        if left < 1 and self._clock() - self._asked_at.get(scope, -math.inf) >= CHECK_EVERY:
            return 1  # perhaps: another process may have ended a job of this one
        return max(0, left)

    def ended(self, lease: Lease) -> None:
        """Note that a run of a job has ended: its permits are free, soon."""
        if not self._held:
            return
        with self._lock:
            scopes = self._held.pop(lease, None)
            if scopes is not None:
                self._ended.append(lease)
                self._numbers -= Counter(scopes)
                for scope in scopes:
                    self._full_until.pop(scope, None)

    def flush(self) -> None:
        """Give back what is free."""
        if not self._ended:
            return
        with self._lock:
            ended, self._ended = self._ended, []
        try:
            with self._control.noting(PATIENCE) as unit:
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
        with self._control.noting(PATIENCE) as unit:
            return unit.permits.give_up(stale)

    def _forget_ended_elsewhere(self, scopes: Iterable[str]) -> None:
        """Forget the runs of this process that another one has ended, as `complete_job` may."""
        known = {lease for scope in scopes for lease in self.holders(scope)}
        with self._lock:
            for lease in [each for each in self._held if each not in known]:
                if not set(self._held[lease]).isdisjoint(scopes):
                    self._numbers -= Counter(self._held.pop(lease))

    def _forget(self) -> None:
        """Hold nothing in a child of fork: the jobs run in the parent."""
        self._full_until.clear()
        self._held.clear()
        self._numbers.clear()
        self._ended.clear()
