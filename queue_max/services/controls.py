"""What all processes are told: limits, pauses and breakers, as they were a moment ago."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from queue_max import forking
from queue_max.exceptions import ShardError
from queue_max.limits.breaker import Breaker
from queue_max.limits.circuit_breaker import CircuitState
from queue_max.limits.scopes import Limit, Limits, of_key, of_queue, of_shard, of_task
from queue_max.repositories.control import Control

logger = logging.getLogger(__name__)

FRESH_FOR = 0.1
"""Seconds for which what was read holds."""

ONE_AT_A_TIME = 1
"""How many jobs of a concurrency key run at once where nothing else is said."""


@dataclass(frozen=True)
class Snapshot:
    """What was stored at one moment."""

    limits: Limits = field(default_factory=Limits)
    paused: Mapping[str, str | None] = field(default_factory=dict)
    """The reason of each scope that is paused."""
    breakers: Mapping[str, Breaker] = field(default_factory=dict)

    @cached_property
    def lets_all_pass(self) -> bool:
        """Whether nothing is limited, paused or broken."""
        are_closed = all(each.state is CircuitState.CLOSED for each in self.breakers.values())
        return are_closed and not self.limits and not self.paused

    def is_queue_paused(self, name: str) -> bool:
        """Tell whether no job of a named queue is to start."""
        return bool(self.paused) and of_queue(name) in self.paused

    def is_task_paused(self, name: str | None) -> bool:
        """Tell whether no job of a task is to start."""
        return bool(self.paused) and name is not None and of_task(name) in self.paused

    def is_shard_paused(self, shard_id: int) -> bool:
        """Tell whether no job of a shard is to start."""
        return bool(self.paused) and of_shard(shard_id) in self.paused


class Controls:
    """Reads them when they are asked for, and not more often than ten times a second.

    Where the control database does not answer, what was read last holds.
    """

    def __init__(self, control: Control, clock: Callable[[], float] = time.monotonic) -> None:
        self._control = control
        self._clock = clock
        self._snapshot = Snapshot()
        self._lock = forking.lock()
        self._good_until = float("-inf")
        self._has_failed = False
        self._declared: dict[str, Limit] = {}

    def declare(self, limits: Iterable[Limit]) -> None:
        """Let limits hold in this process from now on, as long as nothing is stored of them."""
        with self._lock:
            self._declared |= {limit.scope: limit for limit in limits}
            self._good_until = float("-inf")

    def now(self) -> Snapshot:
        """Give what holds, a tenth of a second old at most."""
        if self._clock() >= self._good_until:
            self.refresh(at_least=FRESH_FOR)
        return self._snapshot

    def refresh(self, at_least: float = 0.0) -> Snapshot:
        """Read anew, unless another thread has done so meanwhile."""
        with self._lock:
            if at_least and self._clock() < self._good_until:
                return self._snapshot
            try:
                self._snapshot = self._read()
                self._has_failed = False
            except ShardError as error:
                if not self._has_failed:
                    logger.warning("limits and pauses hold as they were read last: %s", error)
                self._has_failed = True
            self._good_until = self._clock() + FRESH_FOR
            return self._snapshot

    def put(self, breaker: Breaker) -> None:
        """Take a breaker in that was stored just now by this process."""
        with self._lock:
            known = {**self._snapshot.breakers, breaker.name: breaker}
            self._snapshot = replace(self._snapshot, breakers=known)

    def places_of_key(self, key: str) -> int:
        """Tell how many jobs of a concurrency key may run at once."""
        return self.now().limits.concurrency(of_key(key)) or ONE_AT_A_TIME

    def _read(self) -> Snapshot:
        with self._control.reading() as unit:
            stored = {limit.scope: limit for limit in unit.limits.list()}
            limits = Limits((self._declared | stored).values())
            return Snapshot(limits, unit.limits.paused(), unit.breakers.list())
