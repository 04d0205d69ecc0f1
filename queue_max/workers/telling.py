"""A thread that calls the callbacks for events, on behalf of threads that others rely on."""

import logging
import threading
from queue import SimpleQueue

from queue_max.domain.events import Telling

logger = logging.getLogger(__name__)

ROOM = 10_000
"""Events that may wait for their callbacks; what comes beyond is not told."""

GOODBYE = 5.0
"""Seconds for which the end of the callbacks is waited for, in the end."""


class Teller:
    """Settling, recovery and schedules hand over to it: no callback holds them up."""

    def __init__(self) -> None:
        self._untold: SimpleQueue[Telling | None] = SimpleQueue()
        self._is_full = False
        self._thread = threading.Thread(target=self._run, name="queue-max-telling", daemon=True)

    def start(self) -> None:
        """Begin to call."""
        self._thread.start()

    def tell(self, telling: Telling) -> None:
        """Have that called soon, in order."""
        if self._untold.qsize() < ROOM:
            self._is_full = False
            self._untold.put(telling)
        elif not self._is_full:
            self._is_full = True
            logger.error("events are lost: their callbacks take longer than the events to come")

    def stop(self) -> None:
        """Wait for what is left to be called, within bounds."""
        self._untold.put(None)
        self._thread.join(GOODBYE)
        if self._thread.is_alive():
            logger.error("a callback for an event does not end: it goes on, unseen")

    def _run(self) -> None:
        for telling in iter(self._untold.get, None):
            telling()
