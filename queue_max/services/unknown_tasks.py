"""The alarm that jobs wait for a task which no worker here knows."""

import logging
from collections.abc import Iterable

from queue_max import forking
from queue_max.domain.events import Events
from queue_max.domain.tasks import missing

logger = logging.getLogger(__name__)


class UnknownTasks:
    """Says once of each task that its jobs are set aside, in the log and as an `alert`."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._lock = forking.lock()
        self._held: dict[str, int] = {}

    def note(self, gates: Iterable[str]) -> None:
        """Note of each job that was set aside which gate holds it."""
        for gate in gates:
            with self._lock:
                self._held[gate] = number = self._held.get(gate, 0) + 1
            if number == 1:
                logger.error("jobs are set aside, none fails: they wait for %s", missing(gate))
                self._events.publish("alert", type="UNKNOWN_TASK", pending=number, threshold=0)
