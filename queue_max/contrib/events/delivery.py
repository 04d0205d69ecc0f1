"""The thread on which the handlers of a bus are called."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bubus import EventBus

from queue_max.contrib.events.types import QueueEvent

logger = logging.getLogger(__name__)

ROOM = 10_000
"""Events that may wait for their handlers; what comes beyond is dropped."""

LAST_WORDS = 1.0
"""Seconds that handlers have to end in which were given up."""


class Delivery:
    """The thread, and the event loop on which bubus calls the handlers."""

    def __init__(self, bus: EventBus, wal_path: Path | None) -> None:
        self._bus = bus
        self._wal_path = wal_path
        self._waiting: deque[Callable[[], QueueEvent]] = deque()
        self._is_ending = False
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="queue-max-events", daemon=True)
        self._thread.start()
        self._is_ready.wait()

    @property
    def is_alive(self) -> bool:
        """Whether handlers may still be called."""
        return self._thread.is_alive()

    @property
    def is_current(self) -> bool:
        """Whether it is the calling thread."""
        return threading.current_thread() is self._thread

    def take(self, make: Callable[[], QueueEvent]) -> bool:
        """Have an event handled soon; False where too many wait."""
        if len(self._waiting) >= ROOM:
            return False
        self._waiting.append(make)
        self._wake()
        return True

    def ask(self, question: Callable[[], str]) -> str:
        """Call that on the loop, for what nobody is to change meanwhile."""

        async def answer() -> str:
            return question()

        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result()

    def stop(self, timeout: float | None) -> None:
        """End when all was handled; after `timeout` seconds, whatever handlers do."""
        self._is_ending = True
        self._wake()
        if self.is_current:
            return
        self._thread.join(timeout)
        if self.is_alive:
            logger.error("%s event(s) were not handled in time", len(self._waiting) + 1)
            with suppress(RuntimeError):  # it has ended just now
                self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join(LAST_WORDS)

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: the thread has ended
            self._loop.call_soon_threadsafe(self._has_work.set)

    def _run(self) -> None:
        with suppress(asyncio.CancelledError):
            asyncio.run(self._deliver())

    async def _deliver(self) -> None:
        self._loop, self._has_work = asyncio.get_running_loop(), asyncio.Event()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker
        self._task = task
        self._is_ready.set()
        while self._waiting or not self._is_ending:
            if self._waiting:
                await self._handle(self._waiting.popleft())
            else:
                self._has_work.clear()
                if not self._waiting and not self._is_ending:
                    await self._has_work.wait()
        await self._bus.stop()

    async def _handle(self, make: Callable[[], QueueEvent]) -> None:
        """Give one event to bubus, which takes only so many at once, and wait for its handlers."""
        try:
            event = await self._bus.dispatch(make())
            if self._wal_path is not None:
                # bubus would do so in threads that keep a program from its end.
                _append(self._wal_path, event.model_dump_json())
        except Exception:
            logger.exception("an event could not be handled, or not be written down")


def _append(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
