"""The log of events: what all processes publish, stored for anybody to read."""

import logging
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

from queue_max import checks, forking
from queue_max.domain.clock import Clock, utc_now
from queue_max.domain.events import EVENTS, Events, StoredEvent
from queue_max.exceptions import QueueClosedError, ShardBusyError, ShardError
from queue_max.repositories.control import Control
from queue_max.repositories.events import Happening

logger = logging.getLogger(__name__)

WRITE_EVERY = 0.2
"""Seconds between two writings: what a process that is killed may not have written."""

ROOM = 10_000
"""Events that wait in memory to be written, at most."""

BATCH = 2_000
"""Events written in one transaction: more would keep others from the control database."""

PATIENCE = 1.0
"""Seconds to wait for others who write to the control database."""


class EventLog:
    """Keeps the newest events of all processes that keep such a log.

    Who publishes an event only leaves it here; a thread writes it soon. What finds no room until
    then, or cannot be written, is lost: it is counted, and that is logged.
    """

    def __init__(self, control: Control, kept: int, clock: Clock = utc_now) -> None:
        self._control = control
        self._kept = kept
        self._clock = clock
        self._writing = forking.lock()
        self._losing = forking.lock()
        self._begin_anew()
        forking.in_child(self._begin_anew)

    def _begin_anew(self) -> None:
        """Have nothing to write: at first, and in a child of fork, whose parent writes it."""
        self._waiting: deque[Happening] = deque()
        self.lost = 0
        """How many events of this process were not stored."""
        self._lost_before = 0

    def listen(self, events: Events) -> None:
        """Log whatever is published from now on."""
        for event in EVENTS:
            events.on(event, partial(self._note, event))

    def write(self) -> None:
        """Store what has been published; raises nothing where that is not possible."""
        with self._writing:
            while self._waiting and self._write_some():
                continue
        if self.lost > self._lost_before:
            logger.warning("the log of events lacks %s more", self.lost - self._lost_before)
            self._lost_before = self.lost

    def read(self, since: int | None, limit: int | None) -> Sequence[StoredEvent]:
        """Read events in order: those after the id `since`, or for None the newest."""
        if limit is not None:
            checks.whole("limit", limit, at_least=0)
        if since is not None:
            checks.whole("since", since, at_least=0)
        self.write()
        with self._control.reading() as unit:
            if since is None:
                return unit.events.newest(limit)
            return unit.events.after(since, limit)

    def _note(self, event: str, **facts: Any) -> None:
        if len(self._waiting) < ROOM:
            self._waiting.append((self._clock(), event, facts))
        else:
            self._lose(1)

    def _write_some(self) -> bool:
        """Store the oldest of what waits; False when it is better to try later."""
        some = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH))]
        try:
            with self._control.noting(PATIENCE) as unit:
                unit.events.add(some)
                unit.events.trim(self._kept)
        except ShardBusyError:
            self._waiting.extendleft(reversed(some))
            return False
        except Exception as error:
            # One that nobody foresaw, in full. Neither is for a worker, or whoever closes a queue.
            is_foreseen = isinstance(error, ShardError | QueueClosedError)
            logger.warning("events cannot be stored: %s", error, exc_info=not is_foreseen)
            self._lose(len(some))
            return False
        return True

    def _lose(self, number: int) -> None:
        with self._losing:
            self.lost += number
