"""`queue_lifespan`: a queue for as long as an app runs, and workers within its process."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from queue_max.contrib.fastapi.hosting import STOP_TIMEOUT, Hosting, QueueSource
from queue_max.workers.base import Queues
from queue_max.workers.repertoire import ProcessFunction

Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]


def queue_lifespan(  # noqa: PLR0913 - what there is to say of it
    queue: QueueSource = None,
    *,
    workers: int = 0,
    process_function: ProcessFunction | None = None,
    concurrency: int | None = None,
    queues: Queues | None = None,
    stop_timeout: float | None = STOP_TIMEOUT,
    lifespan: Lifespan | None = None,
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Any]]]:
    """Make a lifespan for `FastAPI(lifespan=...)`, Starlette, or an APIRouter.

    - `queue`: a Queue, which stays open; a function that opens one, which is closed in the end;
      None for the default queue of tasks, or one by the settings where there is none. It is in
      `request.state.queue` and `app.state.queue`, and tasks without a queue use it, unless the
      program has set another default.
    - `workers`: so many run jobs in this process, and in each other process of the server; `queues`
      and `process_function` as for `Worker`. With `concurrency`, each is an AsyncWorker, with a
      loop of its own. When the app ends they take no further job; what runs has `stop_timeout`
      seconds (None: as long as it likes), and then goes back to the queue.
    - `lifespan`: another one, of the app's own. It finds the queue open, begins before workers do,
      and ends when they have ended; its state is kept beside ours.
    """
    hosting = Hosting(
        queue,
        workers,
        process_function,
        concurrency=concurrency,
        queues=queues,
        stop_timeout=stop_timeout,
    )

    @asynccontextmanager
    async def running(app: Any) -> AsyncIterator[dict[str, Any]]:
        async with _open(hosting.afresh(), app, lifespan) as state:
            yield state

    return running


@asynccontextmanager
async def _open(
    hosting: Hosting, app: Any, lifespan: Lifespan | None
) -> AsyncIterator[dict[str, Any]]:
    try:
        queue = await hosting.open(app)
        async with (lifespan or _nothing_else)(app) as state:
            try:
                await hosting.start()
                yield {"queue": queue, **(state or {})}
            finally:
                await hosting.stop()
    finally:
        await hosting.close()


@asynccontextmanager
async def _nothing_else(_app: Any) -> AsyncIterator[None]:
    yield
