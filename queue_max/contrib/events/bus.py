"""The bus that calls handlers for the events of a queue."""

import asyncio
import atexit
import inspect
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from itertools import chain, count
from os import PathLike
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from bubus import EventBus

from queue_max import checks, forking
from queue_max.contrib.events.delivery import Delivery
from queue_max.contrib.events.types import TYPES, QueueEvent, kinds_of
from queue_max.domain.clock import to_text
from queue_max.exceptions import ConfigurationError, QueueError
from queue_max.queue import Queue

logger = logging.getLogger(__name__)

CLOSING = 10.0
"""Seconds for which `close` waits for handlers, if nobody says otherwise."""

E = TypeVar("E", bound=QueueEvent)
H = TypeVar("H", bound=Callable[..., object])

_Handler = Callable[[Any], Coroutine[Any, Any, None]]

# Of an event that a handler has published: the bus of the handler, and what began it all.
_cause: ContextVar[tuple[object, str] | None] = ContextVar("queue_max_cause", default=None)


class QueueEventBus:
    """Calls handlers for the events of a queue in this process, on a thread of its own.

    Handlers may be coroutine functions; each event is handled after the one before it, and a
    handler that blocks holds up the others, but no worker. What a handler raises is logged and
    counted; after 300 seconds one that is a coroutine is cancelled. `bus_name` names the bus in
    bubus, `wal_path` a file to which each event is appended as JSON once it was handled;
    `max_history_size` events are kept for `log_tree` (None: all).

    Close it, or use it as a context manager: what was published before is then handled first.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        bus_name: str = "queue_max",
        wal_path: str | PathLike[str] | None = None,
        max_history_size: int | None = 50,
    ) -> None:
        checks.instance("queue", queue, Queue, "a Queue")
        if not checks.text("bus_name", bus_name).isidentifier() or bus_name.startswith("_"):
            raise ConfigurationError(
                f"bus_name={checks.shown(bus_name)}: should be an identifier, such as queue_max"
            )
        if max_history_size is not None:
            checks.whole("max_history_size", max_history_size, at_least=1)
        self._queue = queue
        self._name = bus_name
        self._wal_path = None if wal_path is None else checks.path("wal_path", wal_path)
        self._max_history_size = max_history_size
        self._handlers: list[tuple[list[type[QueueEvent]], _Handler]] = []
        self._names: Counter[str] = Counter()
        self._expected: set[Future[Any]] = set()
        self._lock = forking.lock()
        self._is_closed = False
        self._begin()
        forking.in_child(self._begin_anew)
        atexit.register(self.close)
        self._callbacks = {name: partial(self._take, kind) for name, kind in TYPES.items()}
        for name, callback in self._callbacks.items():
            queue.on(name, callback)

    @overload
    def on(self, event_type: type[QueueEvent] | str) -> Callable[[H], H]: ...

    @overload
    def on(self, event_type: type[QueueEvent] | str, handler: H) -> H: ...

    def on(self, event_type: type[QueueEvent] | str, handler: H | None = None) -> Any:
        """Call a handler with each event of a type, or decorate one.

        In place of a type, its name or that of the event, or a pattern: "job_*", or "*" for all.
        """
        kinds = kinds_of(event_type)
        if handler is None:
            return partial(self.on, event_type)
        checks.function("handler", handler)
        self._subscribe(kinds, handler)
        return handler

    @overload
    def expect(
        self,
        event_type: type[E],
        *,
        timeout: float | None = None,
        predicate: Callable[[E], object] | None = None,
    ) -> E: ...

    @overload
    def expect(
        self,
        event_type: str,
        *,
        timeout: float | None = None,
        predicate: Callable[[Any], object] | None = None,
    ) -> QueueEvent: ...

    def expect(
        self,
        event_type: type[QueueEvent] | str,
        *,
        timeout: float | None = None,
        predicate: Callable[[Any], object] | None = None,
    ) -> QueueEvent:
        """Wait for the next event of a type that fulfils the predicate; blocks this thread.

        Raises TimeoutError after `timeout` seconds (None: never), and QueueError when the bus is
        closed meanwhile, or when a handler asks: it would wait for itself.
        """
        kinds = kinds_of(event_type)
        if timeout is not None:
            checks.seconds("timeout", timeout, zero=True)
        found: Future[QueueEvent] = Future()

        def expect(event: QueueEvent) -> None:
            _look(found, predicate, event)

        with self._lock:
            if self._is_closed or self._is_own_thread():
                raise QueueError("an event was expected of a closed bus, or by one of its handlers")
            self._expected.add(found)
        handler = self._subscribe(kinds, expect)
        try:
            return found.result(timeout)
        except TimeoutError:
            raise TimeoutError(f"no event {checks.shown(event_type)} within {timeout} s") from None
        finally:
            self._unsubscribe(kinds, handler)
            self._expected.discard(found)

    def get_metrics(self) -> dict[str, Any]:
        """Tell how many events there were, in all and by type, and how many handlers failed.

        `total_dropped` counts those that were not handled, as 10,000 were waiting.
        """
        with self._lock:
            return {
                "total_dispatched": self._by_type.total(),
                "total_errors": self._errors,
                "total_dropped": self._dropped,
                "by_type": dict(self._by_type),
                "last_event_time": self._last and to_text(self._last),
            }

    def log_tree(self) -> str:
        """Draw the latest events, their handlers, and the events these have caused.

        The bus logs it, too.
        """
        delivery = self._delivery
        if delivery is None or not delivery.is_alive or self._is_own_thread():
            return self._bus.log_tree()
        return delivery.ask(self._bus.log_tree)

    def close(self, timeout: float | None = CLOSING) -> None:
        """Take no more events, and have those handled that came before; harmless when done twice.

        After `timeout` seconds (None: never) handlers that still run are cancelled.
        """
        for name, callback in self._callbacks.items():
            self._queue.off(name, callback)
        with self._lock:
            self._is_closed = True
        if self._delivery is not None:
            self._delivery.stop(timeout)
        for future in list(self._expected):
            with suppress(InvalidStateError):
                future.set_exception(QueueError("the bus was closed before the event came"))
        EventBus.all_instances.discard(self._bus)
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _begin_anew(self) -> None:
        """Go on without the thread of the parent, in a child of fork."""
        EventBus.all_instances.discard(self._bus)
        _left_by_parents.append((self._bus, self._delivery))
        self._begin()

    def _begin(self) -> None:
        """Be ready; the thread comes with the first event."""
        self._bus = EventBus(name=_free_name(self._name), max_history_size=self._max_history_size)
        for kinds, handler in self._handlers:
            for kind in kinds:
                self._bus.on(kind, handler)
        self._delivery: Delivery | None = None
        self._by_type: Counter[str] = Counter()
        self._errors = self._dropped = 0
        self._last: datetime | None = None

    def _take(self, kind: type[QueueEvent], **facts: Any) -> None:
        """Take in what the queue publishes, in any thread, to be handled soon."""
        if "type" in facts:  # which pydantic's users would take for that of the event
            facts["alert_type"] = facts.pop("type")
        caused_by, root = _cause.get() or (None, None)
        facts["event_parent_id"] = root if caused_by is self else None
        facts["event_created_at"] = now = datetime.now(UTC)
        with self._lock:
            if self._is_closed:
                return
            if self._delivery is None:
                self._delivery = Delivery(self._bus, self._wal_path)
            if not self._delivery.take(partial(kind, **facts)):
                self._dropped += 1
                return
            self._by_type[kind.__name__] += 1
            self._last = now

    def _subscribe(self, kinds: list[type[QueueEvent]], handler: Callable[..., object]) -> _Handler:
        """Have a handler called, under a name that no other has: bubus warns of that."""
        name = getattr(handler, "__name__", type(handler).__name__)
        self._names[name] += 1

        async def handle(event: QueueEvent) -> None:
            await self._handle(handler, event)

        handle.__name__ = name if self._names[name] == 1 else f"{name}_{self._names[name]}"
        handle.__module__ = getattr(handler, "__module__", None) or __name__
        self._handlers.append((kinds, handle))
        for kind in kinds:
            self._bus.on(kind, handle)
        return handle

    def _unsubscribe(self, kinds: list[type[QueueEvent]], handler: _Handler) -> None:
        self._handlers.remove((kinds, handler))
        for kind in kinds:
            self._bus.handlers[kind.__name__].remove(handler)

    async def _handle(self, handler: Callable[..., object], event: QueueEvent) -> None:
        # Not its own id: bubus refuses handlers that are called for the effects of their effects.
        _cause.set((self, event.event_parent_id or event.event_id))
        try:
            answer = handler(event)
            if inspect.isawaitable(answer):
                await answer
        except BaseException as error:
            self._errors += 1
            if not isinstance(error, asyncio.CancelledError):
                # bubus is silent on errors that have a cause.
                logger.exception("a handler for %s failed", event.event_type)
            if isinstance(error, Exception | asyncio.CancelledError):
                raise
            # Even SystemExit must not end the thread.
            raise RuntimeError(f"the handler raised {type(error).__name__}") from error

    def _is_own_thread(self) -> bool:
        return self._delivery is not None and self._delivery.is_current


# An event loop that is collected without having been closed warns of that.
_left_by_parents: list[object] = []


def _look(
    found: Future[QueueEvent], predicate: Callable[[Any], object] | None, event: QueueEvent
) -> None:
    """Give an event to whoever expects it, or the error of the predicate."""
    with suppress(InvalidStateError):  # it has been found, or is waited for no more
        try:
            if predicate is None or predicate(event):
                found.set_result(event)
        except InvalidStateError:
            raise
        except Exception as error:
            found.set_exception(error)


def _free_name(name: str) -> str:
    """Give a name that no other bus has: bubus warns of that."""
    taken = {bus.name for bus in list(EventBus.all_instances)}
    numbered = (f"{name}_{number}" for number in count(2))
    return next(each for each in chain([name], numbered) if each not in taken)
