"""Callbacks: who wants to know what, and telling them."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from queue_max import checks
from queue_max.exceptions import ConfigurationError

logger = logging.getLogger(__name__)

Callback = Callable[..., object]

EVENTS = (
    "job_enqueued",
    "job_completed",
    "job_failed",
    "job_retried",
    "alert",
    "circuit_opened",
    "circuit_closed",
)


class Events:
    """The subscribers of one queue in this process."""

    def __init__(self) -> None:
        self._callbacks: Mapping[str, list[Callback]] = {event: [] for event in EVENTS}
        self._thread = threading.local()

    def on(self, event: str, callback: Callback) -> None:
        """Call `callback` with keyword arguments whenever the event happens."""
        if event not in EVENTS:
            raise ConfigurationError(
                f"Unknown event: {checks.shown(event)}; there are {', '.join(sorted(EVENTS))}"
            )
        checks.function("callback", callback)
        self._callbacks[event].append(callback)

    def are_heard(self, event: str) -> bool:
        """Tell whether anybody asked for them."""
        return bool(self._callbacks[event])

    def publish(self, event: str, **facts: Any) -> None:
        """Tell all who asked; an error of theirs is logged and harms nobody.

        Never called inside a transaction: what it tells is true already.
        """
        if not self._callbacks[event] or getattr(self._thread, "silences", 0) > 0:
            return
        for callback in tuple(self._callbacks[event]):
            try:
                callback(**facts)
            except BaseException as error:
                # A Ctrl-C that comes just now is meant for the program.
                if not isinstance(error, Exception) and _is_main_thread():
                    raise
                logger.exception("a callback for %s failed", event)

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """Publish nothing from this thread meanwhile; may be nested."""
        self._thread.silences = getattr(self._thread, "silences", 0) + 1
        try:
            yield
        finally:
            self._thread.silences -= 1


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
