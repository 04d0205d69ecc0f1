"""Callbacks: who wants to know what, and telling them."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import Any

from queue_max import checks
from queue_max.domain.clock import to_text
from queue_max.exceptions import ConfigurationError

logger = logging.getLogger(__name__)

Callback = Callable[..., object]
Telling = Callable[[], object]

EVENTS: Mapping[str, Sequence[str]] = {
    "job_enqueued": ("job_id", "shard_id"),
    "job_started": ("job_id", "shard_id", "worker_id"),
    "job_completed": ("job_id", "shard_id"),
    "job_retried": ("job_id", "shard_id", "error"),
    "job_failed": ("job_id", "shard_id", "error"),
    "job_dead_lettered": ("job_id", "shard_id", "error", "reason"),
    "job_cancelled": ("job_id", "shard_id", "reason"),
    "job_recovered": ("job_id", "shard_id", "error"),
    "alert": ("type", "pending", "threshold"),
    "circuit_opened": ("name", "failures", "error"),
    "circuit_closed": ("name",),
    "shard_unavailable": ("shard_id", "error"),
    "shard_available": ("shard_id",),
}
"""All events, each with the names of its facts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """An event as the log has it."""

    id: int
    """Rises from one event to the next, in the order in which they were written."""
    at: datetime
    """When it was published, by the clock of its process."""
    event: str
    facts: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as plain values."""
        return asdict(self) | {"at": to_text(self.at)}


class Events:
    """The subscribers of one queue in this process."""

    def __init__(self) -> None:
        self._callbacks: Mapping[str, list[Callback]] = {event: [] for event in EVENTS}
        self._thread = threading.local()

    def on(self, event: str, callback: Callback) -> None:
        """Call `callback` with keyword arguments whenever the event happens."""
        checks.function("callback", callback)
        self._callbacks_of(event).append(callback)

    def off(self, event: str, callback: Callback) -> None:
        """Undo one `on`; harmless where there was none."""
        callbacks = self._callbacks_of(event)
        with suppress(ValueError):
            callbacks.remove(callback)

    def are_heard(self, event: str) -> bool:
        """Tell whether anybody asked for them."""
        return bool(self._callbacks[event])

    def publish(self, event: str, **facts: Any) -> None:
        """Tell all who asked; an error of theirs is logged and harms nobody.

        Never called inside a transaction: what it tells is true already.
        """
        if not self._callbacks[event] or getattr(self._thread, "silences", 0) > 0:
            return
        tell_elsewhere = getattr(self._thread, "tell_elsewhere", None)
        if tell_elsewhere is None:
            self._tell(event, facts)
        else:
            tell_elsewhere(partial(self._tell, event, facts))

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """Publish nothing from this thread meanwhile; may be nested."""
        self._thread.silences = getattr(self._thread, "silences", 0) + 1
        try:
            yield
        finally:
            self._thread.silences -= 1

    @contextmanager
    def told_elsewhere(self, tell: Callable[[Telling], object]) -> Iterator[None]:
        """Let another thread call the callbacks for what this one publishes meanwhile.

        What is to be called is given to `tell`. For threads that others rely on.
        """
        self._thread.tell_elsewhere = tell
        try:
            yield
        finally:
            self._thread.tell_elsewhere = None

    def _callbacks_of(self, event: str) -> list[Callback]:
        try:
            return self._callbacks[event]
        except (KeyError, TypeError):
            raise ConfigurationError(
                f"Unknown event: {checks.shown(event)}; there are {', '.join(sorted(EVENTS))}"
            ) from None

    def _tell(self, event: str, facts: Mapping[str, Any]) -> None:
        for callback in tuple(self._callbacks[event]):
            try:
                callback(**facts)
            except BaseException as error:
                # A Ctrl-C that comes just now is meant for the program.
                if not isinstance(error, Exception) and _is_main_thread():
                    raise
                logger.exception("a callback for %s failed", event)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
