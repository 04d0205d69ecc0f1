"""A background loop that survives its own errors and ends at once when asked."""

import logging
import threading
from collections.abc import Callable

from queue_max.exceptions import QueueClosedError

logger = logging.getLogger(__name__)


class Repeater:
    """Calls `action` every `interval` seconds on a thread of its own, until the queue is closed."""

    def __init__(
        self, name: str, interval: float, action: Callable[[], object], *, at_once: bool = False
    ) -> None:
        self._name = name
        self._interval = interval
        self._action = action
        self._at_once = at_once
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the loop; the first call of the action comes one interval later, or `at_once`."""
        self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
        self._thread.start()

    def go_on(self) -> None:
        """Start the loop again if it ran: a child of fork has not inherited its thread."""
        if self._thread is not None and not self._ending.is_set():
            self._ending = threading.Event()
            self.start()

    def stop(self, timeout: float | None = None) -> None:
        """End the loop and wait for it; harmless when it was never started."""
        self._ending.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _loop(self) -> None:
        pause = 0.0 if self._at_once else self._interval
        while not self._ending.wait(pause):
            pause = self._interval
            try:
                self._action()
            except QueueClosedError:
                return
            except Exception:
                logger.exception("%s failed; it runs again in %s s", self._name, self._interval)
