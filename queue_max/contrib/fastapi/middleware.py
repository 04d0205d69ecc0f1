"""`QueueMiddleware`: a queue and its workers for an app that has a lifespan of its own, or none."""

import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from queue_max.contrib.fastapi.errors import response_to
from queue_max.contrib.fastapi.hosting import STOP_TIMEOUT, Hosting, QueueSource
from queue_max.exceptions import QueueError, ShardError
from queue_max.queue import Queue
from queue_max.workers.base import Queues
from queue_max.workers.repertoire import ProcessFunction

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_STARTUP, _SHUTDOWN = "lifespan.startup", "lifespan.shutdown"


class QueueMiddleware:
    """Opens a queue when an app starts, runs `max_workers` workers, and drains them when it ends.

    `app.add_middleware(QueueMiddleware, max_workers=4)`. Each process of a server has workers of
    its own; with 0 the app only enqueues, and `queue-max worker` runs what it enqueued. They give
    jobs to `process_function`, or to the tasks that this process has imported. The further
    arguments are those of `queue_lifespan`.

    The queue is in `request.state.queue`, and in `app.state.queue` while the app runs. A request
    that ends with a ShardError is answered with 503, unless the app has a handler for it.
    """

    def __init__(  # noqa: PLR0913 - four of them are the contract's
        self,
        app: App,
        queue: QueueSource = None,
        max_workers: int = 2,
        process_function: ProcessFunction | None = None,
        *,
        concurrency: int | None = None,
        queues: Queues | None = None,
        stop_timeout: float | None = STOP_TIMEOUT,
    ) -> None:
        self.app = app
        self._hosting = Hosting(
            queue,
            max_workers,
            process_function,
            concurrency=concurrency,
            queues=queues,
            stop_timeout=stop_timeout,
        )
        self._queue: Queue | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the life of the app, or a request."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        if self._queue is not None:
            scope.setdefault("state", {})["queue"] = self._queue
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open the queue before the app starts; close it when the app has ended."""
        hosting, startup = self._hosting.afresh(), await receive()
        try:
            self._queue = await hosting.open(scope.get("app"))
            if "state" in scope:
                scope["state"]["queue"] = self._queue
            await self.app(scope, _hearing(hosting, startup, receive), _telling(hosting, send))
        except Exception as error:
            if self._queue is None:
                await send({"type": f"{_STARTUP}.failed", "message": _words(error)})
            raise
        finally:
            self._queue = None
            await hosting.close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, with 503 where the queue is at fault and nothing was sent yet."""
        has_begun = False

        async def note(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self.app(scope, receive, note)
        except ShardError as error:
            response = None if has_begun else response_to(error)
            if response is None:
                raise
            await response(scope, receive, send)


def _hearing(hosting: Hosting, startup: Message, receive: Receive) -> Receive:
    """Give what the app hears: first the message that we took, and of its end when jobs ended."""
    taken = [startup]

    async def hear() -> Message:
        message = taken.pop() if taken else await receive()
        if message["type"] == _SHUTDOWN:
            await hosting.stop()
        return message

    return hear


def _telling(hosting: Hosting, send: Send) -> Send:
    """Give what the app speaks to: the server hears it when workers have begun, or have ended."""

    async def tell(message: Message) -> None:
        if message["type"] == f"{_STARTUP}.complete":
            await hosting.start()
        else:  # for the server may leave at once when it hears this
            await hosting.close()
        await send(message)

    return tell


def _words(error: Exception) -> str:
    """Tell an error; the way to it only where nobody expected it."""
    if isinstance(error, QueueError):
        return f"the queue cannot be opened: {error}"
    return "".join(traceback.format_exception(error))
